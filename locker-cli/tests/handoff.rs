//! How fast a lock goes from one `locker run` to the next, and never too early, on every store.
//!
//! `cargo test --test handoff -- --nocapture` prints every repetition. The slowest one counts; a
//! test fails above twice the promise. A repetition that took longer on a machine without an idle
//! processor, or whose disk alone took as long as is promised, shows nothing about the locker, and is
//! repeated; as many may be as count.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that prints figures"
)]

mod common;

use common::{Home, Running, await_that, lives};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const REPETITIONS: usize = 20;

/// How many writes to the disk a hand-over may wait for, one after another: a release, a grant, and the
/// processes' own records.
const WRITES: u32 = 4;

/// A store, and how soon it must notice that a wrapper is dead.
struct Place {
    home: fn() -> Home,
    /// T in seconds, as `--liveness-ttl` takes it.
    ttl: &'static str,
    after_kill_9: Duration,
    /// How many deaths are waited for at a time: where a record has to run out, that is all they do.
    deaths_at_once: usize,
}

/// The default T of 10 s; the kernel tells who is dead.
const EMBEDDED: Place = Place {
    home: Home::new,
    ttl: "10",
    after_kill_9: Duration::from_millis(200),
    deaths_at_once: 1,
};

/// T of 5 s, so H is 1 s; the record of a dead process runs out.
#[cfg(feature = "redis")]
const REDIS: Place = Place {
    home: Home::redis,
    ttl: "5",
    after_kill_9: Duration::from_millis(5000 + 1000 + 500),
    deaths_at_once: 5,
};

/// The same T on Postgres, judged by the row alone.
#[cfg(feature = "postgres")]
const POSTGRES: Place = Place {
    home: Home::postgres,
    ttl: "5",
    after_kill_9: Duration::from_millis(5000 + 1000 + 500),
    deaths_at_once: 5,
};

/// The same T on etcd, whose leases are whole seconds.
#[cfg(feature = "etcd")]
const ETCD: Place = Place {
    home: Home::etcd,
    ttl: "5",
    after_kill_9: Duration::from_millis(5000 + 1000 + 500),
    deaths_at_once: 5,
};

impl Place {
    fn run(&self, home: &Home, options: &[&str], script: &str) -> Running {
        let options = [&["--liveness-ttl", self.ttl], options].concat();
        home.script(&options, script)
    }

    /// A second one, which has a keeper, is born in the store, and waits.
    fn wait_for_the_lock(&self, home: &Home, script: &str) -> Running {
        let waiter = self.run(home, &["-w", "60"], script);
        await_that("a waiter", || {
            home.run(&["ps"])
                .stdout
                .contains(&format!("/{}.", waiter.pid()))
        });
        std::thread::sleep(Duration::from_millis(50));
        waiter
    }

    /// Measures against a promise, so many times at once, while nobody else measures.
    fn repeat(
        &self,
        promise: Duration,
        at_once: usize,
        once: impl Fn(Home) -> Duration + Sync,
    ) -> Vec<Duration> {
        static MEASURING: Mutex<()> = Mutex::new(());
        let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
        let (once, home) = (&once, self.home);
        let (mut times, mut stalled) = (Vec::new(), 0);
        while times.len() < REPETITIONS {
            let (idle, disk) = (Idle::now(), Disk::watch());
            let measured: Vec<Duration> = std::thread::scope(|scope| {
                let runs: Vec<_> = (0..at_once)
                    .map(|_| scope.spawn(move || once(home())))
                    .collect();
                runs.into_iter().map(|run| run.join().unwrap()).collect()
            });
            let (idle, synced) = (idle.percent_since(), disk.slowest());
            let busy = idle < 20 || WRITES * synced > promise;
            for time in measured {
                if time > 2 * promise && busy {
                    stalled += 1;
                    println!(
                        "  the machine was busy ({idle} % idle, a write took {synced:?}): {time:?} \
                         shows nothing"
                    );
                    assert!(stalled <= REPETITIONS, "the machine is too busy to measure");
                } else {
                    times.push(time);
                }
            }
        }
        times
    }
}

/// How long the machine's processors have been idle, and how long they have been there.
struct Idle {
    idle: u64,
    all: u64,
}

impl Idle {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        let line = stat.lines().next().unwrap();
        let ticks = line.split_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = ticks.map(|ticks| ticks.parse().unwrap()).collect();
        // The fourth is idle, the fifth is idle and waiting for a disk.
        Self {
            idle: ticks[3] + ticks[4],
            all: ticks.iter().sum(),
        }
    }

    fn percent_since(&self) -> u64 {
        let now = Self::now();
        100 * (now.idle - self.idle) / (now.all - self.all).max(1)
    }
}

/// Writes a few bytes through to the disk again and again, beside the servers' own files: a store that
/// answers only after such writes can be no faster.
struct Disk {
    enough: mpsc::Sender<()>,
    writer: JoinHandle<Duration>,
}

impl Disk {
    /// Rare enough to cost the servers nothing, often enough to meet every stall that matters here.
    const EVERY: Duration = Duration::from_millis(20);

    fn watch() -> Self {
        let file = tempfile::tempfile().unwrap();
        let (enough, told) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while told.recv_timeout(Self::EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                slowest = slowest.max(Self::write(&file));
            }
            slowest
        });
        Self { enough, writer }
    }

    /// At the end, as a log is written: the file's new length is written through as well.
    fn write(mut file: &File) -> Duration {
        let began = Instant::now();
        file.write_all(b"a few bytes").unwrap();
        file.sync_data().unwrap();
        began.elapsed()
    }

    fn slowest(self) -> Duration {
        drop(self.enough);
        self.writer.join().unwrap()
    }
}

/// Touches a file in a loop, in a grandchild; a daemon in a session of its own does as well.
const FAMILY: &str = r"
    sh -c 'echo $$ > grandchild; while :; do echo >> grandchild.work; sleep 0.002; done' &
    setsid sh -c 'echo $$ > daemon; while :; do echo >> daemon.work; sleep 0.002; done' &
    echo $$ > leader
    wait
";

/// What the second one runs: who of the first one's family still lives, and when it was.
const SECOND: &str = r"
    date +%s%N
    for name in leader grandchild daemon; do
        kill -0 $(cat $name) 2> /dev/null && echo $name still lives
    done
    for work in grandchild daemon; do wc -l < $work.work; done
    sleep 0.05
    for work in grandchild daemon; do wc -l < $work.work; done
";

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn at(nanos: &str) -> Duration {
    Duration::from_nanos(nanos.trim().parse().unwrap())
}

/// The second one's view: when it ran, after making sure that it ran alone.
#[track_caller]
fn ran_alone(stdout: &str) -> Duration {
    alone(stdout).unwrap_or_else(|| panic!("somebody survived: {stdout}"))
}

/// The same, if it did.
fn alone(stdout: &str) -> Option<Duration> {
    let lines: Vec<_> = stdout.lines().collect();
    let [started, before @ .., _, _] = &lines[..] else {
        return None;
    };
    (before.len() == 2 && before == &lines[3..]).then(|| at(started))
}

#[track_caller]
fn report(what: &str, promise: Duration, mut times: Vec<Duration>) {
    println!("{what}; the promise is {promise:?}:");
    for (number, time) in times.iter().enumerate() {
        println!("  {:>2}: {:>6.1} ms", number + 1, time.as_secs_f64() * 1e3);
    }
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("  median {median:?}, slowest {slowest:?}");
    assert!(
        slowest <= 2 * promise,
        "{what}: the slowest took {slowest:?}"
    );
}

fn kill_9(place: &Place) {
    let times = place.repeat(place.after_kill_9, place.deaths_at_once, |home| {
        let first = place.run(&home, &[], FAMILY);
        for name in ["leader", "grandchild", "daemon"] {
            home.await_file(name);
        }
        let second = place.wait_for_the_lock(&home, SECOND);
        let killed = now();
        first.signal(Signal::SIGKILL);
        let outcome = second.end();
        ran_alone(&outcome.expect(0).stdout)
            .checked_sub(killed)
            .unwrap()
    });
    report("kill -9 to the next one's start", place.after_kill_9, times);
}

fn sigterm(place: &Place) {
    let promise = Duration::from_millis(50);
    let times = place.repeat(promise, 1, |home| {
        let last_act = "trap 'date +%s%N > gone; exit 7' TERM";
        let script = format!("{last_act}; echo > ready; while :; do sleep 0.005; done");
        let first = place.run(&home, &[], &script);
        home.await_file("ready");
        let second = place.wait_for_the_lock(&home, "date +%s%N");
        first.signal(Signal::SIGTERM);
        let outcome = second.end();
        first.end().expect(7);
        let gone = at(&home.await_file("gone"));
        at(&outcome.expect(0).stdout).checked_sub(gone).unwrap()
    });
    report("the group's end to the next one's start", promise, times);
}

/// The wrapper alone is stopped for 2T. Its group is dead before the next one runs, and it says 76
/// when it goes on.
fn stopped_for_2t(place: &Place) {
    let t = Duration::from_secs(place.ttl.parse().unwrap());
    let home = (place.home)();
    let first = place.run(&home, &[], FAMILY);
    let family = ["leader", "grandchild", "daemon"].map(|name| home.await_pid(name));
    let second = place.wait_for_the_lock(&home, SECOND);
    let stopped = now();
    first.signal(Signal::SIGSTOP);
    await_that("the group is killed", || !family.iter().copied().any(lives));
    let outcome = second.end();
    let ran = ran_alone(&outcome.expect(0).stdout)
        .checked_sub(stopped)
        .unwrap();
    println!("stopped; the next one ran after {ran:?}");
    let promise = t + t / 5 + Duration::from_millis(500);
    assert!(ran < 2 * promise, "promised: {promise:?}; took {ran:?}");
    let rest = (2 * t).saturating_sub(now().checked_sub(stopped).unwrap());
    std::thread::sleep(rest);
    first.signal(Signal::SIGCONT);
    first.end().expect(76);
}

/// L2 on the embedded store: after kill -9 of the wrapper, everybody is dead before the next one
/// runs, and that is within 0.2 s.
#[test]
fn after_kill_9_the_next_one_runs_alone_and_soon() {
    kill_9(&EMBEDDED);
}

/// L2 on a store with a server: within T + H + 0.5 s.
#[cfg(feature = "redis")]
#[test]
fn after_kill_9_the_next_one_runs_alone_and_soon_on_redis() {
    kill_9(&REDIS);
}

/// As on Redis.
#[cfg(feature = "postgres")]
#[test]
fn after_kill_9_the_next_one_runs_alone_and_soon_on_postgres() {
    kill_9(&POSTGRES);
}

/// As on Redis.
#[cfg(feature = "etcd")]
#[test]
fn after_kill_9_the_next_one_runs_alone_and_soon_on_etcd() {
    kill_9(&ETCD);
}

/// L1: after SIGTERM, within 50 ms after the group is gone.
#[test]
fn after_sigterm_the_next_one_runs_as_soon_as_the_group_is_gone() {
    sigterm(&EMBEDDED);
}

/// L1, by the server's wake-up.
#[cfg(feature = "redis")]
#[test]
fn after_sigterm_the_next_one_runs_as_soon_as_the_group_is_gone_on_redis() {
    sigterm(&REDIS);
}

/// As on Redis.
#[cfg(feature = "postgres")]
#[test]
fn after_sigterm_the_next_one_runs_as_soon_as_the_group_is_gone_on_postgres() {
    sigterm(&POSTGRES);
}

/// As on Redis.
#[cfg(feature = "etcd")]
#[test]
fn after_sigterm_the_next_one_runs_as_soon_as_the_group_is_gone_on_etcd() {
    sigterm(&ETCD);
}

/// L4, at the default T of 10 s.
#[test]
fn a_wrapper_that_is_stopped_for_2t_has_lost_its_command_before_the_next_one_runs() {
    stopped_for_2t(&EMBEDDED);
}

/// L4, on a store with a server.
#[cfg(feature = "redis")]
#[test]
fn a_wrapper_that_is_stopped_for_2t_has_lost_its_command_before_the_next_one_runs_on_redis() {
    stopped_for_2t(&REDIS);
}

/// As on Redis.
#[cfg(feature = "postgres")]
#[test]
fn a_wrapper_that_is_stopped_for_2t_has_lost_its_command_before_the_next_one_runs_on_postgres() {
    stopped_for_2t(&POSTGRES);
}

/// As on Redis.
#[cfg(feature = "etcd")]
#[test]
fn a_wrapper_that_is_stopped_for_2t_has_lost_its_command_before_the_next_one_runs_on_etcd() {
    stopped_for_2t(&ETCD);
}

/// The proof of the harness: with everybody alive it does not say that nobody is.
#[test]
fn the_harness_sees_who_survives() {
    let home = Home::new();
    let survivor = home.script(&[], FAMILY);
    for name in ["leader", "grandchild", "daemon"] {
        home.await_file(name);
    }
    let script = std::process::Command::new("sh")
        .args(["-c", SECOND])
        .current_dir(home.path(""))
        .output()
        .unwrap();
    let stdout = String::from_utf8(script.stdout).unwrap();
    assert!(stdout.contains("daemon still lives"), "{stdout}");
    assert_eq!(alone(&stdout), None);
    assert!(lives(Pid::from_raw(survivor.pid().as_raw())));
}
