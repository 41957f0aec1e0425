//! `locker doctor`: is everything there that a lock rests on?

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, alive};
use crate::store::Store;
use locker_core::Backend;
use locker_core::backend::Page;
use serde_json::json;
use std::fs;

/// What was looked at, and what was found.
struct Check {
    name: &'static str,
    fine: bool,
    found: String,
    exit: Exit,
}

impl Check {
    fn new(name: &'static str, fine: bool, found: impl Into<String>, exit: Exit) -> Self {
        Self {
            name,
            fine,
            found: found.into(),
            exit,
        }
    }
}

/// `locker doctor`.
pub(super) async fn doctor(global: &Global, out: &mut Output) -> Result<Exit, Failure> {
    let mut checks = vec![process_tree(), boot_clock()];
    let mut failure = None;
    match Store::choose(global) {
        Ok(store) => match store.open().await {
            Ok(backend) => {
                checks.push(Check::new("store", true, store.shown(), Exit::SUCCESS));
                match records(&store, &*backend).await {
                    Ok(found) => checks.extend(found),
                    Err(error) => failure = Some(error),
                }
            }
            Err(error) => failure = Some(error),
        },
        Err(error) => failure = Some(error),
    }
    if let Some(failure) = &failure {
        checks.push(Check::new(
            "store",
            false,
            failure.to_string(),
            failure.exit,
        ));
    }
    for check in &checks {
        if out.is_json() {
            let (name, found) = (check.name, &check.found);
            out.value(&json!({ "check": name, "ok": check.fine, "found": found }))?;
        } else {
            let word = if check.fine { "ok " } else { "BAD" };
            out.line(&format!("{word}  {:<14}{}", check.name, check.found))?;
        }
    }
    match failure {
        // It says what to do as well.
        Some(failure) => Err(failure),
        None => Ok(checks
            .iter()
            .find(|check| !check.fine)
            .map_or(Exit::SUCCESS, |check| check.exit)),
    }
}

/// The keeper finds what it has to end in `/proc`.
fn process_tree() -> Check {
    let pid = std::process::id();
    let path = format!("/proc/self/task/{pid}/children");
    match fs::read(&path) {
        Ok(_) => Check::new("process tree", true, "/proc lists children", Exit::SUCCESS),
        Err(error) => Check::new(
            "process tree",
            false,
            format!("{path}: {error}; `run` cannot end what a command leaves behind"),
            Exit::CONFIG,
        ),
    }
}

fn boot_clock() -> Check {
    let now = crate::clock::now();
    if now == locker_core::Instant::FAR_FUTURE {
        Check::new(
            "boot clock",
            false,
            "CLOCK_BOOTTIME cannot be read",
            Exit::CONFIG,
        )
    } else {
        let since = crate::output::duration(now.since(locker_core::Instant::ZERO));
        Check::new(
            "boot clock",
            true,
            format!("{since} since boot"),
            Exit::SUCCESS,
        )
    }
}

/// Counts what the store holds, and what of it cannot be read.
async fn records(store: &Store, backend: &dyn Backend) -> Result<Vec<Check>, Failure> {
    let (mut locks, mut dead, mut bad) = (0_u64, 0_u64, 0_u64);
    let mut page = Page {
        after: None,
        limit: 500,
    };
    loop {
        let answer = store.ask(backend.list_locks("", &page)).await?;
        for item in answer.value.items {
            match item {
                Ok(held) if alive(&held) == Some(false) => dead += 1,
                Ok(_) => locks += 1,
                Err(_) => bad += 1,
            }
        }
        page.after = answer.value.next;
        if page.after.is_none() {
            break;
        }
    }
    let found = format!("{locks} held by living processes, {dead} by dead ones, {bad} unreadable");
    let mut checks = vec![Check::new("locks", bad == 0, found, Exit::CONFIG)];
    let limits = backend.limits();
    if limits.wall_clock_expiry {
        let found = "expiry follows the server's wall clock; it must not be stepped forward";
        checks.push(Check::new("store clock", true, found, Exit::SUCCESS));
    }
    Ok(checks)
}
