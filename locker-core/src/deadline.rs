//! The atomic word that says until when an owner may act as the owner.
//!
//! There is one for each incarnation of a process and one for each lock. It is written by the
//! Reporter and read by the job, which share nothing else: so "am I still the owner?" costs a clock
//! reading and an atomic load, and the answer is right even when the Reporter is stopped.
//!
//! # Why nothing is ever revived (S5, attack 14)
//!
//! The word holds the deadline in nanoseconds; zero means *lost*. It moves forward only by
//! compare-and-exchange from a value that has not passed. Whoever first finds it passed exchanges
//! it for zero, and no transition leaves zero. Suppose the Reporter finds the word unpassed, is
//! then stopped for a minute, and a job finds it passed in the meantime: the job's exchange wins,
//! so the Reporter's fails. If nobody looked during that minute, nobody was told "invalid", and the
//! write that the Reporter confirms was acknowledged by the store, so nobody else owns either.
//!
//! A deadline can be *condemned*: it still lasts until its hard moment, but can never be extended
//! again. That is the time in which a job that was told to stop may clean up. The lowest bit says
//! so; a deadline is therefore exact to two nanoseconds.

use crate::time::Instant;
use std::sync::atomic::{AtomicU64, Ordering};

/// Until when an owner may act as the owner; lost for ever once that has passed.
#[derive(Debug)]
pub struct Deadline {
    word: AtomicU64,
}

const LOST: u64 = 0;
const CONDEMNED: u64 = 1;

fn pack(at: Instant) -> u64 {
    // Rounded down, and never `LOST` by accident: a deadline that early has passed anyway.
    at.as_nanos() & !CONDEMNED
}

impl Deadline {
    /// A deadline at this moment.
    pub fn new(at: Instant) -> Self {
        Self {
            word: AtomicU64::new(pack(at)),
        }
    }

    /// Until when the owner may act; `None` once lost. It does not look at the clock.
    pub fn get(&self) -> Option<Instant> {
        match self.word.load(Ordering::Acquire) {
            LOST => None,
            word => Some(Instant::from_nanos(word & !CONDEMNED)),
        }
    }

    /// Whether the owner may act at `now`. The first reader that finds the moment passed makes the
    /// loss final.
    pub fn is_valid(&self, now: Instant) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word == LOST {
                return false;
            }
            if now.as_nanos() < word & !CONDEMNED {
                return true;
            }
            match self
                .word
                .compare_exchange(word, LOST, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return false,
                Err(current) => word = current,
            }
        }
    }

    /// Moves the deadline to `at` if it has not passed at `now`, is not condemned, and is earlier.
    /// Answers whether the owner is still valid and may be extended.
    pub fn extend(&self, now: Instant, at: Instant) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word == LOST || word & CONDEMNED != 0 {
                return false;
            }
            let next = if now.as_nanos() >= word {
                LOST
            } else {
                pack(at).max(word)
            };
            match self
                .word
                .compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return next != LOST,
                Err(current) => word = current,
            }
        }
    }

    /// Says that this deadline is the last one: it is never extended again, and lasts until the
    /// earlier of itself and `at`. Answers when it ends.
    pub fn condemn(&self, at: Instant) -> Option<Instant> {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word == LOST {
                return None;
            }
            let next = match pack(at).min(word & !CONDEMNED) {
                0 => LOST,
                deadline => deadline | CONDEMNED,
            };
            match self
                .word
                .compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return (next != LOST).then(|| Instant::from_nanos(next & !CONDEMNED)),
                Err(current) => word = current,
            }
        }
    }

    /// Ends it at once and for ever.
    pub fn lose(&self) {
        // An exchange, as every change of the word is: so they have one order, and none is undone.
        self.word.swap(LOST, Ordering::AcqRel);
    }

    /// Whether it can still be extended, as far as the word tells.
    pub fn is_open(&self) -> bool {
        self.word.load(Ordering::Acquire) & CONDEMNED == 0
            && self.word.load(Ordering::Acquire) != LOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// S5: a late acknowledgement revives nothing.
    #[test]
    fn a_lost_deadline_is_never_extended() {
        let deadline = Deadline::new(at(10));
        assert!(deadline.is_valid(at(9)));
        assert!(!deadline.is_valid(at(10)));
        assert!(
            !deadline.extend(at(9), at(100)),
            "lost for ever, even by an earlier reading"
        );
        assert!(!deadline.is_valid(at(9)));
    }

    /// Attack 14 a: the Reporter checks in time, acts late.
    #[test]
    fn an_acknowledgement_that_is_handled_after_the_deadline_counts_for_nothing() {
        let deadline = Deadline::new(at(10));
        assert!(!deadline.extend(at(11), at(20)));
        assert_eq!(deadline.get(), None);
    }

    #[test]
    fn a_deadline_never_moves_back() {
        let deadline = Deadline::new(at(10));
        assert!(deadline.extend(at(1), at(5)));
        assert!(deadline.is_valid(at(9)));
    }

    #[test]
    fn a_condemned_deadline_lasts_but_is_not_extended() {
        let deadline = Deadline::new(at(10));
        assert_eq!(deadline.condemn(at(8)), Some(at(8)));
        assert!(!deadline.extend(at(1), at(50)));
        assert!(deadline.is_valid(at(7)));
        assert_eq!(
            deadline.condemn(at(9)),
            Some(at(8)),
            "condemning twice does not lengthen it"
        );
        assert!(!deadline.is_valid(at(8)));
    }

    #[test]
    fn of_a_reader_and_a_writer_that_race_over_the_deadline_one_wins_for_ever() {
        for _ in 0..2_000 {
            let deadline = Arc::new(Deadline::new(at(10)));
            let reader = {
                let deadline = Arc::clone(&deadline);
                std::thread::Builder::new()
                    .spawn(move || deadline.is_valid(at(11)))
                    .unwrap()
            };
            let extended = deadline.extend(at(9), at(20));
            let seen_valid = reader.join().unwrap();
            assert_eq!(extended, deadline.is_valid(at(12)));
            assert_eq!(
                extended, seen_valid,
                "told invalid and extended, or the reverse"
            );
        }
    }
}
