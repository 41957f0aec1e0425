//! A process to be stopped, killed and forked by tests: it takes a lock and does something awkward.
//!
//! `locker-worker SCENARIO STORE-URL LIVENESS-TTL-MS` writes one line for everything that a test
//! waits for, and one last line when it ends by itself.

use distributed_locker::{
    AcquireError, AcquireOptions, Acquired, BootClock, Clock, Event, ExtendError, Force,
    HeartbeatPolicy, Interrupted, LockGuard, Locker, NotRunning, OnLost, Release, ReleaseError,
    Releases, Run, RunError, TerminateError, Timing, connect,
};
use futures_util::FutureExt;
use futures_util::future::join_all;
use locker_testkit::scaled;
use locker_testkit::wrap::{Fault, Faulty, Method, Scope};
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, url, ttl] = arguments.as_slice() else {
        say("usage: locker-worker SCENARIO STORE-URL LIVENESS-TTL-MS");
        return ExitCode::from(64);
    };
    let ttl = Duration::from_millis(ttl.parse().unwrap_or(1000));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            let worker = Worker::start(url, ttl).await?;
            match scenario.as_str() {
                "hold" => worker.hold().await,
                "blocked" => worker.blocked().await,
                "abort-stalled" => worker.abort_stalled().await,
                "abort-released" => worker.abort_released().await,
                "abort-blocked" => worker.abort_blocked().await,
                "abort-beats" => worker.abort_beats().await,
                "abort-churn" => worker.abort_churn().await,
                "fork" => worker.fork().await,
                "fork-run" => worker.fork_run().await,
                "signals" => worker.signals().await,
                "forget" => worker.forget().await,
                other => Err(format!("there is no scenario {other}").into()),
            }
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("failed {error}"));
            ExitCode::FAILURE
        }
    }
}

/// One line, with the time on the clock that all processes share.
fn say(what: &str) {
    let now = BootClock::new().now().as_nanos() / 1000;
    let mut out = std::io::stdout().lock();
    // A test that has gone needs no line.
    let _ = writeln!(out, "{now} {what}").and_then(|()| out.flush());
}

/// Whether a call failed because this is a forked child.
fn says_forked<E: Error + 'static>(answer: Result<(), E>) -> bool {
    let Err(error) = answer else { return false };
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if error.to_string().contains("forked child") {
            return true;
        }
        cause = error.source();
    }
    false
}

struct Worker {
    locker: Locker,
    faulty: Faulty,
    ttl: Duration,
}

impl Worker {
    async fn start(url: &str, ttl: Duration) -> Result<Self, Box<dyn Error>> {
        let faulty = Faulty::new();
        let timing = Timing {
            lock_ttl: ttl * 30,
            ..scaled(ttl)
        };
        let locker = Locker::builder(faulty.around(connect(url)?))
            .timing(timing)
            .start()
            .await?;
        Ok(Self {
            locker,
            faulty,
            ttl,
        })
    }

    async fn acquire(&self, options: AcquireOptions) -> Result<LockGuard, Box<dyn Error>> {
        let options = options.heartbeat(HeartbeatPolicy::Automatic);
        match self.locker.acquire("k", options).await? {
            Acquired::Guard(guard) => {
                say(&format!("acquired {}", guard.token()));
                Ok(guard)
            }
            Acquired::SomeoneElseHoldsLock(data) => Err(format!("held by {}", data.owner).into()),
        }
    }

    /// Holds the lock until it is lost.
    async fn hold(&self) -> Outcome {
        let guard = self.acquire(AcquireOptions::new()).await?;
        let loss = guard.lost().await;
        say(&format!("lost {loss}"));
        Ok(())
    }

    /// Blocks its only runtime for three liveness TTLs (F06).
    async fn blocked(&self) -> Outcome {
        let guard = self.acquire(AcquireOptions::new()).await?;
        std::thread::sleep(self.ttl * 3);
        say(if guard.is_valid() { "valid" } else { "invalid" });
        say("releasing");
        guard.release().await?;
        say("released");
        Ok(())
    }

    /// The Reporter stands still, and so does the job: only the kernel is left (S12, attack 11).
    async fn abort_stalled(&self) -> Outcome {
        let guard = self
            .acquire(AcquireOptions::new().on_lost(OnLost::Abort))
            .await?;
        self.faulty
            .inject(Scope::all().of(Method::RenewProcess), Fault::BlockThread);
        say("stalled");
        std::thread::sleep(self.ttl * 20);
        say("survived");
        drop(guard);
        Ok(())
    }

    /// The lock is given back while the Reporter hangs: nothing is left that could be lost.
    async fn abort_released(&self) -> Outcome {
        let guard = self
            .acquire(AcquireOptions::new().on_lost(OnLost::Abort))
            .await?;
        self.faulty
            .inject(Scope::all().of(Method::RenewProcess), Fault::BlockThread);
        tokio::time::sleep(self.ttl / 2).await;
        drop(guard);
        tokio::time::sleep(self.ttl * 2).await;
        say("survived");
        // The Reporter goes on, and ends in good order.
        self.faulty.heal();
        Ok(())
    }

    /// The job blocks its runtime while everything else works: it is kept alive by reports.
    async fn abort_blocked(&self) -> Outcome {
        let guard = self
            .acquire(AcquireOptions::new().on_lost(OnLost::Abort))
            .await?;
        std::thread::sleep(self.ttl * 3);
        say(if guard.is_valid() { "valid" } else { "invalid" });
        guard.release().await?;
        // The timer is disarmed with the release.
        std::thread::sleep(self.ttl * 2);
        say("survived");
        Ok(())
    }

    /// A job that beats late, and in time.
    async fn abort_beats(&self) -> Outcome {
        // The timer moves with reports: they are so rare that most of them are not between a late beat
        // and what was its limit, and that limit leaves a busy machine its time.
        let ttl = self.ttl * 4;
        let timing = Timing {
            report_every: ttl / 2,
            request_timeout: ttl / 8,
            liveness_ttl: ttl,
            lock_ttl: ttl,
            extend_every: ttl / 2,
            ..*self.locker.timing()
        };
        let locker = Locker::builder(distributed_locker::memory())
            .timing(timing)
            .start()
            .await?;
        let options = AcquireOptions::new().on_lost(OnLost::Abort);
        let guard = locker.acquire("k", options).await?.guard();
        let job = guard.as_ref().ok_or("it is free")?.heartbeater();
        for _ in 0..5 {
            job.heartbeat()?;
            std::thread::sleep(ttl * 4 / 5);
        }
        job.heartbeat()?;
        say("survived");
        Ok(())
    }

    /// Locks come and go all the time, each with its timer.
    async fn abort_churn(&self) -> Outcome {
        let locker = Locker::builder(distributed_locker::memory())
            .start()
            .await?;
        let options = AcquireOptions::new().on_lost(OnLost::Abort);
        let churn = (0..16).map(|n| {
            let (locker, options) = (&locker, options.clone());
            async move {
                for _ in 0..1000 {
                    let key = format!("k{n}");
                    let guard = locker.acquire(key.as_str(), options.clone()).await?;
                    drop(guard);
                }
                Ok::<_, distributed_locker::AcquireError>(())
            }
        });
        let mut lost = locker.events();
        for ended in join_all(churn).await {
            ended?;
        }
        locker.terminate(self.ttl * 10).await?;
        drop(locker);
        while let Some(event) = lost.next().await {
            if let Event::LostLock { owner, loss } = event {
                return Err(format!("{owner}: {loss}").into());
            }
        }
        say("survived");
        Ok(())
    }

    /// A forked child has its parent's guard and locker in its memory, and cannot use them (S8, F26).
    async fn fork(&self) -> Outcome {
        let guard = self.acquire(AcquireOptions::new()).await?;
        let mut releases = self.locker.on_release("k").await?;
        // As in a `select!`: it goes on with what it has begun.
        let heard = releases.next().now_or_never();
        assert!(heard.is_none(), "nobody has released it");
        match fork::fork()? {
            fork::Fork::Child => {
                // A call that waits for its parent's threads waits for ever.
                let asked = self.not_refused(guard, releases);
                match tokio::time::timeout(self.ttl, asked).await {
                    Ok(not_refused) => say(&format!("child {not_refused:?}")),
                    Err(_) => say("child hangs"),
                }
                std::process::exit(0);
            }
            fork::Fork::Parent(_) => {
                tokio::time::sleep(self.ttl * 2).await;
                say(if guard.is_valid() { "valid" } else { "invalid" });
                guard.release().await?;
                say("released");
                Ok(())
            }
        }
    }

    /// What is not refused in a forked child as what it is.
    async fn not_refused(&self, guard: LockGuard, mut releases: Releases) -> Vec<&'static str> {
        let (locker, owner) = (&self.locker, guard.owner_hash().clone());
        let other = locker.acquire("other", AcquireOptions::new()).await;
        let read = locker.read_lock_data("k").await.map(drop);
        let status = locker.read_owner_hash_status(owner.clone()).await.map(drop);
        let listened = locker.on_release("k").await.map(drop);
        let forced = locker.force_release(&owner, Force::Now).await.map(drop);
        locker.drain("by a child");
        let drains = matches!(guard.heartbeat(), Err(Interrupted::Draining(_)));
        let running = locker.ensure_running().await;
        let extended = guard.extend().await;
        let terminated = locker.terminate(self.ttl * 10).await;
        let given_back = guard.release().await;
        let refused = [
            ("drain", !drains),
            ("keys", locker.keys().is_empty()),
            ("process_hash", locker.process_hash().is_none()),
            ("ensure_running", matches!(running, Err(NotRunning::Forked))),
            ("acquire", matches!(other, Err(AcquireError::Forked))),
            ("read_lock_data", says_forked(read)),
            ("read_owner_hash_status", says_forked(status)),
            ("on_release", says_forked(listened)),
            ("Releases", releases.next().await.is_none()),
            ("force_release", says_forked(forced)),
            ("extend", matches!(extended, Err(ExtendError::Forked))),
            (
                "terminate",
                matches!(terminated, Err(TerminateError::Forked)),
            ),
            ("release", matches!(given_back, Err(ReleaseError::Forked))),
        ];
        let not_refused = refused.into_iter().filter(|(_, refused)| !refused);
        not_refused.map(|(call, _)| call).collect()
    }

    /// A job forks, and ends in both processes (S9).
    async fn fork_run(&self) -> Outcome {
        let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
        let job = async |_job| match fork::fork() {
            Ok(fork::Fork::Child) => "child",
            Ok(fork::Fork::Parent(_)) => "parent",
            Err(_) => "nobody",
        };
        match self.locker.acquire_and_run("k", options, job).await {
            Err(RunError::Forked { value }) => {
                say(&format!("ran forked {value}"));
                std::process::exit(0);
            }
            Ok(Run::Completed {
                value,
                release: Release::Confirmed,
            }) => say(&format!("ran completed {value}")),
            other => return Err(format!("{other:?}").into()),
        }
        Ok(())
    }

    /// Everything is released on SIGTERM, and the process goes on until it ends by itself.
    async fn signals(&self) -> Outcome {
        let mut shutdown = self.locker.shutdown_on_signals(self.ttl * 5)?;
        let guard = self.acquire(AcquireOptions::new()).await?;
        let job = guard.heartbeater();
        say("ready");
        while job.sleep(self.ttl).await.is_ok() {}
        drop(guard);
        shutdown.finished().await?;
        // To ask again is answered again.
        shutdown.finished().await?;
        say("ended");
        Ok(())
    }

    /// `main` ends while a lock is held and nothing is awaited (attack 10 c).
    async fn forget(&self) -> Outcome {
        let guard = self.acquire(AcquireOptions::new()).await?;
        std::mem::forget(guard);
        Ok(())
    }
}
