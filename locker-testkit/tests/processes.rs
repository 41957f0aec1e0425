//! What only real processes can show: they are killed, stopped and forked, on the embedded store.
//!
//! All processes of a machine share the boot clock, so the times that a worker writes and the ones
//! that a test takes can be compared.

use distributed_locker::{
    AcquireOptions, BootClock, Clock, HeartbeatPolicy, LockGuard, Locker, Timing, Token, Wait,
    connect,
};
use locker_testkit::scaled;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const T: Duration = Duration::from_millis(1000);
/// By when `OnLost::Abort` has ended a process: twice the promise. That nobody has owned before its end is
/// seen at the process, and without the timer it is there for ever, or for 20 T.
const ENDED_WITHIN: Duration = Duration::from_millis(2000);

/// A worker process; killed when dropped.
struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(scenario: &str, store: &Store) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_locker-worker"))
            .args([scenario, &store.url(), &T.as_millis().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Waits for a line that begins like this; answers when it was written, and its rest.
    fn wait_for(&mut self, beginning: &str) -> (Duration, String) {
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            let (micros, what) = line.split_once(' ').expect("a time and a text");
            if let Some(rest) = what.strip_prefix(beginning) {
                return (
                    Duration::from_micros(micros.parse().expect("microseconds")),
                    rest.trim().to_owned(),
                );
            }
            assert!(!what.starts_with("failed"), "{what}");
        }
        panic!("the worker ended without saying {beginning:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("the worker is there");
    }

    /// Waits for its end; answers when that was.
    fn ended(mut self) -> (ExitStatus, Duration) {
        let status = self.child.wait().expect("it is our child");
        (status, now())
    }

    /// Whether it executes nothing any more, by the word of the kernel: it is killed, or on its way out.
    /// Nobody has waited for its end yet.
    fn is_killed(&self) -> bool {
        /// Of the flags of a process: it is on its way out. Kernels before 5.16 tell its exit code later.
        const EXITING: u32 = 4;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("it is our child");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let flags: u32 = fields[6].parse().expect("a number");
        let code: i32 = fields[fields.len() - 1].parse().expect("a number");
        code == Signal::SIGKILL as i32 || flags & EXITING != 0
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now() -> Duration {
    Duration::from_nanos(BootClock::new().now().as_nanos())
}

struct Store(TempDir);

impl Store {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.0.path().join("locks.db").display())
    }

    async fn locker(&self) -> Locker {
        let timing = Timing {
            lock_ttl: T * 30,
            ..scaled(T)
        };
        let store = connect(&self.url()).expect("a URL");
        Locker::builder(store)
            .timing(timing)
            .start()
            .await
            .expect("it starts")
    }
}

async fn take(locker: &Locker) -> (LockGuard, Duration) {
    let options = AcquireOptions::new()
        .wait(Wait::Forever)
        .heartbeat(HeartbeatPolicy::Automatic);
    let guard = locker
        .acquire("k", options)
        .await
        .expect("granted")
        .guard()
        .expect("granted");
    (guard, now())
}

/// F06: the user's runtime is blocked for 3 T, and the lock stays held.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_runtime_keeps_its_lock() {
    let store = Store::new();
    let locker = store.locker().await;
    let mut worker = Worker::start("blocked", &store);
    let (_, first) = worker.wait_for("acquired");
    let taking = tokio::spawn(async move { take(&locker).await });
    let ((releasing, _), valid) = tokio::task::spawn_blocking(move || {
        let (_, valid) = worker.wait_for("valid");
        let releasing = worker.wait_for("releasing");
        worker.wait_for("released");
        (releasing, valid)
    })
    .await
    .unwrap();
    assert_eq!(valid, "");
    let (guard, taken) = taking.await.unwrap();
    assert!(guard.token() > first.parse::<Token>().unwrap());
    assert!(taken > releasing, "taken before it was released");
}

/// F01, L2: on the embedded store the kernel tells at once. Every repetition is printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_is_replaced_at_once() {
    let mut all = Vec::new();
    for _ in 0..5 {
        let store = Store::new();
        let locker = store.locker().await;
        let mut worker = Worker::start("hold", &store);
        worker.wait_for("acquired");
        let taking = tokio::spawn(async move { take(&locker).await });
        tokio::time::sleep(T / 2).await;
        let killed = now();
        worker.signal(Signal::SIGKILL);
        let (guard, taken) = taking.await.unwrap();
        assert!(guard.is_valid());
        all.push(taken.saturating_sub(killed));
    }
    println!("taken over after kill -9: {all:?}");
    assert!(
        all.iter().all(|took| *took <= Duration::from_millis(400)),
        "promised: 200 ms"
    );
}

/// S12, attack 11: Reporter and job stand still, and the process ends before anybody can own.
#[tokio::test(flavor = "multi_thread")]
async fn abort_ends_a_process_in_which_everything_stands_still() {
    let store = Store::new();
    let locker = store.locker().await;
    let mut worker = Worker::start("abort-stalled", &store);
    let (stalled, _) = worker.wait_for("stalled");
    let ended = ends_before_it_is_replaced(worker, &locker).await;
    let took = ended.saturating_sub(stalled);
    assert!(took < ENDED_WITHIN, "after {took:?}");
}

/// S12, attack 12 a: the timer of the kernel needs no running thread.
#[tokio::test(flavor = "multi_thread")]
async fn abort_ends_a_stopped_process() {
    let store = Store::new();
    let locker = store.locker().await;
    let mut worker = Worker::start("abort-stalled", &store);
    worker.wait_for("acquired");
    let stopped = now();
    worker.signal(Signal::SIGSTOP);
    let ended = ends_before_it_is_replaced(worker, &locker).await;
    let took = ended.saturating_sub(stopped);
    assert!(took < ENDED_WITHIN, "after {took:?}");
}

/// The kernel ends the worker, and its lock is granted to another one only then. Answers when it was gone.
async fn ends_before_it_is_replaced(worker: Worker, locker: &Locker) -> Duration {
    let (_guard, _) = take(locker).await;
    assert!(worker.is_killed(), "taken over while the owner lived");
    let ended = tokio::task::spawn_blocking(move || worker.ended());
    let (status, ended) = ended.await.expect("it ends");
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status:?}");
    ended
}

/// The kernel timer belongs to nobody who can hang: it is disarmed with the last lock, whatever the
/// Reporter is doing.
#[tokio::test(flavor = "multi_thread")]
async fn abort_spares_a_process_that_has_given_its_lock_back() {
    let store = Store::new();
    let mut worker = Worker::start("abort-released", &store);
    let status = tokio::task::spawn_blocking(move || {
        worker.wait_for("survived");
        worker.ended().0
    });
    assert_eq!(status.await.unwrap().code(), Some(0));
}

/// The other side of S12: as long as reports are confirmed nobody is ended.
#[tokio::test(flavor = "multi_thread")]
async fn abort_spares_a_blocked_process_whose_reporter_works() {
    let store = Store::new();
    let mut worker = Worker::start("abort-blocked", &store);
    let (status, valid) = tokio::task::spawn_blocking(move || {
        let (_, valid) = worker.wait_for("valid");
        worker.wait_for("survived");
        (worker.ended().0, valid)
    })
    .await
    .unwrap();
    assert_eq!((status.code(), valid.as_str()), (Some(0), ""));
}

/// A beat moves the limit of the beat at once, and the kernel is not told of every beat.
#[test]
fn abort_spares_a_process_that_beats_late_and_in_time() {
    let store = Store::new();
    let mut worker = Worker::start("abort-beats", &store);
    worker.wait_for("survived");
}

/// The timer follows what is held: a release that is noticed halfway is no loss, and ends nobody.
#[test]
fn abort_spares_a_process_whose_locks_come_and_go() {
    let store = Store::new();
    let mut worker = Worker::start("abort-churn", &store);
    worker.wait_for("survived");
}

/// F04: a stopped owner is taken over, and finds out before its next step.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_owner_is_replaced_and_stops_when_it_goes_on() {
    let store = Store::new();
    let locker = store.locker().await;
    let mut worker = Worker::start("hold", &store);
    worker.wait_for("acquired");
    worker.signal(Signal::SIGSTOP);
    let stopped = now();
    let (guard, taken) = take(&locker).await;
    let took = taken.saturating_sub(stopped);
    // The kernel still holds its liveness byte: the record alone decides.
    assert!(
        took <= T + T / 5 + Duration::from_millis(500),
        "taken over after {took:?}"
    );
    worker.signal(Signal::SIGCONT);
    let (_, loss) = worker.wait_for("lost");
    assert!(loss.contains("lost"), "{loss}");
    assert!(guard.is_valid());
}

/// S8, F26: whatever the child asks for is refused at once, and its parent notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_forked_child_cannot_use_its_parents_guard() {
    let store = Store::new();
    let mut worker = Worker::start("fork", &store);
    let (child, valid) = tokio::task::spawn_blocking(move || {
        let (_, child) = worker.wait_for("child");
        let (_, valid) = worker.wait_for("valid");
        worker.wait_for("released");
        (child, valid)
    })
    .await
    .unwrap();
    assert_eq!(child, "[]", "not refused");
    assert_eq!(valid, "", "the parent's guard is as good as before");
}

/// S9: a job that forks ends twice, and each of its values reaches the caller in its own process.
#[test]
fn a_job_that_forks_loses_neither_of_its_values() {
    let store = Store::new();
    let mut worker = Worker::start("fork-run", &store);
    let mut ran = [worker.wait_for("ran").1, worker.wait_for("ran").1];
    ran.sort();
    assert_eq!(ran, ["completed parent", "forked child"]);
    assert!(worker.ended().0.success());
}

/// F02, L3, hazard PG-8: everything is free at once after SIGTERM.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_releases_everything() {
    let store = Store::new();
    let locker = store.locker().await;
    let mut worker = Worker::start("signals", &store);
    worker.wait_for("ready");
    let taking = tokio::spawn(async move { take(&locker).await });
    tokio::time::sleep(T / 2).await;
    let sent = now();
    worker.signal(Signal::SIGTERM);
    let (_guard, taken) = taking.await.unwrap();
    let took = taken.saturating_sub(sent);
    println!("free after SIGTERM: {took:?}");
    assert!(
        took <= Duration::from_millis(200),
        "promised: 100 ms; took {took:?}"
    );
    let status = tokio::task::spawn_blocking(move || {
        worker.wait_for("ended");
        worker.ended().0
    });
    assert!(
        status.await.unwrap().success(),
        "the process ends by itself"
    );
}

/// Attack 10 c: a process that ends without a word frees its locks all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_without_a_word_frees_its_locks() {
    let store = Store::new();
    let locker = store.locker().await;
    let mut worker = Worker::start("forget", &store);
    worker.wait_for("acquired");
    let (status, ended) = tokio::task::spawn_blocking(move || worker.ended())
        .await
        .unwrap();
    assert!(status.success());
    let (_guard, taken) = take(&locker).await;
    let took = taken.saturating_sub(ended);
    assert!(took <= Duration::from_millis(400), "free after {took:?}");
}
