//! Medians, and the table that is printed.

use std::fmt;
use std::time::Duration;

/// The middle of a number of measurements, with the smallest and the largest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(values.len() / 2),
            least: at(0),
            most: at(values.len().saturating_sub(1)),
        }
    }
}

/// What a ratio must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    None,
}

/// Ratios, and the figures behind them.
#[derive(Debug, Default)]
pub(crate) struct Report {
    ratios: Vec<(String, Spread, Target)>,
    figures: Vec<(String, String)>,
}

impl Report {
    pub(crate) fn ratio(&mut self, what: impl Into<String>, ratio: Spread, target: Target) {
        self.ratios.push((what.into(), ratio, target));
    }

    pub(crate) fn figure(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.figures.push((what.into(), value.into()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = |names: &mut dyn Iterator<Item = &String>| names.map(String::len).max();
        let width = widest(&mut self.ratios.iter().map(|(what, ..)| what)).unwrap_or(0);
        writeln!(
            f,
            "{:width$}  {:>7} {:>7} {:>7}  target",
            "ratio to the bare client", "median", "min", "max"
        )?;
        for (what, ratio, target) in &self.ratios {
            let Spread {
                median,
                least,
                most,
            } = ratio;
            write!(f, "{what:width$}  {median:>7.2} {least:>7.2} {most:>7.2}  ")?;
            match target {
                Target::AtLeast(wanted) => {
                    let word = if median >= wanted { "met" } else { "MISSED" };
                    writeln!(f, ">= {wanted:.2} {word}")?;
                }
                Target::AtMost(wanted) => {
                    let word = if median <= wanted { "met" } else { "MISSED" };
                    writeln!(f, "<= {wanted:.2} {word}")?;
                }
                Target::None => writeln!(f)?,
            }
        }
        writeln!(f)?;
        let width = widest(&mut self.figures.iter().map(|(what, _)| what)).unwrap_or(0);
        for (what, value) in &self.figures {
            writeln!(f, "{what:width$}  {value}")?;
        }
        Ok(())
    }
}

/// In microseconds, for people.
pub(crate) fn micros(value: Duration) -> f64 {
    value.as_secs_f64() * 1e6
}
