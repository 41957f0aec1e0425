//! Runs cases and judges them. Whatever a case leaves behind is kept: its events, its
//! configuration, and a picture of who held what when.

use super::cases::Case;
use super::deployment::{Cell, Deployment};
use super::fault::Fault;
use super::fleet::Fleet;
use super::judgement;
use super::namespace::Namespace;
use super::order::Config;
use super::rng::Rng;
use super::scene::{Findings, KEYS, Measure, Scene, WORKERS};
use super::times::{as_micros, micros};
use super::verdict::Verdict;
use super::worker::name;
use distributed_locker::{AcquireOptions, Acquired, Locker, Wait};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A stalled machine gets so many more chances.
const RERUNS: u32 = 2;

/// How cases are run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program `locker-faults`, which becomes worker and hog.
    pub program: PathBuf,
    /// Where evidence is kept.
    pub evidence: PathBuf,
    /// Of all random choices.
    pub seed: u64,
    /// Whether there is time for the long form.
    pub full: bool,
    /// How many cases run at a time.
    pub jobs: usize,
}

/// A case of the table.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    /// On what.
    pub deployment: &'static dyn Deployment,
    /// Which row.
    pub fault: Fault,
    /// How.
    pub case: &'static Case,
}

impl Planned {
    /// Row and variant.
    pub fn name(&self) -> String {
        let gap = if self.case.variant.is_empty() {
            ""
        } else {
            " "
        };
        format!("{}{gap}{}", self.fault, self.case.variant)
    }
}

/// How a case went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything held.
    Passed,
    /// Something did not.
    Failed,
    /// The machine stood still, every time: nothing was shown.
    Stalled,
}

/// What is told about a case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// Row and variant.
    pub name: String,
    /// On what.
    pub deployment: &'static str,
    /// What was done.
    pub title: &'static str,
    /// What must happen.
    pub expected: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// Runs that a stalled machine made worthless.
    pub stalls: u32,
    /// What the events amount to.
    pub verdict: Verdict,
    /// What the case measured.
    pub measures: Vec<Measure>,
    /// What should not be.
    pub failures: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What repeats it.
    pub replay: String,
    /// Where its evidence is.
    pub evidence: PathBuf,
}

/// The cases of these deployments, in the order of the table: those of these names, and without any
/// those of the short table or all.
pub fn plan(deployments: &[&'static dyn Deployment], only: &[String], full: bool) -> Vec<Planned> {
    let mut planned = Vec::new();
    for deployment in deployments.iter().copied() {
        for fault in Fault::all() {
            let Cell::Run(cases) = deployment.cell(fault) else {
                continue;
            };
            let all = full || !only.is_empty();
            let wanted = |case: &&Case| {
                all || !case.only_in_full && deployment.is_short(fault, case.variant)
            };
            planned.extend(cases.iter().filter(wanted).map(|case| Planned {
                deployment,
                fault,
                case,
            }));
        }
    }
    planned.retain(|one| {
        let wanted = |name: &String| *name == one.fault.to_string() || *name == one.name();
        only.is_empty() || only.iter().any(wanted)
    });
    planned
}

/// Runs cases, several at a time; each one is told when it begins and when it is done. Where the
/// machine stood still, the case is run again when all others are through, with the machine to
/// itself.
pub fn run_all(
    planned: &[Planned],
    options: &Options,
    begins: impl Fn(&Planned) + Sync,
    done: impl Fn(&CaseReport) + Sync,
) -> Vec<CaseReport> {
    let waiting: Mutex<VecDeque<(usize, Planned)>> =
        Mutex::new(planned.iter().copied().enumerate().collect());
    let (reports, again) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = lock(&waiting).pop_front();
                    let Some((index, one)) = next else { return };
                    begins(&one);
                    let report = once(&one, options);
                    if report.outcome == Outcome::Stalled {
                        lock(&again).push((index, one));
                    } else {
                        done(&report);
                        lock(&reports).push((index, report));
                    }
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (index, one) in again.into_inner().unwrap_or_else(PoisonError::into_inner) {
        begins(&one);
        let report = once_more(&one, options);
        done(&report);
        reports.push((index, report));
    }
    reports.sort_by_key(|(index, _)| *index);
    reports.into_iter().map(|(_, report)| report).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a case again that a stalled machine has made worthless, until it was worth something.
fn once_more(planned: &Planned, options: &Options) -> CaseReport {
    let mut stalls = 0;
    loop {
        stalls += 1;
        let mut report = once(planned, options);
        report.stalls = stalls;
        if report.outcome != Outcome::Stalled || stalls == RERUNS {
            return report;
        }
    }
}

fn once(planned: &Planned, options: &Options) -> CaseReport {
    let begun = micros();
    let name = planned.name();
    let deployment = planned.deployment;
    let seed = options.seed;
    let tier = if options.full { " --tier full" } else { "" };
    let mut report = CaseReport {
        name: name.clone(),
        deployment: deployment.name(),
        title: planned.fault.title(),
        expected: planned.fault.expected(),
        outcome: Outcome::Failed,
        stalls: 0,
        verdict: Verdict::default(),
        measures: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
        seconds: 0.0,
        replay: format!(
            "cargo run -p locker-testkit --features {} --bin locker-faults -- --deployment {} \
             --only '{name}' --seed {seed}{tier}",
            deployment.feature(),
            deployment.name()
        ),
        evidence: options
            .evidence
            .join(deployment.name())
            .join(name.replace(' ', "-")),
    };
    if let Err(error) = attempt(planned, options, &mut report) {
        report.failures.push(error.to_string());
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    let seconds = (micros() - begun) as f64 / 1e6;
    report.seconds = seconds;
    let kept = serde_json::to_vec_pretty(&report).map_err(Into::into);
    let kept = kept.and_then(|json| fs::write(report.evidence.join("report.json"), json));
    if let Err(error) = kept {
        report
            .notes
            .push(format!("the report was not kept: {error}"));
    }
    report
}

fn attempt(
    planned: &Planned,
    options: &Options,
    report: &mut CaseReport,
) -> Result<(), Box<dyn Error>> {
    let _ = fs::remove_dir_all(&report.evidence);
    fs::create_dir_all(&report.evidence)?;
    let folder = folder()?;
    let deployment = planned.deployment;
    let times = deployment.times();
    let site = deployment.open(folder.path(), &options.program)?;
    let name = planned.name();
    let salt = name.bytes().fold(0, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let config = Config {
        deployment: deployment.name().to_owned(),
        url: site.url(),
        folder: folder.path().to_owned(),
        worker: 0,
        ttl_ms: as_micros(times.t) / 1000,
        seed: options.seed,
        keys: KEYS,
        works: true,
    };
    fs::write(
        report.evidence.join("config.json"),
        serde_json::to_vec_pretty(&config)?,
    )?;
    let urls = (0..WORKERS).map(|worker| site.url_for(worker)).collect();
    let mut scene = Scene {
        fleet: Fleet::new(options.program.clone(), config, urls),
        site,
        namespaces: Vec::new(),
        folder: folder.path().to_owned(),
        program: options.program.clone(),
        times,
        killed_is_taken_over: deployment.killed_is_taken_over(),
        rng: Rng::new(options.seed).fork(salt),
        full: options.full,
        findings: Findings::default(),
    };
    scene.watch_servers();
    let watch = scene.fleet.machine.watch(scene.fleet.log.clone());
    if let Err(error) = (planned.case.run)(&mut scene) {
        scene.findings.failures.push(error);
    }
    // Whatever a case has left standing goes on, also when it was given up in the middle.
    scene.site.go_on();
    for place in 0..scene.fleet.places() {
        scene.fleet.signal(place, Signal::SIGCONT);
        if let Some(network) = scene.site.network(place) {
            network.heal();
        }
    }
    scene.namespaces.iter().for_each(Namespace::heal);
    for place in scene.fleet.end(times.t * 4) {
        let failure = format!("worker {place} did not end by itself");
        scene.findings.failures.push(failure);
    }
    let url = scene.site.url();
    if let Err(error) = no_orphan(deployment, &url, &mut scene) {
        let failure = format!("afterwards: {error}");
        scene.findings.failures.push(failure);
    }
    drop(watch);
    for (name, log) in scene.site.logs() {
        fs::write(report.evidence.join(name + ".log"), log)?;
    }
    judgement::pass(planned, &mut scene, report)
}

/// When everybody has gone, every lock can be had at once.
fn no_orphan(
    deployment: &dyn Deployment,
    url: &str,
    scene: &mut Scene,
) -> Result<(), Box<dyn Error>> {
    let times = scene.times;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let store = deployment.connect(url, times)?;
    runtime.block_on(async {
        let locker = Locker::builder(store)
            .timing(times.timing())
            .start()
            .await?;
        for key in 0..KEYS {
            let asked = micros();
            let options = AcquireOptions::new().wait(Wait::For(times.t * 2));
            match locker.acquire(name(key).as_str(), options).await? {
                Acquired::Guard(guard) => {
                    let limit = Some(Duration::from_millis(500));
                    scene.took("afterwards, each lock", asked, micros(), limit);
                    guard.release().await?;
                }
                Acquired::SomeoneElseHoldsLock(data) => {
                    return Err(format!("an orphan: {}", data.owner).into());
                }
            }
        }
        locker.terminate(times.t).await?;
        Ok(())
    })
}

/// A folder for one case, in memory if the machine has such: the disk is not what is under test.
fn folder() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let made = tempfile::Builder::new()
        .prefix("locker-faults-")
        .tempdir_in(memory);
    made.or_else(|_| tempfile::tempdir())
}
