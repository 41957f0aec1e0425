//! `list`, `show` and `ps`: who holds what, and who lives.

use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::output::{self, LockView, Output, ProcessView, printable};
use crate::store::Store;
use locker_core::Key;
use locker_core::backend::{Held, Page};
use serde_json::json;

/// How many records one request may answer.
const PAGE: u32 = 500;

/// `locker list [PREFIX]`.
pub(super) async fn locks(store: &Store, prefix: &str, out: &mut Output) -> Result<Exit, Failure> {
    let backend = store.open().await?;
    let mut rows = Vec::new();
    let mut exit = Exit::SUCCESS;
    let mut page = Page {
        after: None,
        limit: PAGE,
    };
    loop {
        let answer = store.ask(backend.list_locks(prefix, &page)).await?;
        for item in answer.value.items {
            match item {
                Ok(held) if out.is_json() => out.value(&LockView::new(&held))?,
                Ok(held) => rows.push(row(&held)),
                Err(error) => exit = unreadable(&chain(&error), &mut rows, out)?,
            }
        }
        page.after = answer.value.next;
        if page.after.is_none() {
            break;
        }
    }
    if !out.is_json() {
        let headings = ["KEY", "HOST", "PID", "SINCE", "STATE", "TRACE"];
        out.table(&headings, &rows)?;
    }
    Ok(exit)
}

/// A record that cannot be read is shown as one, and does not hide the others.
fn unreadable(text: &str, rows: &mut Vec<Vec<String>>, out: &mut Output) -> Result<Exit, Failure> {
    if out.is_json() {
        out.value(&json!({ "held": true, "error": text }))?;
    } else {
        rows.push(vec![format!("(unreadable: {})", printable(text))]);
    }
    Ok(Exit::CONFIG)
}

fn row(held: &Held) -> Vec<String> {
    let data = &held.data;
    let process = data.process();
    vec![
        printable(data.owner.key().as_str()),
        printable(process.host().as_str()),
        process.pid().to_string(),
        output::since(data.acquired_at),
        state(held).to_owned(),
        data.trace()
            .map(|trace| printable(trace.as_str()))
            .unwrap_or_default(),
    ]
}

fn state(held: &Held) -> &'static str {
    match (output::alive(held), held.marked) {
        (Some(false), _) => "dead owner",
        (_, true) => "asked back",
        (Some(true) | None, false) => "held",
    }
}

/// `locker show KEY`.
pub(super) async fn show(store: &Store, key: &Key, out: &mut Output) -> Result<Exit, Failure> {
    let backend = store.open().await?;
    let answer = store.ask(backend.read_lock(key)).await?;
    let Some(held) = answer.value else {
        if out.is_json() {
            out.value(&json!({ "key": key.as_str(), "held": false }))?;
        } else {
            out.line(&format!("{} is free", printable(key.as_str())))?;
        }
        return Ok(Exit::NO);
    };
    if out.is_json() {
        out.value(&LockView::new(&held))?;
        return Ok(Exit::SUCCESS);
    }
    out.line(&format!("{} is held", printable(key.as_str())))?;
    for (name, value) in output::holder(&held.data) {
        out.line(&format!("  {name:<10}{value}"))?;
    }
    out.line(&format!(
        "  {:<10}{}",
        "extended",
        output::since(held.data.extended_at)
    ))?;
    out.line(&format!("  {:<10}{}", "state", state(&held)))?;
    Ok(Exit::SUCCESS)
}

/// `locker ps`.
pub(super) async fn processes(store: &Store, out: &mut Output) -> Result<Exit, Failure> {
    let backend = store.open().await?;
    let mut rows = Vec::new();
    let mut exit = Exit::SUCCESS;
    let mut page = Page {
        after: None,
        limit: PAGE,
    };
    loop {
        let answer = store.ask(backend.list_processes(&page)).await?;
        for item in answer.value.items {
            match item {
                Ok(data) if out.is_json() => out.value(&ProcessView::new(&data))?,
                Ok(data) => rows.push(vec![
                    printable(data.process.host().as_str()),
                    data.process.pid().to_string(),
                    output::since(data.alive_at),
                    printable(data.process.as_str()),
                ]),
                Err(error) => exit = unreadable(&chain(&error), &mut rows, out)?,
            }
        }
        page.after = answer.value.next;
        if page.after.is_none() {
            break;
        }
    }
    if !out.is_json() {
        out.table(&["HOST", "PID", "LAST REPORT", "PROCESS"], &rows)?;
    }
    Ok(exit)
}
