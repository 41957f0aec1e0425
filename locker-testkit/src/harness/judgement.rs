//! From what happened to whether it was right: the verdict against what the case expects.

use super::cases::{Ground, Losses};
use super::event::{Event, Record};
use super::report::svg;
use super::run::{CaseReport, Outcome, Planned};
use super::scene::{KEYS, Scene};
use super::times::as_micros;
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
    conditional.extend(expectations(planned, &records, &findings.struck, &verdict));
    let mut stalled = verdict.gap > as_micros(scene.times.stalled());
    for exceeded in findings.exceeded {
        // A time that the machine itself has eaten shows nothing about the store.
        let gap = evidence.time_lost(exceeded.from, exceeded.to);
        if gap >= exceeded.by {
            stalled = true;
            #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
            let millis = gap as f64 / 1000.0;
            let text = exceeded.text;
            report.notes.push(format!(
                "{text}; the machine stood still for {millis:.0} ms of it"
            ));
        } else {
            conditional.push(exceeded.text);
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

fn expectations(
    planned: &Planned,
    records: &[Record],
    struck: &BTreeSet<usize>,
    verdict: &Verdict,
) -> Vec<String> {
    let expect = planned.case.expect;
    let mut failures = Vec::new();
    for record in records {
        match &record.event {
            Event::Loss { key, reason, .. } => {
                let allowed = match expect.losses {
                    Losses::Nobody => false,
                    Losses::Struck => struck.contains(&record.worker),
                    Losses::Anybody => true,
                };
                if !allowed {
                    let worker = record.worker;
                    failures.push(format!("worker {worker} lost key {key}: {reason}"));
                }
            }
            Event::Failed { why } => failures.push(format!("worker {}: {why}", record.worker)),
            _ => {}
        }
    }
    failures.extend(
        verdict
            .late_stops
            .iter()
            .map(|text| format!("late stop: {text}")),
    );
    if !expect.errors && !verdict.errors.is_empty() {
        failures.push(format!("acquisitions failed: {:?}", verdict.errors));
    }
    if verdict.grants < expect.grants {
        let (seen, wanted) = (verdict.grants, expect.grants);
        failures.push(format!(
            "too little load: {seen} grants, {wanted} were wanted"
        ));
    }
    failures
}
