//! What one wait knows of its lock and of the line before it. The watch stream tells it what happens,
//! and the stream of hints asks it; nothing is read from the store for it.
//!
//! # Why no wake-up is missed
//!
//! Both watches are confirmed before the enrolment is sent, and the enrolment reads the line. So a
//! seat that goes is either not in what was read, or its deletion is told; deletions that are told
//! before the line is known are remembered for it. A deletion bears its revision and a seat that of
//! its creation, so one who left and enrolled again is not taken for gone.
//!
//! The driver tries once more after it has subscribed: what the lock was before does not matter, and
//! it counts as held until it is seen to go. From then on each deletion of the lock is a hint, and so
//! is each step forward in the line while the lock is free. What is not read yet is replaced by what
//! is newer, and taken back when the lock is put again: its next deletion is a hint of its own.

use futures_util::task::AtomicWaker;
use locker_core::backend::Hint;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Nobody is put further back than this: it would wait for more than a second.
const LAST: usize = 64;

/// One wait, shared by the task of the hub and by the stream of hints.
#[derive(Debug, Default)]
pub(crate) struct View {
    state: Mutex<State>,
    waker: AtomicWaker,
}

/// An enrolment: its name, and the revision that created it.
pub(crate) type Enrolled = (Vec<u8>, i64);

#[derive(Debug, Default)]
struct State {
    /// Seen to go, and not seen to come back.
    free: bool,
    /// There is something to hint at.
    news: bool,
    ended: bool,
    line: Line,
}

/// The line before a waiter.
#[derive(Debug)]
enum Line {
    /// It is not known yet: what has left it meanwhile, and at which revision. An observer never
    /// knows it.
    Unknown(HashMap<Vec<u8>, i64>),
    /// Where the waiter stands, and who stands before it.
    Known {
        own: Enrolled,
        before: HashMap<Vec<u8>, i64>,
    },
}

impl Default for Line {
    fn default() -> Self {
        Self::Unknown(HashMap::new())
    }
}

impl View {
    /// Takes the line, as the own enrolment found it.
    pub(crate) fn stand(&self, own: Enrolled, all: impl Iterator<Item = Enrolled>) {
        self.tell(|state| {
            let mut before: HashMap<_, _> = all.filter(|(_, created)| *created < own.1).collect();
            if let Line::Unknown(left) = &state.line {
                let stays = |name: &[u8], created| left.get(name).is_none_or(|at| *at < created);
                before.retain(|name, created| stays(name, *created));
                state.ended |= !stays(&own.0, own.1);
            }
            state.line = Line::Known { own, before };
        });
    }

    /// The record of the lock was deleted, or it was put.
    pub(crate) fn lock_is_free(&self, free: bool) {
        self.tell(|state| {
            state.free = free;
            state.news = free;
        });
    }

    /// An enrolment was deleted, at this revision.
    pub(crate) fn has_left(&self, name: &[u8], at: i64) {
        self.tell(|state| match &mut state.line {
            Line::Unknown(left) => {
                left.insert(name.to_vec(), at);
            }
            Line::Known { own, .. } if own.0 == name => state.ended |= own.1 < at,
            Line::Known { before, .. } => {
                if before.get(name).is_some_and(|created| *created < at) {
                    before.remove(name);
                    state.news |= state.free;
                }
            }
        });
    }

    /// A watch has ended, and the wait with it.
    pub(crate) fn end(&self) {
        self.tell(|state| state.ended = true);
    }

    /// The next hint; `None` when the wait has ended.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        // Before the look: what comes after it wakes.
        self.waker.register(context.waker());
        let mut state = self.state();
        if state.ended {
            return Poll::Ready(None);
        }
        if !std::mem::take(&mut state.news) {
            return Poll::Pending;
        }
        let place = match &state.line {
            Line::Unknown(_) => 0,
            Line::Known { before, .. } => before.len().min(LAST),
        };
        let place = u32::try_from(place).unwrap_or(0);
        Poll::Ready(Some(Hint::Free { place }))
    }

    fn tell(&self, what: impl FnOnce(&mut State)) {
        let mut state = self.state();
        what(&mut state);
        let wake = state.news || state.ended;
        drop(state);
        if wake {
            self.waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(name: &str, created: i64) -> Enrolled {
        (name.into(), created)
    }

    fn poll(view: &View) -> Poll<Option<Hint>> {
        view.poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    const fn place(place: u32) -> Poll<Option<Hint>> {
        Poll::Ready(Some(Hint::Free { place }))
    }

    /// A waiter behind `a` and `b`.
    fn third() -> View {
        let view = View::default();
        let all = [seat("a", 1), seat("me", 3), seat("b", 2), seat("c", 4)];
        view.stand(seat("me", 3), all.into_iter());
        view
    }

    #[test]
    fn whoever_leaves_from_before_brings_it_forward_and_whoever_leaves_from_behind_does_not() {
        let view = third();
        view.has_left(b"c", 5);
        view.lock_is_free(true);
        assert_eq!(poll(&view), place(2));
        assert_eq!(poll(&view), Poll::Pending);
        view.lock_is_free(false);
        view.has_left(b"a", 6);
        assert_eq!(poll(&view), Poll::Pending, "the lock is held");
        view.lock_is_free(true);
        assert_eq!(poll(&view), place(1));
        // The first has given up while the lock is free.
        view.has_left(b"b", 7);
        assert_eq!(poll(&view), place(0));
    }

    #[test]
    fn a_hint_that_was_not_read_gives_way_to_a_newer_one_and_to_a_new_holder() {
        let view = third();
        view.lock_is_free(true);
        view.has_left(b"a", 5);
        view.has_left(b"b", 6);
        assert_eq!(poll(&view), place(0));
        view.lock_is_free(true);
        view.lock_is_free(false);
        assert_eq!(poll(&view), Poll::Pending);
        view.lock_is_free(true);
        assert_eq!(poll(&view), place(0));
    }

    /// The watch is opened before the enrolment, so its news may come first.
    #[test]
    fn what_is_told_before_the_line_is_known_counts() {
        let view = View::default();
        // It left before the line was read, and stands in it again.
        view.has_left(b"a", 1);
        // It left after the line was read.
        view.has_left(b"b", 9);
        // The former enrolment of the process itself.
        view.has_left(b"me", 2);
        let all = [seat("a", 3), seat("b", 4), seat("me", 5)];
        view.stand(seat("me", 5), all.into_iter());
        view.lock_is_free(true);
        assert_eq!(poll(&view), place(1));
    }

    #[test]
    fn the_wait_ends_with_the_own_enrolment() {
        let view = third();
        view.has_left(b"me", 2);
        assert_eq!(poll(&view), Poll::Pending, "that was a former one");
        view.has_left(b"me", 4);
        assert_eq!(poll(&view), Poll::Ready(None));
        let early = View::default();
        early.has_left(b"me", 4);
        early.stand(seat("me", 3), std::iter::once(seat("me", 3)));
        assert_eq!(poll(&early), Poll::Ready(None));
    }

    #[test]
    fn an_observer_is_hinted_at_every_release_and_delays_nobody() {
        let view = View::default();
        for _ in 0..2 {
            view.lock_is_free(true);
            assert_eq!(poll(&view), place(0));
            view.lock_is_free(false);
        }
        assert_eq!(poll(&view), Poll::Pending);
    }
}
