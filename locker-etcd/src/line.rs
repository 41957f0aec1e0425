//! What one wait knows of its lock and of the line before it. The watch stream tells it what happens,
//! and the stream of hints asks it; nothing is read from the store for it.
//!
//! # Why no wake-up is missed
//!
//! Both watches are confirmed before the enrolment is sent, and the enrolment counts the line. So a
//! seat that goes is either not in what was counted, or its deletion is told; deletions that are told
//! before the count is known are remembered for it. A deletion bears its own revision and that at
//! which the seat was created, which no other seat has: so whoever leaves is known to have stood
//! before or behind, and one who left and enrolled again is another.
//!
//! The driver tries once more after it has subscribed: what the lock was before does not matter, and
//! it counts as held until it is seen to go. From then on each deletion of the lock is a hint, with the
//! place that the wait has then. Whoever leaves meanwhile leaves its turn unused, which the places
//! behind it wait for anyhow; only who becomes the first by it is told at once. What is not read yet is
//! replaced by what is newer, and taken back when the lock is put again: its next deletion is a hint of
//! its own.

use futures_util::task::AtomicWaker;
use locker_core::backend::Hint;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Nobody is put further back than this: it would wait for more than a second.
const LAST: u32 = 64;

/// One wait, shared by the task of the subscription and by the stream of hints.
#[derive(Debug, Default)]
pub(crate) struct View {
    state: Mutex<State>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    /// Seen to go, and not seen to come back.
    free: bool,
    /// There is something to hint at.
    news: bool,
    end: Option<End>,
    line: Line,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A watch has: what was told before is heard, and no more.
    Watch,
    /// The own seat is gone: whoever waited with it is dead, or waits with another.
    Seat,
}

/// A seat that was deleted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    /// The revision that created it.
    pub(crate) created: i64,
    /// The revision that deleted it.
    pub(crate) at: i64,
}

/// The line before a waiter.
#[derive(Debug)]
enum Line {
    /// It is not known yet, but for those that have left it meanwhile. An observer never knows it.
    Unknown(Vec<Left>),
    /// At which revision the own seat was created, and how many stand before it.
    Known { own: i64, before: i64 },
}

impl Default for Line {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

impl View {
    /// Takes the line as it was at a revision: how many stood before the seat that was created at `own`.
    pub(crate) fn stand(&self, own: i64, before: i64, at: i64) {
        self.tell(|state| {
            let known = Line::Known { own, before };
            if let Line::Unknown(left) = std::mem::replace(&mut state.line, known) {
                for seat in left
                    .into_iter()
                    .filter(|seat| seat.at > at || seat.created == own)
                {
                    state.goes(seat);
                }
            }
        });
    }

    /// The record of the lock was deleted, or it was put.
    pub(crate) fn lock_is_free(&self, free: bool) {
        self.tell(|state| {
            state.free = free;
            state.news = free;
        });
    }

    /// A seat was deleted.
    pub(crate) fn has_left(&self, seat: Left) {
        self.tell(|state| state.goes(seat));
    }

    /// A watch has ended, and the wait with it.
    pub(crate) fn end(&self) {
        self.tell(|state| state.end = state.end.or(Some(End::Watch)));
    }

    /// The next hint; `None` when the wait has ended, and what was told before was heard.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        // Before the look: what comes after it wakes.
        self.waker.register(context.waker());
        let mut state = self.state();
        if state.end == Some(End::Seat) {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut state.news) {
            let place = match state.line {
                Line::Unknown(_) => 0,
                Line::Known { before, .. } => u32::try_from(before).unwrap_or(0).min(LAST),
            };
            return Poll::Ready(Some(Hint::Free { place }));
        }
        match state.end {
            Some(_) => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn tell(&self, what: impl FnOnce(&mut State)) {
        let mut state = self.state();
        what(&mut state);
        let wake = state.news || state.end.is_some();
        drop(state);
        if wake {
            self.waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn goes(&mut self, seat: Left) {
        match &mut self.line {
            Line::Unknown(left) => left.push(seat),
            Line::Known { own, .. } if *own == seat.created => self.end = Some(End::Seat),
            Line::Known { own, before } => {
                if seat.created < *own {
                    *before -= 1;
                    self.news |= self.free && *before == 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(view: &View) -> Poll<Option<Hint>> {
        view.poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    const fn place(place: u32) -> Poll<Option<Hint>> {
        Poll::Ready(Some(Hint::Free { place }))
    }

    const fn left(created: i64, at: i64) -> Left {
        Left { created, at }
    }

    /// A waiter of revision 3, behind those of 1 and 2.
    fn third() -> View {
        let view = View::default();
        view.stand(3, 2, 4);
        view
    }

    #[test]
    fn whoever_leaves_from_before_brings_it_forward_and_whoever_leaves_from_behind_does_not() {
        let view = third();
        view.has_left(left(4, 5));
        view.lock_is_free(true);
        assert_eq!(poll(&view), place(2));
        assert_eq!(poll(&view), Poll::Pending);
        view.lock_is_free(false);
        view.has_left(left(1, 6));
        assert_eq!(poll(&view), Poll::Pending, "the lock is held");
        view.lock_is_free(true);
        assert_eq!(poll(&view), place(1));
        // The first has given up while the lock is free.
        view.has_left(left(2, 7));
        assert_eq!(poll(&view), place(0));
    }

    /// A hint that is not the last would put off the turn that it has already.
    #[test]
    fn a_step_forward_is_no_hint_before_it_is_the_last() {
        let view = third();
        view.lock_is_free(true);
        assert_eq!(poll(&view), place(2));
        view.has_left(left(1, 6));
        assert_eq!(poll(&view), Poll::Pending);
        view.has_left(left(2, 7));
        assert_eq!(poll(&view), place(0));
    }

    #[test]
    fn a_hint_that_was_not_read_gives_way_to_a_newer_one_and_to_a_new_holder() {
        let view = third();
        view.lock_is_free(true);
        view.has_left(left(1, 5));
        view.has_left(left(2, 6));
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
        // It left before the line was counted.
        view.has_left(left(1, 2));
        // It left afterwards.
        view.has_left(left(4, 9));
        // It came and left behind.
        view.has_left(left(7, 8));
        view.stand(5, 2, 6);
        view.lock_is_free(true);
        assert_eq!(poll(&view), place(1));
    }

    #[test]
    fn the_wait_ends_with_the_own_enrolment() {
        let view = third();
        view.has_left(left(3, 5));
        view.lock_is_free(true);
        assert_eq!(poll(&view), Poll::Ready(None));
        let early = View::default();
        early.has_left(left(3, 4));
        early.stand(3, 0, 4);
        assert_eq!(poll(&early), Poll::Ready(None));
    }

    #[test]
    fn what_was_told_before_a_watch_ended_is_heard() {
        let view = third();
        view.lock_is_free(true);
        view.end();
        assert_eq!(poll(&view), place(2));
        assert_eq!(poll(&view), Poll::Ready(None));
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
