//! From what happened to whether it was right: the verdict against what the case expects.

use super::cases::{Ground, Losses};
use super::event::{Event, Record};
use super::report::svg;
use super::run::{CaseReport, Outcome, Planned};
use super::scene::{Exceeded, KEYS, Scene};
use super::times::{Times, as_micros};
use super::verdict::{Evidence, Verdict};
use super::witness::Witness;
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;

/// Judges a case that has run, and keeps its evidence.
pub(super) fn pass(
    planned: &Planned,
    scene: &mut Scene,
    report: &mut CaseReport,
) -> Result<(), Box<dyn Error>> {
    let records = scene.fleet.log.records();
    let witnesses = (0..KEYS)
        .map(|key| Witness::read(&scene.folder, key))
        .collect::<Result<Vec<_>, _>>()?;
    let findings = std::mem::take(&mut scene.findings);
    let evidence = Evidence {
        records: &records,
        witnesses: &witnesses,
        killed: &scene.fleet.killed,
        windows: &findings.windows,
        times: scene.times,
    };
    let verdict = evidence.judge();
    let picture = svg::timeline(&report.name, &evidence, &verdict);
    let mut wrong = unconditional(planned, scene, &verdict);
    let mut conditional = findings.failures;
    conditional.extend(expectations(planned, &records, &verdict));
    let losses = unexpected_losses(planned, &records, &findings.struck, scene.times);
    let mut stalled = verdict.gap > as_micros(scene.times.stalled());
    let late = verdict.late_stops.iter().cloned();
    let load = too_little_load(planned, &records, &verdict);
    let all = findings.exceeded.into_iter().chain(losses).chain(late);
    for exceeded in all.chain(load) {
        // A time that the machine itself has eaten shows nothing about the store.
        let (from, to, whom) = (exceeded.from, exceeded.to, exceeded.pid);
        let waited = scene.fleet.machine.took(from, to, whom);
        let took = waited.max(evidence.time_lost(from, to, whom));
        let text = exceeded.text;
        if took >= exceeded.by {
            stalled = true;
            let millis = took / 1000;
            let note = format!("{text}; the machine took {millis} ms of it for something else");
            report.notes.push(note);
        } else {
            conditional.push(text);
        }
    }
    report.outcome = match (wrong.is_empty(), stalled, conditional.is_empty()) {
        (false, _, _) | (true, false, false) => Outcome::Failed,
        (true, true, _) => Outcome::Stalled,
        (true, false, true) => Outcome::Passed,
    };
    wrong.extend(conditional);
    report.failures = wrong;
    report.notes.extend(findings.notes);
    report.measures = findings.measures;
    report.verdict = verdict;
    let mut lines = Vec::new();
    for record in &records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    fs::write(report.evidence.join("events.jsonl"), lines)?;
    fs::write(report.evidence.join("timeline.svg"), picture)?;
    fs::write(
        report.evidence.join("windows.json"),
        serde_json::to_vec_pretty(&findings.windows)?,
    )?;
    Ok(())
}

/// What counts in every run, on whatever machine.
fn unconditional(planned: &Planned, scene: &Scene, verdict: &Verdict) -> Vec<String> {
    let mut wrong = Vec::new();
    let bound = as_micros(scene.times.noticed());
    for overlap in &verdict.overlaps {
        let allowed = planned.case.expect.ground == Ground::Broken && overlap.micros <= bound;
        if !allowed {
            let (first, second) = (overlap.first, overlap.second);
            wrong.push(format!(
                "V1: key {}: {} and {} were both valid for {} µs",
                first.key, first.token, second.token, overlap.micros
            ));
        }
    }
    wrong.extend(verdict.disorder.iter().map(|text| format!("V2: {text}")));
    let revived = verdict.revived.iter();
    wrong.extend(revived.map(|text| format!("S5: a lost guard was valid again: {text}")));
    if planned.case.expect.ground == Ground::Firm {
        let fenced = verdict.fenced.iter();
        wrong.extend(fenced.map(|text| format!("V2: a valid owner was refused: {text}")));
        wrong.extend(verdict.clashes.iter().map(|text| format!("V3: {text}")));
    }
    wrong
}

fn expectations(planned: &Planned, records: &[Record], verdict: &Verdict) -> Vec<String> {
    let mut failures: Vec<String> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Failed { why } => Some(format!("worker {}: {why}", record.worker)),
            _ => None,
        })
        .collect();
    if !planned.case.expect.errors && !verdict.errors.is_empty() {
        failures.push(format!("acquisitions failed: {:?}", verdict.errors));
    }
    failures
}

/// The losses of those whom no fault has struck.
fn unexpected_losses(
    planned: &Planned,
    records: &[Record],
    struck: &BTreeSet<usize>,
    times: Times,
) -> Vec<Exceeded> {
    let expected = |worker: usize| match planned.case.expect.losses {
        Losses::Nobody => false,
        Losses::Struck => struck.contains(&worker),
        Losses::Anybody => true,
    };
    records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Loss { key, reason, .. } if !expected(record.worker) => {
                let text = format!("worker {} lost key {key}: {reason}", record.worker);
                Some(Exceeded::loss(text, record.at, times))
            }
            _ => None,
        })
        .collect()
}

/// The grants that are missing, as the time that they would have taken.
fn too_little_load(planned: &Planned, records: &[Record], verdict: &Verdict) -> Option<Exceeded> {
    let (seen, wanted) = (verdict.grants, planned.case.expect.grants);
    let missing = wanted.checked_sub(seen).filter(|missing| *missing > 0)?;
    let (from, to) = (records.first()?.at, records.last()?.at);
    Some(Exceeded {
        text: format!("too little load: {seen} grants, {wanted} were wanted"),
        from,
        to,
        by: (to - from) * missing / wanted,
        pid: None,
    })
}
