//! Medians, and the table that is printed.

use std::fmt;

/// The middle of a number of measurements, with the smallest and the largest.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest one.
    pub least: f64,
    /// The largest one.
    pub most: f64,
}

impl Spread {
    /// Of these measurements; of none it is no number.
    pub fn of(mut values: Vec<f64>) -> Self {
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
pub enum Target {
    /// Met from here upwards.
    AtLeast(f64),
    /// Met up to here.
    AtMost(f64),
    /// It is for information.
    None,
}

/// Ratios, and the figures behind them.
#[derive(Debug, Default)]
pub struct Report {
    ratios: Vec<(String, Spread, Target)>,
    figures: Vec<(String, String)>,
}

impl Report {
    /// Adds a ratio to what the bare client does.
    pub fn ratio(&mut self, what: impl Into<String>, ratio: Spread, target: Target) {
        self.ratios.push((what.into(), ratio, target));
    }

    /// Adds a figure.
    pub fn figure(&mut self, what: impl Into<String>, value: impl Into<String>) {
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
