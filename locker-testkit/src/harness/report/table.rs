//! The table on the terminal.

use super::NotRun;
use crate::harness::run::{CaseReport, Outcome};
use crate::harness::scene::Measure;
use std::fmt::Write;

/// Of what was measured so often, every value is shown.
const MANY: usize = 20;

/// All cases, one line each, with what they measured below.
pub fn table(reports: &[CaseReport]) -> String {
    let mut out = String::new();
    let names = reports.iter().map(|report| name(report).chars().count());
    let wide = names.max().unwrap_or(0).max(5);
    let _ = writeln!(
        out,
        "{:wide$}  {:8} {:>6} {:>6} {:>6}  {:>3} {:>3} {:>5}  {:>6} {:>5}  what was done",
        "fault", "verdict", "grants", "losses", "errors", "V1", "V2", "V3", "gap ms", "s"
    );
    for report in reports {
        let _ = writeln!(out, "{}", line(report, wide));
        for text in details(report) {
            let _ = writeln!(out, "{:wide$}    {text}", "");
        }
    }
    out
}

/// One case, one line.
fn line(report: &CaseReport, wide: usize) -> String {
    let verdict = &report.verdict;
    let outcome = match report.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Stalled => "stalled",
    };
    let clashes = match verdict.paused_clashes {
        0 => verdict.clashes.len().to_string(),
        paused => format!("{}+{paused}p", verdict.clashes.len()),
    };
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    let gap = verdict.gap as f64 / 1000.0;
    format!(
        "{:wide$}  {outcome:8} {:>6} {:>6} {:>6}  {:>3} {:>3} {clashes:>5}  {gap:>6.0} {:>5.1}  {} → {}",
        name(report),
        verdict.grants,
        verdict.losses.values().sum::<u64>(),
        verdict.errors.values().sum::<u64>(),
        verdict.overlaps.len(),
        verdict.disorder.len(),
        report.seconds,
        report.title,
        report.expected,
    )
}

/// One case that has just ended: its line, and why it did not pass.
pub fn progress(report: &CaseReport) -> String {
    let mut out = line(report, 30);
    for text in reasons(report) {
        let _ = write!(out, "\n    {text}");
    }
    out
}

fn name(report: &CaseReport) -> String {
    format!("{} {}", report.deployment, report.name)
}

fn details(report: &CaseReport) -> Vec<String> {
    let mut lines: Vec<String> = report.measures.iter().map(measure).collect();
    let (refused, passed) = report.verdict.late_writes;
    if refused + passed > 0 {
        lines.push(format!(
            "writes after the loss: {refused} refused by token, {passed} before any later token"
        ));
    }
    if !report.verdict.fenced.is_empty() {
        let fenced = report.verdict.fenced.len();
        lines.push(format!(
            "owners refused by token before they were told: {fenced}"
        ));
    }
    for (what, counts) in [
        ("losses", &report.verdict.losses),
        ("errors", &report.verdict.errors),
    ] {
        if !counts.is_empty() {
            let counts: Vec<String> = counts.iter().map(|(k, n)| format!("{k} {n}")).collect();
            lines.push(format!("{what}: {}", counts.join(", ")));
        }
    }
    if let Some(longest) = report.verdict.overlaps.iter().map(|one| one.micros).max() {
        let millis = longest / 1000;
        lines.push(format!("the longest overlap: {millis} ms"));
    }
    if report.stalls > 0 {
        lines.push(format!(
            "run again {} times: the machine stood still",
            report.stalls
        ));
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(reasons(report));
    lines
}

/// Why it did not pass, and where to look.
fn reasons(report: &CaseReport) -> Vec<String> {
    if report.outcome == Outcome::Passed {
        return Vec::new();
    }
    let first = report.failures.iter().take(12);
    let mut lines: Vec<String> = first.map(|failure| format!("✗ {failure}")).collect();
    if report.failures.len() > 12 {
        lines.push(format!("✗ and {} more", report.failures.len() - 12));
    }
    lines.push(format!("evidence: {}", report.evidence.display()));
    lines.push(format!("again: {}", report.replay));
    lines
}

fn measure(measure: &Measure) -> String {
    let mut sorted = measure.values.clone();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let largest = sorted.last().copied().unwrap_or_default();
    let (what, unit) = (&measure.what, measure.unit);
    let limit = match measure.limit {
        Some(limit) => format!(" (at most {limit:.0})"),
        None => String::new(),
    };
    match sorted.len() {
        1 if unit.is_empty() => format!("{what}: {largest:.2}{limit}"),
        1 => format!("{what}: {largest:.1} {unit}{limit}"),
        times => {
            let summary =
                format!("{what}: {middle:.1}, worst {largest:.1} {unit}{limit}, {times}×");
            if times < MANY {
                return summary;
            }
            let each = measure.values.iter().map(|value| format!(" {value:.0}"));
            summary + ":" + &each.collect::<String>()
        }
    }
}

/// The cells that are not run, and why.
pub fn cells(cells: &[NotRun]) -> String {
    let mut out = String::new();
    for cell in cells {
        let (how, why) = match (cell.shown_by, cell.does_not_apply) {
            (Some(test), _) => ("shown by", test),
            (None, Some(reason)) => ("does not apply:", reason),
            (None, None) => ("", ""),
        };
        let _ = writeln!(
            out,
            "{} {}: {}; {how} {why}",
            cell.fault, cell.deployment, cell.title
        );
    }
    out
}
