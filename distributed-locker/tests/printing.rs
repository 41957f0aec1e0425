//! What is printed of a locker is its own, and holds up nobody.

#![allow(clippy::unwrap_used, reason = "a test")]

use distributed_locker::{AcquireOptions, Locker, memory};
use std::fmt::{self, Debug, Write};
use std::sync::mpsc;
use std::time::Duration;

/// A writer during each of whose writes somebody else looks at the locks of the process.
struct Looking(Locker);

impl Write for Looking {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        let (looked, seen) = mpsc::channel();
        let locker = self.0.clone();
        let looking = std::thread::spawn(move || looked.send(locker.keys().len()));
        let keys = seen.recv_timeout(Duration::from_secs(10));
        assert_eq!(keys, Ok(2), "printing holds what the Reporter needs");
        looking.join().unwrap().unwrap();
        Ok(())
    }
}

/// L5: a pipe that nobody reads stops who prints, and not the reports of the process.
#[tokio::test]
async fn printing_holds_nothing_that_others_need_and_shows_no_other_lock() {
    let locker = Locker::builder(memory()).start().await.unwrap();
    let _other = locker.try_acquire("theirs").await.unwrap().unwrap();
    let acquired = locker.acquire("ours", AcquireOptions::new()).await.unwrap();
    let standby = locker.standby("next", AcquireOptions::new()).unwrap();
    let printed: [&dyn Debug; 3] = [&acquired, &standby, &locker];
    for one in printed {
        write!(Looking(locker.clone()), "{one:?}").unwrap();
        assert!(!format!("{one:?}").contains("theirs"), "{one:?}");
    }
    assert!(format!("{acquired:?}").contains("ours"), "{acquired:?}");
}

/// S12: a lead that is longer than the warning would end a process whose job is well.
#[tokio::test]
async fn a_lead_that_kills_before_the_job_is_told_is_refused() {
    use distributed_locker::{AcquireError, OnLost};
    let locker = Locker::builder(memory()).start().await.unwrap();
    let options = AcquireOptions::new().on_lost(OnLost::Abort);
    let longest = locker.timing().stop_budget;
    let too_long = longest + Duration::from_nanos(1);
    let refused = locker.acquire("k", options.clone().abort_lead(too_long));
    let refused = refused.await.unwrap_err();
    let invalid = matches!(refused, AcquireError::InvalidOptions(_));
    assert!(invalid, "{refused:?}");
    let granted = locker.acquire("k", options.abort_lead(longest)).await;
    assert!(granted.unwrap().guard().is_some());
}
