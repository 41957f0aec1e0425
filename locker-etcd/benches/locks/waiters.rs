//! Sixteen waiters of four processes ask for one lock at once, and each holds it for 5 ms. Beside it:
//! the same sixteen sleeps, one after another; and, for information, sixteen who ask the server's own
//! lock service over four connections.

use crate::raw::Service;
use crate::stats::{Report, Spread, Target};
use crate::{Failure, ROUNDS};
use distributed_locker::{AcquireOptions, Locker, Wait};
use indicatif::ProgressBar;
use locker_etcd::Etcd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The word by which this program becomes one of the processes.
pub(crate) const CHILD: &str = "waiters-of-one-process";

const PROCESSES: usize = 4;
const WAITERS_EACH: usize = 4;
const HOLD: Duration = Duration::from_millis(5);

struct Process {
    /// Kept: its drop kills the process.
    _child: Child,
    words: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(url: &str) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([CHILD, url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let words = child.stdin.take().ok_or("a pipe")?;
        let answers = BufReader::new(child.stdout.take().ok_or("a pipe")?).lines();
        Ok(Self {
            _child: child,
            words,
            answers,
        })
    }

    async fn says(&mut self, word: &str) -> Result<(), Failure> {
        match self.answers.next_line().await? {
            Some(line) if line == word => Ok(()),
            said => Err(format!("a process said {said:?} and not {word:?}").into()),
        }
    }
}

pub(crate) async fn measure(
    url: &str,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(url)?);
    }
    for process in &mut processes {
        process.says("ready").await?;
    }
    let mut services = Vec::new();
    for _ in 0..PROCESSES {
        services.push(Service::open(url, WAITERS_EACH).await?);
    }
    let (mut ratios, mut took, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    // The first one warms up.
    for round in 0..=ROUNDS {
        bar.set_message(format!("16 waiters: round {round} of {ROUNDS}"));
        let begun = Instant::now();
        for process in &mut processes {
            process.words.write_all(b"go\n").await?;
        }
        for process in &mut processes {
            process.says("done").await?;
        }
        let ours = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        for _ in 0..PROCESSES * WAITERS_EACH {
            tokio::time::sleep(HOLD).await;
        }
        let sleeps = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let service = services.iter().flat_map(Service::each);
        let waiting: Vec<_> = service
            .map(|mut one| {
                tokio::spawn(async move {
                    let key = one.lock("bench-service").await?;
                    tokio::time::sleep(HOLD).await;
                    one.unlock(key).await
                })
            })
            .collect();
        for waiter in waiting {
            waiter.await??;
        }
        let service = begun.elapsed().as_secs_f64();
        if round > 0 {
            ratios.push(ours / sleeps);
            theirs.push(service / sleeps);
            took.push(ours * 1e3);
        }
    }
    report.ratio(
        "16 waiters of 4 processes, 5 ms each, to 16 sleeps",
        Spread::of(ratios),
        Target::AtMost(1.25),
    );
    report.ratio(
        "the same by the server's own lock service, to 16 sleeps",
        Spread::of(theirs),
        Target::None,
    );
    let took = Spread::of(took);
    report.figure(
        "16 waiters of 4 processes",
        format!(
            "all through in {:.1} ms ({:.1} to {:.1})",
            took.median, took.least, took.most
        ),
    );
    Ok(())
}

/// One of the processes: for each line that it reads, its waiters get the lock once each.
pub(crate) async fn child(args: &[String]) -> Result<(), Failure> {
    let url = args.first().ok_or("the URL is missing")?;
    let locker = Locker::builder(Arc::new(Etcd::from_url(url)?))
        .start()
        .await?;
    println!("ready");
    let mut words = BufReader::new(tokio::io::stdin()).lines();
    while words.next_line().await?.is_some() {
        let waiters: Vec<_> = (0..WAITERS_EACH)
            .map(|_| {
                let locker = locker.clone();
                tokio::spawn(async move {
                    let options = AcquireOptions::new().wait(Wait::Forever);
                    let acquired = locker.acquire("bench-waiters", options).await?;
                    let guard = acquired.guard().ok_or("a waiter was sent away")?;
                    tokio::time::sleep(HOLD).await;
                    guard.release().await?;
                    Ok::<_, Failure>(())
                })
            })
            .collect();
        for waiter in waiters {
            waiter.await??;
        }
        println!("done");
    }
    Ok(())
}
