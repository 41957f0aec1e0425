//! What the operating system refuses is told as what it is. Limits are those of the whole process, so
//! these tests have a program of their own.

#![allow(clippy::unwrap_used, reason = "a test")]

use distributed_locker::{
    AcquireError, AcquireOptions, Acquired, Event, Locker, OnLost, StartError, memory,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs this under a limit, which it gets as a handle, and lifts it again.
fn limited<F: Future<Output = ()>>(resource: Resource, test: impl FnOnce(Limit) -> F) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (soft, hard) = getrlimit(resource).unwrap();
    let limit = Limit(resource, soft, hard);
    runtime.block_on(test(limit));
}

struct Limit(Resource, u64, u64);

impl Limit {
    fn set(&self, limit: u64) {
        setrlimit(self.0, limit, self.2).unwrap();
    }

    fn lift(&self) {
        self.set(self.1);
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.lift();
    }
}

/// S12: without its timer the promise is empty, so the lock is not given; and the next one may be.
#[test]
fn a_refused_timer_of_abort_is_told_as_that() {
    limited(Resource::RLIMIT_SIGPENDING, async |limit| {
        let locker = Locker::builder(memory()).start().await.unwrap();
        let mut events = locker.events();
        let options = AcquireOptions::new().on_lost(OnLost::Abort);
        limit.set(0);
        let refused = locker.acquire("k", options.clone()).await.unwrap_err();
        assert!(
            matches!(&refused, AcquireError::AbortUnavailable(error) if error.raw_os_error().is_some()),
            "{refused:?}"
        );
        let patience = Duration::from_secs(5);
        let event = tokio::time::timeout(patience, events.next()).await.unwrap();
        assert!(matches!(event, Some(Event::AbortRefused(_))), "{event:?}");
        limit.lift();
        let granted = async {
            loop {
                // The refused one is on its way back.
                let acquired = locker.acquire("k", options.clone()).await.unwrap();
                if let Acquired::Guard(guard) = acquired {
                    return guard;
                }
            }
        };
        let granted = tokio::time::timeout(patience, granted).await.unwrap();
        assert!(granted.is_valid());
        granted.release().await.unwrap();
        locker.terminate(patience).await.unwrap();
    });
}

/// How many are open here, when the threads that the test before has ended have closed theirs.
fn descriptors() -> u64 {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    loop {
        let before = count();
        std::thread::sleep(Duration::from_millis(50));
        if count() == before {
            return before;
        }
    }
}

/// Whatever descriptor is missing, the start fails, and says that it was the system's word.
#[test]
fn a_refused_descriptor_of_the_reporter_is_told_at_the_start() {
    limited(Resource::RLIMIT_NOFILE, async |limit| {
        let mut refused = 0;
        let open = descriptors();
        for descriptors in 0.. {
            limit.set(open + descriptors);
            let started = Locker::builder(memory()).start().await;
            limit.lift();
            match started {
                Ok(locker) => {
                    locker.terminate(Duration::from_secs(5)).await.unwrap();
                    break;
                }
                Err(StartError::System(error)) => {
                    refused += 1;
                    assert!(error.raw_os_error().is_some(), "{error:?}");
                }
                Err(error) => panic!("{descriptors} descriptors: {error:?}"),
            }
        }
        // A runtime has two or three, and every loop that waits by the clock its own.
        assert!(refused > 4, "{refused}");
    });
}
