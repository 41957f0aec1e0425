//! A part of the store that is silent, while the others answer.
//!
//! It is silent on every connection: each would be given up after a request timeout or two, and the rest
//! of the store, which is sound, asked for another by every locker there is (F12). So where a connection
//! answers others, such silence costs it its place at once, because one of its sockets may be dead, and
//! then at most once in twice the time of the last time.
//!
//! *Which silence is that?* Of a caller's request: while another that was sent later was answered. Of the
//! Reporter's, which asks one thing after the other: of one about what was not answered the last time
//! either, of every release, and of the retirement of what has ended. Whatever else of the Reporter's is
//! lost closes the connection as ever, so what is answered as a rule has what `Timing` allows it.
//!
//! *And if the Reporter asks nothing but that part, as one that keeps a single lock does?* Then nothing
//! on its connection is ever answered. But to have opened it was an answer of the rest: a store that is
//! silent as a whole lets nobody in, and asking it for connections is all that can be done.
//!
//! *Can a dead connection of the Reporter's be spared like that?* One that is spared was opened since
//! one was last closed for this: a minute and a half ago at most, and that is also how long it is spared.
//! With the default times an extension may be as late as that.

use super::MOST_DOUBLINGS;
use locker_core::Instant;
use std::time::Duration;

/// Whether what a request is about was answered the last time, so that its silence would be news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It was, or nothing is known.
    IsNews,
    /// It was not.
    IsKnown,
}

/// A part of the store that is silent.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// How often a connection lost its place for its sake.
    times: u32,
    /// Until when none does, and how long that is in all.
    spares: Option<(Instant, Duration)>,
}

impl Part {
    /// Whether a connection is to lose its place for its sake. Silence that comes long after the last
    /// one is another one.
    pub(super) fn is_due(&mut self, now: Instant, timeout: Duration) -> bool {
        self.times = match self.spares {
            Some((until, _)) if now < until => return false,
            Some((until, pause)) if now < until + pause => self.times + 1,
            _ => 1,
        };
        let pause = timeout * 2_u32.pow(self.times.min(MOST_DOUBLINGS));
        self.spares = Some((now + pause, pause));
        true
    }
}
