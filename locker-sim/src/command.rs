//! The command line of the simulation: histories without end, or one of them to be read.
//!
//! It needs no crate, so that a mutant of the core is built and tried in seconds.

use super::campaign::{self, Campaign};
use super::run;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// One history, with everything that happened in it.
    Replay {
        /// Its seed.
        seed: u64,
    },
    /// The histories of these seeds.
    Play {
        /// The seeds.
        seeds: Range<u64>,
        /// Where what was played is noted, so that it need not be played again.
        resume: Option<PathBuf>,
    },
}

/// How it is called.
pub const USAGE: &str = "\
usage: locker-simulate --seed N               one history, event by event
       locker-simulate --seeds A..B           the histories of these seeds, summed up
       locker-simulate --seeds A..B --resume FILE
                                              notes in FILE what is done, and goes on from there";

/// Reads a command line, without the name of the program.
///
/// # Errors
///
/// A sentence about what cannot be understood.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let (mut seed, mut seeds, mut resume) = (None, None, None);
    let mut arguments = arguments.into_iter();
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{option} needs a value"));
        match option.as_str() {
            "--seed" => seed = Some(number(&value()?)?),
            "--seeds" => seeds = Some(range(&value()?)?),
            "--resume" => resume = Some(PathBuf::from(value()?)),
            _ => return Err(format!("{option} is unknown")),
        }
    }
    match (seed, seeds) {
        (Some(seed), None) if resume.is_none() => Ok(Command::Replay { seed }),
        (None, Some(seeds)) => Ok(Command::Play { seeds, resume }),
        _ => Err("either --seed or --seeds is wanted".to_owned()),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parts = text.split_once("..");
    let (from, to) = parts.ok_or(format!("{text:?} is no range like 0..1000"))?;
    let range = number(from)?..number(to)?;
    if range.is_empty() {
        return Err(format!("{text:?} is empty"));
    }
    Ok(range)
}

/// How many histories are noted at once.
const SLICE: u64 = 10_000;

impl Command {
    /// Does it. `say` is told what is to be read; the answer is 1 if a promise was broken.
    pub fn execute(self, mut say: impl FnMut(&str)) -> ExitCode {
        match self {
            Self::Replay { seed } => replay(seed, &mut say),
            Self::Play { seeds, resume } => {
                let began = Instant::now();
                let campaign = match resume {
                    None => Ok(campaign::play(seeds, |_| {})),
                    Some(file) => resumed(seeds, &file, &mut say),
                };
                match campaign {
                    Ok(campaign) => {
                        let took = began.elapsed();
                        say(&format!("{campaign}{took:>12.1?} in this run"));
                        end(&campaign, &mut say)
                    }
                    Err(error) => {
                        say(&format!("the file of a long run: {error}"));
                        ExitCode::from(74)
                    }
                }
            }
        }
    }
}

fn replay(seed: u64, say: &mut impl FnMut(&str)) -> ExitCode {
    let run = run(seed, true);
    for line in run.history.lines() {
        say(line);
    }
    let digest = run.history.digest();
    say(&format!("seed {seed}, digest {digest:016x}"));
    ExitCode::from(u8::from(run.violation.is_some()))
}

fn end(campaign: &Campaign, say: &mut impl FnMut(&str)) -> ExitCode {
    let Some((seed, violation)) = &campaign.worst else {
        return ExitCode::SUCCESS;
    };
    say(&format!("seed {seed} violates {violation}"));
    say(&format!("replay: locker-simulate --seed {seed}"));
    ExitCode::FAILURE
}

/// Plays what the file does not have yet, slice by slice, and sums up all of it.
fn resumed(
    seeds: Range<u64>,
    file: &std::path::Path,
    say: &mut impl FnMut(&str),
) -> std::io::Result<Campaign> {
    let mut all = Campaign::default();
    let mut next = seeds.start;
    if let Ok(text) = std::fs::read_to_string(file) {
        for line in text.lines() {
            let (played, campaign) = noted(line).ok_or_else(|| {
                std::io::Error::other(format!("{} has a line of another kind", file.display()))
            })?;
            if played.start == next && played.end <= seeds.end {
                next = played.end;
                all.merge(campaign);
            }
        }
    }
    if next > seeds.start {
        say(&format!("{} are noted already", next - seeds.start));
    }
    while next < seeds.end && all.worst.is_none() {
        let slice = next..seeds.end.min(next + SLICE);
        let campaign = campaign::play(slice.clone(), |_| {});
        if campaign.worst.is_none() {
            note(file, &slice, &campaign)?;
        }
        next = slice.end;
        all.merge(campaign);
    }
    Ok(all)
}

fn note(file: &std::path::Path, slice: &Range<u64>, campaign: &Campaign) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut line = format!("{}..{}", slice.start, slice.end);
    for number in campaign.numbers() {
        let _ = write!(line, " {number}");
    }
    line.push('\n');
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?;
    file.write_all(line.as_bytes())
}

fn noted(line: &str) -> Option<(Range<u64>, Campaign)> {
    let mut words = line.split(' ');
    let slice = range(words.next()?).ok()?;
    let numbers: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
    Some((slice, Campaign::of_numbers(&numbers?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_seed_is_replayed_and_a_range_is_played() {
        assert_eq!(parsed("--seed 7"), Ok(Command::Replay { seed: 7 }));
        let play = |resume| Command::Play {
            seeds: 1..9,
            resume,
        };
        assert_eq!(parsed("--seeds 1..9"), Ok(play(None)));
        let file = Some(PathBuf::from("f"));
        assert_eq!(parsed("--seeds 1..9 --resume f"), Ok(play(file)));
        for wrong in [
            "",
            "--seed",
            "--seed x",
            "--seeds 9..1",
            "--seed 1 --seeds 1..2",
            "-x",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_noted_is_summed_up_as_if_it_had_been_played_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("long");
        let at_once = campaign::play(0..60, |_| {});
        for (from, to) in [(0, 20), (20, 60)] {
            let campaign = campaign::play(from..to, |_| {});
            note(&file, &(from..to), &campaign).unwrap();
        }
        let summed = resumed(0..60, &file, &mut |_| {}).unwrap();
        assert_eq!(summed.numbers(), at_once.numbers());
        assert_eq!(summed.histories, 60);
    }
}
