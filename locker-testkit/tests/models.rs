//! The model of the embedded store answers as the memory store does, through every layer that the
//! simulation puts around it. Each store's crate compares its own model.

use locker_testkit::honesty::compare;
use locker_testkit::memory::MemoryFixture;
use locker_testkit::sim::Kind;

#[tokio::test]
async fn the_model_of_the_embedded_store_answers_as_the_memory_store_does() {
    let compared = compare::<MemoryFixture>(Kind::Embedded, 600, 60).await;
    println!("{compared:?}");
    assert!(compared.values().all(|count| *count > 100), "{compared:?}");
}
