//! L8: a connection that is opened and closed again and again leaves no descriptors behind. SQLite
//! keeps some of them for the next connection while another one is open; their number is bounded.
//!
//! Alone in its file, because it counts the descriptors of the whole process.

mod common;

use common::Place;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_and_go_leave_no_descriptors_behind() {
    let place = Place::new();
    let _stays = place.open().await;
    let before = descriptors();
    let mut most = 0;
    for round in 0..300_u32 {
        drop(place.open().await);
        // Given up in the middle, after another moment each time.
        let giving_up = std::time::Duration::from_micros(u64::from(round % 20) * 100);
        drop(tokio::time::timeout(giving_up, place.open()).await);
        most = most.max(descriptors());
    }
    assert!(
        most <= before + 50,
        "600 connections have come and gone, and there were up to {most} descriptors"
    );
}
