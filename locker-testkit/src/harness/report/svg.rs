//! A picture of one case: who held what when, and what was done to whom.

use crate::harness::event::Event;
use crate::harness::scene::KEYS;
use crate::harness::verdict::{Evidence, Verdict};
use std::fmt::Write;

const WIDTH: f64 = 1600.0;
const LEFT: f64 = 90.0;
const TOP: f64 = 50.0;
const ROW: f64 = 16.0;
const COLOURS: [&str; 6] = [
    "#3b7dd8", "#d8843b", "#3ba55c", "#a13bd8", "#b0a020", "#20a0a0",
];

/// Draws it. Each worker has a row for each key; time runs to the right.
pub fn timeline(title: &str, evidence: &Evidence<'_>, verdict: &Verdict) -> String {
    let workers = 1 + evidence
        .records
        .iter()
        .map(|record| record.worker)
        .filter(|worker| *worker != usize::MAX)
        .max()
        .unwrap_or(0);
    let first = evidence.records.first().map_or(0, |record| record.at);
    let last = evidence
        .records
        .last()
        .map_or(1, |record| record.at)
        .max(first + 1);
    let canvas = Canvas { first, last };
    let height = TOP + ROW * as_float(workers * (KEYS + 1)) + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"15\">{}: {} grants, V1 {}, V2 {}, V3 {}</text>\n",
        escape(title),
        verdict.grants,
        verdict.overlaps.len(),
        verdict.disorder.len(),
        verdict.clashes.len(),
    );
    canvas.grid(&mut out, height);
    for window in evidence.windows {
        let (top, tall) = match window.worker {
            Some(worker) => (row(worker, 0), ROW * as_float(KEYS)),
            None => (TOP, height - TOP - 30.0),
        };
        let colour = if window.paused { "#999999" } else { "#e8a0a0" };
        let what = escape(&window.what);
        canvas.bar(
            &mut out,
            (window.from, window.to),
            top,
            tall,
            colour,
            0.4,
            &what,
        );
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\" fill=\"#a03030\">{what}</text>",
            canvas.x(window.from),
            top - 1.0
        );
    }
    labels(&mut out, workers);
    for interval in evidence.intervals() {
        let colour = COLOURS[interval.worker % COLOURS.len()];
        let top = row(interval.worker, interval.key) + 2.0;
        let (token, pid) = (interval.token, interval.pid);
        let what = format!("key {}, token {token}, process {pid}", interval.key);
        canvas.bar(
            &mut out,
            (interval.from, interval.to),
            top,
            ROW - 4.0,
            colour,
            0.9,
            &what,
        );
    }
    for record in evidence.records {
        let (key, colour, what) = match &record.event {
            Event::Loss { key, reason, .. } => (*key, "#d00000", reason.as_str()),
            Event::Refused { key, kind } => (*key, "#ff8c00", kind.as_str()),
            Event::Fenced { key, .. } => (*key, "#000000", "refused by token"),
            _ => continue,
        };
        if record.worker != usize::MAX {
            let top = row(record.worker, key);
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
                 stroke-width=\"1.5\"><title>{}</title></line>",
                top + ROW,
                escape(what),
                x = canvas.x(record.at),
            );
        }
    }
    for overlap in &verdict.overlaps {
        let top = row(overlap.second.worker, overlap.second.key);
        let from = overlap.second.from;
        let span = (from, from + overlap.micros);
        canvas.bar(&mut out, span, top, ROW, "#d00000", 0.7, "both valid");
    }
    out.push_str("</svg>\n");
    out
}

struct Canvas {
    first: u64,
    last: u64,
}

impl Canvas {
    fn x(&self, at: u64) -> f64 {
        let at = at.clamp(self.first, self.last);
        let part = as_micros_float(at - self.first) / as_micros_float(self.last - self.first);
        LEFT + part * (WIDTH - LEFT - 10.0)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a rectangle has four sides, a colour and a name"
    )]
    fn bar(
        &self,
        out: &mut String,
        (from, to): (u64, u64),
        top: f64,
        tall: f64,
        colour: &str,
        opacity: f64,
        what: &str,
    ) {
        let x = self.x(from);
        let wide = (self.x(to) - x).max(0.7);
        let _ = writeln!(
            out,
            "<rect x=\"{x:.2}\" y=\"{top:.1}\" width=\"{wide:.2}\" height=\"{tall:.1}\" \
             fill=\"{colour}\" fill-opacity=\"{opacity}\"><title>{what}</title></rect>"
        );
    }

    fn grid(&self, out: &mut String, height: f64) {
        let mut second = 0;
        while self.first + second * 1_000_000 < self.last {
            let x = self.x(self.first + second * 1_000_000);
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" fill=\"#888888\">{second} s</text>",
                height - 25.0,
                height - 12.0
            );
            second += 1;
        }
    }
}

fn labels(out: &mut String, workers: usize) {
    for worker in 0..workers {
        for key in 0..KEYS {
            let _ = writeln!(
                out,
                "<text x=\"8\" y=\"{:.1}\">worker {worker} · {key}</text>",
                row(worker, key) + ROW * 0.7
            );
        }
    }
}

fn row(worker: usize, key: usize) -> f64 {
    TOP + ROW * as_float(worker * (KEYS + 1) + key)
}

#[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
fn as_micros_float(micros: u64) -> f64 {
    micros as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
