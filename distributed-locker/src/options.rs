//! What a caller may ask of an acquisition.

use locker_core::Trace;
use std::time::Duration;

/// How often a lock is looked at where the store gives no hints.
pub(crate) const POLL_WITHOUT_HINTS: Duration = Duration::from_millis(500);

/// How to acquire a lock. The default does not wait, cancels the job on loss, and requires
/// heartbeats (but not of a [`Standby`](crate::Standby)).
///
/// ```
/// # use distributed_locker::{AcquireOptions, HeartbeatPolicy, InvalidIdentity, OnLost, Trace, Wait};
/// # use std::time::Duration;
/// let options = AcquireOptions::new()
///     .wait(Wait::For(Duration::from_secs(30)))
///     .trace(Trace::new("ticket 5")?)
///     .heartbeat(HeartbeatPolicy::Automatic)
///     .on_lost(OnLost::Abort);
/// # Ok::<_, InvalidIdentity>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcquireOptions {
    pub(crate) wait: Wait,
    pub(crate) trace: Option<Trace>,
    pub(crate) on_lost: OnLost,
    /// `None`: nobody has said.
    pub(crate) heartbeat: Option<HeartbeatPolicy>,
    pub(crate) poll_every: Option<Duration>,
    pub(crate) abort_lead: Duration,
}

impl AcquireOptions {
    /// The default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait for a lock that somebody else holds.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// A note for people, kept in the lock's record.
    #[must_use]
    pub fn trace(mut self, trace: Trace) -> Self {
        self.trace = Some(trace);
        self
    }

    /// What happens to the job when its lock is lost.
    #[must_use]
    pub fn on_lost(mut self, on_lost: OnLost) -> Self {
        self.on_lost = on_lost;
        self
    }

    /// Whether the owner must beat to keep its lock: [`HeartbeatPolicy::Required`] unless set, and
    /// [`HeartbeatPolicy::Automatic`] for a [`Standby`](crate::Standby).
    #[must_use]
    pub fn heartbeat(mut self, policy: HeartbeatPolicy) -> Self {
        self.heartbeat = Some(policy);
        self
    }

    /// How often a waiter looks at the lock without any hint. 5 s where the store hints, else
    /// 500 ms.
    #[must_use]
    pub fn poll_every(mut self, every: Duration) -> Self {
        self.poll_every = Some(every.max(Duration::from_millis(1)));
        self
    }

    /// With [`OnLost::Abort`]: how long before the hard deadline the kernel ends the process. The
    /// default is zero. With the whole stop budget it ends in the moment in which its job would be told
    /// to stop; more is refused.
    #[must_use]
    pub fn abort_lead(mut self, lead: Duration) -> Self {
        self.abort_lead = lead;
        self
    }
}

/// How long an acquisition waits for a lock that somebody else holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Wait {
    /// Not at all. A store that does not answer is asked again for two request timeouts and a retry's pause
    /// (3.25 s by default), and a request in flight is waited for.
    #[default]
    No,
    /// At most this long. Once it is over nothing more is asked; a request in flight is waited for.
    For(Duration),
    /// Without limit, also while the store cannot be reached.
    Forever,
}

/// What happens to a job when its lock is lost.
///
/// A bare [`LockGuard`] has no future that could be dropped: there `Cancel` is the same as `Signal`,
/// and it is for its owner to ask [`LockGuard::is_valid`] or to wait for [`LockGuard::lost`]. `Abort`
/// ends the process all the same.
///
/// [`LockGuard`]: crate::LockGuard
/// [`LockGuard::is_valid`]: crate::LockGuard::is_valid
/// [`LockGuard::lost`]: crate::LockGuard::lost
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnLost {
    /// Its future is dropped, one stop budget before anybody else can own the lock.
    #[default]
    Cancel,
    /// It is told ([`Heartbeater::lost`](crate::Heartbeater::lost)), and must stop by itself within
    /// the stop budget.
    Signal,
    /// Its future is dropped; and if the process still holds the guard at the hard deadline, a
    /// timer of the kernel ends the process, whatever is blocked, stalled or stopped.
    Abort,
}

/// Whether the owner of a lock must beat to keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeartbeatPolicy {
    /// An owner that does not beat for one lock TTL (5 min) loses its lock, so a job that hangs does
    /// not keep it for ever. These count as beats: [`LockGuard::heartbeat`] and
    /// [`LockGuard::extend`], [`Heartbeater::heartbeat`] and [`Heartbeater::sleep`].
    ///
    /// [`LockGuard::heartbeat`]: crate::LockGuard::heartbeat
    /// [`LockGuard::extend`]: crate::LockGuard::extend
    /// [`Heartbeater::heartbeat`]: crate::Heartbeater::heartbeat
    /// [`Heartbeater::sleep`]: crate::Heartbeater::sleep
    #[default]
    Required,
    /// The lock is kept as long as the process lives, or until it is released.
    Automatic,
}
