//! The guard of a held lock.

use crate::error::{ExtendError, Interrupted, ReleaseError};
use crate::heartbeat::{Heartbeater, beat, refuse_if_draining};
use crate::registry::{Departure, Entry, loss_found};
use crate::shared::Shared;
use crate::spans;
use locker_core::machine::release::Word;
use locker_core::machine::{Loss, Release, Step};
use locker_core::{BackendError, Effect, ErrorKind, Instant, Key, OwnerHash, Token};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::Instrument;

/// A held lock.
///
/// Dropping it gives the lock back in the background: the drop never blocks, and the Reporter
/// repeats the release until the store has confirmed it. [`release`](Self::release) does the same
/// and waits for the answer.
///
/// The Reporter extends the lock in the background. By default it does so only while the owner
/// beats: **a guard that is silent for one lock TTL (5 min) is lost.** [`heartbeat`](Self::heartbeat)
/// is a beat, and costs no I/O; with [`HeartbeatPolicy::Automatic`](crate::HeartbeatPolicy::Automatic)
/// none is needed.
///
/// A guard is never more than a local opinion: the machine may be paused between a check and the
/// write that follows it. What must not be written twice is protected by the
/// [`token`](Self::token).
///
/// ```
/// # use distributed_locker::{Locker, memory};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let locker = Locker::builder(memory()).start().await?;
/// let guard = locker.try_acquire("nightly").await?.expect("it is free");
/// for batch in 0..3 {
///     guard.heartbeat()?; // an error means: stop
///     println!("batch {batch}, under token {}", guard.token());
/// }
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
///
#[must_use = "a guard that is dropped gives its lock back"]
pub struct LockGuard {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
}

/// Printed is what is its own. What it shares with the Reporter lies behind locks, which must not be
/// held while somebody else's writer stands still.
impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("owner", self.owner_hash())
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}

impl LockGuard {
    pub(crate) fn new(shared: Arc<Shared>, entry: Arc<Entry>) -> Self {
        Self { shared, entry }
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The lock.
    pub fn key(&self) -> &Key {
        self.entry.owner().key()
    }

    /// The identity of this acquisition.
    pub fn owner_hash(&self) -> &OwnerHash {
        self.entry.owner()
    }

    /// The fencing token of this grant: hand it to whatever the job writes to.
    pub fn token(&self) -> Token {
        self.entry.token
    }

    /// Whether the lock is held now. Once this is false it is never true again (S5).
    ///
    /// It costs one reading of the clock and no I/O, and is right even when the Reporter is
    /// stopped.
    pub fn is_valid(&self) -> bool {
        self.entry.tenure.is_valid(self.shared.time.now())
    }

    /// Until when the lock is certainly held, if nothing more is confirmed; `None` once that is over.
    pub fn valid_until(&self) -> Option<Instant> {
        let until = self.entry.tenure.valid_until();
        until.filter(|_| self.is_valid())
    }

    /// How long the lock is certainly held from now, if nothing more is confirmed. Zero once that is
    /// over.
    pub fn valid_for(&self) -> Duration {
        let now = self.shared.time.now();
        self.valid_until()
            .map_or(Duration::ZERO, |until| until.since(now))
    }

    /// The loss, once there is one. The lock may then still be valid for the rest of the stop
    /// budget, for cleaning up; it is never extended again.
    pub fn loss(&self) -> Option<Loss> {
        self.entry.judge(&self.shared).err()
    }

    /// Waits until the lock is lost: one stop budget before anybody else can own it, where the
    /// loss can be seen coming.
    ///
    /// ```
    /// # use distributed_locker::{Locker, memory};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// # let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// tokio::select! {
    ///     () = tokio::time::sleep(Duration::from_millis(5)) => println!("the work is done"),
    ///     loss = guard.lost() => println!("stopped: {loss}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and called again.
    pub async fn lost(&self) -> Loss {
        self.entry.wait_lost(&self.shared).await
    }

    /// What a job needs: heartbeats and the loss. It may outlive the guard, and is then interrupted.
    ///
    /// ```
    /// # use distributed_locker::{Heartbeater, Interrupted, Locker, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// fn work(job: &Heartbeater) -> Result<(), Interrupted> {
    ///     job.heartbeat()
    /// }
    ///
    /// let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// let job = guard.heartbeater();
    /// work(&job)?;
    /// guard.release().await?;
    /// assert!(work(&job).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    pub fn heartbeater(&self) -> Heartbeater {
        Heartbeater::new(Arc::clone(&self.shared), Arc::clone(&self.entry))
    }

    /// Says that the owner lives, and asks whether it should go on; see
    /// [`Heartbeater::heartbeat`].
    ///
    /// # Errors
    ///
    /// [`Interrupted::Lost`] when the lock is lost: stop at once, and write nothing more.
    /// [`Interrupted::Draining`] when the locker wants to end: the lock is still held; finish soon.
    pub fn heartbeat(&self) -> Result<(), Interrupted> {
        beat(&self.shared, &self.entry)?;
        refuse_if_draining(&self.shared)
    }

    /// Extends the lock now, and counts as a heartbeat.
    ///
    /// There is rarely a need to call it: the Reporter extends by itself as long as there was a
    /// heartbeat within the last lock TTL, or always with
    /// [`HeartbeatPolicy::Automatic`](crate::HeartbeatPolicy::Automatic). It is for the moment before
    /// a long step that cannot beat.
    ///
    /// ```
    /// # use distributed_locker::{Locker, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// # let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// guard.extend().await?;
    /// assert!(guard.valid_for() > locker.timing().report_every);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ExtendError::Lost`] is final, whatever the store says; after [`ExtendError::Store`] the lock
    /// is still held.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing but whether the lock was extended.
    pub async fn extend(&self) -> Result<(), ExtendError> {
        if self.shared.is_forked() {
            return Err(ExtendError::Forked);
        }
        if let Some(loss) = self.loss() {
            return Err(ExtendError::Lost(loss));
        }
        let owners = [self.entry.owner().clone()];
        let ttl = self.shared.timing.lock_ttl;
        let sent = self.shared.time.now();
        let answer = self
            .shared
            .caller
            .call(async |store| store.extend(&owners, ttl).await)
            .await;
        let standing = answer.and_then(|reply| {
            reply.value.into_iter().next().unwrap_or_else(|| {
                let text = "the store answered nothing about the lock";
                Err(BackendError::new(ErrorKind::Corrupt, Effect::Unknown, text))
            })
        });
        let now = self.shared.time.now();
        let tenure = &self.entry.tenure;
        match standing {
            Ok(standing) => match tenure.learn(now, standing, Some(sent), &self.shared.timing) {
                Ok(()) => {
                    tenure.beat(now);
                    Ok(())
                }
                Err(loss) => {
                    self.entry.announce(&self.shared, &loss);
                    Err(ExtendError::Lost(loss))
                }
            },
            // Its time may have run out while the store was silent.
            Err(error) => Err(match self.loss() {
                Some(loss) => ExtendError::Lost(loss),
                None => ExtendError::Store(error),
            }),
        }
    }

    /// Gives the lock back and waits for the store's word, at most two request timeouts.
    ///
    /// ```
    /// # use distributed_locker::{Locker, ReleaseError, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// # let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// match guard.release().await {
    ///     Ok(()) => {}
    ///     Err(ReleaseError::Unconfirmed(error)) => println!("it goes on in the background: {error}"),
    ///     Err(error) => return Err(error.into()), // the work was not protected to its end
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] when the lock was lost before, or the store says that it was not this
    /// owner's any more; [`ReleaseError::Unconfirmed`] when the store has not answered, and the
    /// Reporter goes on releasing; or when an answer was lost, and what a repetition found may be its
    /// doing.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the release goes on in the background.
    pub async fn release(self) -> Result<(), ReleaseError> {
        if self.shared.is_forked() {
            return Err(ReleaseError::Forked);
        }
        let Some((departure, lost_before)) = self.entry.depart(&self.shared) else {
            return Ok(());
        };
        let span = spans::release(self.owner_hash(), self.token());
        let given_back = give_back(&self.shared, departure).instrument(span.clone());
        let word = Box::pin(given_back).await;
        spans::released(&span, &word);
        match word {
            Ok(found) => {
                let loss = lost_before.or_else(|| loss_found(&found, self.shared.time.now()));
                loss.map_or(Ok(()), |loss| Err(ReleaseError::Lost(loss)))
            }
            // What was lost before is lost, whether the store answers or not (S6).
            Err(error) => Err(match lost_before {
                Some(loss) => ReleaseError::Lost(loss),
                None => ReleaseError::Unconfirmed(error),
            }),
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // A forked child has neither the Reporter nor the right; and the registry's lock may have
        // been held by a thread that does not exist here.
        if !self.shared.is_forked()
            && let Some((departure, _)) = self.entry.depart(&self.shared)
        {
            departure.hand_over();
        }
    }
}

/// Sends the release on the caller's connection. What is not confirmed by then goes to the
/// Reporter, which goes on with the same machine, and whose word is waited for within the bounded
/// time.
///
/// # Cancel safety
///
/// When it is dropped the departure goes to the Reporter.
async fn give_back(shared: &Arc<Shared>, mut departure: Departure) -> Word {
    let sent = shared.time.now();
    let give_up = sent + shared.timing.request_timeout * 2;
    let (gone_by, unsettled) = (departure.gone_by, departure.unsettled);
    // Until there is an answer, what somebody else finds may be the doing of this request.
    let tells_loss = std::mem::take(&mut departure.tells_loss);
    let owner = departure.owner();
    // What was held is released first, whatever else there is to settle.
    let (machine, _) = Release::begin(owner.clone(), shared.timing, gone_by, unsettled);
    let answer = shared
        .caller
        .call(async |store| store.release(owner).await)
        .await;
    let failure = answer.as_ref().err().cloned();
    if let Ok(reply) = &answer {
        shared.heard(sent, reply);
    }
    departure.tells_loss = tells_loss;
    let machine = match machine.on_released(shared.time.now(), answer) {
        Step::Done(end) => {
            let word = end.into_word();
            departure.tell(&word);
            departure.finish();
            return word;
        }
        Step::Call(machine, _) | Step::Sleep(machine, _) => machine,
    };
    let word = machine.word().cloned();
    departure.begun = Some(Box::new(machine));
    departure.is_unheard = failure.as_ref().is_some_and(BackendError::is_unanswered);
    if let Some(word) = word {
        // An attempt of unknown outcome is still to be settled: in the background.
        departure.tell(&word);
        departure.hand_over();
        return word;
    }
    let (sender, word) = oneshot::channel();
    departure.reply = Some(sender);
    departure.hand_over();
    let left = give_up.since(shared.time.now());
    match shared.time.timeout(left, word).await {
        Some(Ok(word)) => word,
        Some(Err(_)) | None => Err(failure.unwrap_or_else(BackendError::timeout)),
    }
}
