//! L8: what a locker needs does not grow, over cycles of acquire, release, wait, drop and cancel.
//!
//! A clone runs a short version. The full numbers, a million cycles on memory and 200,000 on the
//! embedded store, are asked for by
//!
//! ```console
//! LOCKER_FLAT=full cargo test --release -p locker-testkit --all-features --test flat
//! ```

use distributed_locker::{Connect, Memory, connect};
use locker_testkit::soak::{cycles, flat};
use std::sync::Arc;

#[allow(clippy::print_stdout, reason = "the figures are what one runs it for")]
async fn is_flat(store: [Arc<dyn Connect>; 2], cycles: u64) {
    let report = flat(store, cycles, || ()).await.expect("they start");
    println!("{report}");
    assert_eq!(report.cycles, cycles);
    assert_eq!(report.errors, 0, "a healthy store refuses nothing");
    assert_eq!(report.findings(), Vec::<String>::new());
}

// One after the other: both count the threads and descriptors of the whole process.
#[test]
fn nothing_grows_over_many_cycles() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let clock = Arc::new(distributed_locker::BootClock::new());
        let memory: Arc<dyn Connect> = Arc::new(Memory::new(clock));
        is_flat([Arc::clone(&memory), memory], cycles(20_000, 1_000_000)).await;
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("locks.db").display());
        let store = [connect(&url).expect("a URL"), connect(&url).expect("a URL")];
        is_flat(store, cycles(4_000, 200_000)).await;
    });
}
