//! Whether a caller's connection lives, by how the requests on it end.
//!
//! A connection that broke is dead. But one whose other end is gone, and nobody said so, looks like
//! one whose store is slow: a request on it runs out of time. Closing it would be wrong where the
//! store is slow, because of the network or of its load: there opening a connection is the slowest of
//! all, and the most expensive for the store. It would be asked for connections and nothing else, and
//! nobody would get anything done (F12). So the connection is *doubted*: with the next request another
//! one is opened, and takes its place when it gets through. Until then:
//!
//! | doubt | comes when | who asks | a request that runs out of time | no other can be had |
//! | --- | --- | --- | --- | --- |
//! | none | it is new | uses it | makes it `Lost`, or `Answers`; says nothing while others are answered, but now and then | |
//! | `Lost` | a request has run out of time | waits for the other one, for a quarter of its time | closes it | it stays |
//! | `Answers` | so has one, and one that was sent later was answered | does not wait | says nothing new | ends |
//! | `Left` | those who left have waited for long | does not wait | makes it `Lost` | it stays |
//!
//! *Why is one replaced that answers?* It may consist of several sockets, of which one is dead. But a
//! part of the store may be silent as well, and then the next one is no better: that is why it says
//! nothing most of the time, see [`part`](super::part).
//!
//! *Why do those who leave count?* A caller with less patience than a request has takes its request
//! with it, and nobody hears whether it would have been answered. Where all are like that a dead
//! connection would never be found (L6). So what they have waited is added up, time that several
//! waited together once, until something is answered. Only waiting counts, and not the time in which
//! nobody asked: who looks in for a moment now and then has seen too little. Where so few ask, and
//! where of several sockets only one is dead, the stores see to it that a socket breaks by itself when
//! the other end acknowledges nothing for some seconds. That does not find a server that stands still:
//! its kernel acknowledges for it. Only who waits for a whole request finds that.
//!
//! *And why does nobody wait after that?* Where the store is slower than they are patient the
//! connection may be as sound as any other, and they would leave before anything was sent on it: it
//! could never show that it answers. For the same reason it takes a whole request that runs out of
//! time before it is as good as lost.

use locker_core::Instant;
use std::time::Duration;

/// Which part of a request's time is left to another connection to get through, before the request
/// goes out on one that has lost a request.
const CHANCE: u32 = 4;

/// What is known of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signs {
    /// How long those who left have waited since something was answered.
    unanswered: Duration,
    /// Until when waiting was counted, or was excused by an answer.
    counted: Instant,
    /// When the latest request was sent that was answered.
    answered: Option<Instant>,
    doubt: Option<Doubt>,
}

/// Why another connection is to take its place. See the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A request has run out of time, and what was sent since then was not answered.
    Lost { since: Instant },
    /// It is doubted, and answers.
    Answers,
    /// Those who left have waited for long, and nothing was answered.
    Left,
}

impl Signs {
    /// Those of a new connection: none.
    pub(super) const NONE: Self = Self {
        unanswered: Duration::ZERO,
        counted: Instant::ZERO,
        answered: None,
        doubt: None,
    };

    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// Whether one was answered that was sent then, or later.
    pub(super) fn answered_since(&self, sent: Instant) -> bool {
        self.answered.is_some_and(|answered| answered >= sent)
    }

    /// A request that was sent then was answered.
    pub(super) fn answered(&mut self, now: Instant, sent: Instant) {
        self.answered = self.answered.max(Some(sent));
        self.unanswered = Duration::ZERO;
        // Who waits already has waited for nothing only from here on.
        self.counted = self.counted.max(now);
        match self.doubt {
            None => {}
            // It was sent when nobody had a doubt yet, so it may have arrived before the end.
            Some(Doubt::Lost { since }) if sent < since => {}
            Some(_) => self.doubt = Some(Doubt::Answers),
        }
    }

    /// Somebody who asked then has left. Answers whether the connection is doubted from now on,
    /// because the waiting was `enough`.
    pub(super) fn left(&mut self, now: Instant, sent: Instant, enough: Duration) -> bool {
        self.unanswered += now.since(sent.max(self.counted));
        self.counted = self.counted.max(now);
        let is_new = self.doubt.is_none() && self.unanswered >= enough;
        if is_new {
            self.doubt = Some(Doubt::Left);
        }
        is_new
    }

    /// A request that was sent then has run out of time. Answers whether the connection is dead.
    pub(super) fn lost(&mut self, now: Instant, sent: Instant) -> bool {
        match self.doubt {
            None | Some(Doubt::Left) => {
                let answers = self.answered_since(sent);
                let lost = Doubt::Lost { since: now };
                self.doubt = Some(if answers { Doubt::Answers } else { lost });
                false
            }
            // Two that were under way together are one sign.
            Some(Doubt::Lost { since }) => sent >= since,
            Some(Doubt::Answers) => false,
        }
    }

    /// No other connection can be had: one that answers is better than nothing.
    pub(super) fn cannot_be_replaced(&mut self) {
        self.doubt = self.doubt.filter(|doubt| *doubt != Doubt::Answers);
    }
}

impl Doubt {
    /// How long a request waits for another connection, before it goes out on this one.
    pub(super) fn wait(self, timeout: Duration) -> Duration {
        match self {
            Self::Lost { .. } => timeout / CHANCE,
            Self::Answers | Self::Left => Duration::ZERO,
        }
    }
}
