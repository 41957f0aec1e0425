//! A heartbeat against one reading of the boot clock, in the same run.

use criterion::{Criterion, criterion_group, criterion_main};
use distributed_locker::{AcquireOptions, Locker, memory};
use nix::time::{ClockId, clock_gettime};
use std::hint::black_box;

fn heartbeat(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let (_locker, guard) = runtime.block_on(async {
        let locker = Locker::builder(memory()).start().await.expect("it starts");
        let acquired = locker
            .acquire("bench", AcquireOptions::new())
            .await
            .expect("granted");
        let guard = acquired.guard().expect("granted");
        (locker, guard)
    });
    let job = guard.heartbeater();
    let mut group = criterion.benchmark_group("heartbeat");
    group.bench_function("one reading of the boot clock", |bencher| {
        bencher.iter(|| black_box(clock_gettime(ClockId::CLOCK_BOOTTIME)));
    });
    group.bench_function("one heartbeat", |bencher| {
        bencher.iter(|| black_box(job.heartbeat()).expect("the lock is held"));
    });
    group.bench_function("one validity check", |bencher| {
        bencher.iter(|| black_box(guard.is_valid()));
    });
    group.finish();
}

criterion_group!(benches, heartbeat);
criterion_main!(benches);
