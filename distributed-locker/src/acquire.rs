//! The acquisition on the caller's runtime: the acquire machine, with real requests and real waits.

use crate::error::{AcquireError, NotRunning};
use crate::guard::LockGuard;
use crate::incarnation::Incarnation;
use crate::options::{AcquireOptions, HeartbeatPolicy, OnLost, POLL_WITHOUT_HINTS, Wait};
use crate::queue::Turn;
use crate::registry::Attempt;
use crate::shared::Shared;
use crate::spans;
use crate::time::Time;
use futures_util::StreamExt;
use locker_core::backend::{Answer, Claimed, Held, Hint, Liveness, Watcher};
use locker_core::machine::acquire::{AcquireStep, End, Outcome, Patience, Request};
use locker_core::machine::{Acquire, Step, Tenure};
use locker_core::{Instant, Key, LockData, OwnerHash, ProcessHash, StoreTime, Token};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument, Span};

/// What came of asking for a lock.
#[derive(Debug)]
#[must_use = "a guard that is dropped gives its lock back"]
pub enum Acquired {
    /// The lock is held.
    Guard(LockGuard),
    /// Somebody else holds it. Nothing was changed.
    SomeoneElseHoldsLock(LockData),
}

impl Acquired {
    /// The guard, if the lock is held.
    pub fn guard(self) -> Option<LockGuard> {
        match self {
            Self::Guard(guard) => Some(guard),
            Self::SomeoneElseHoldsLock(_) => None,
        }
    }
}

/// Everything one acquisition needs.
struct Acquisition<'a> {
    shared: &'a Arc<Shared>,
    key: &'a Key,
    options: &'a AcquireOptions,
    wait_until: Option<Instant>,
    /// Until when a store that does not answer is asked again by who does not wait.
    ask_until: Instant,
    span: Span,
}

/// Acquires a lock.
///
/// # Cancel safety
///
/// At every point the owner hash is either unsent, or in the hands of an [`Attempt`] or a guard,
/// whose drop gives it back.
pub(crate) async fn acquire(
    shared: &Arc<Shared>,
    key: &Key,
    options: &AcquireOptions,
) -> Result<Acquired, AcquireError> {
    if shared.is_forked() {
        return Err(AcquireError::Forked);
    }
    if options.on_lost == OnLost::Abort && matches!(shared.time, Time::Manual(_)) {
        return Err(AcquireError::InvalidOptions(
            "`OnLost::Abort` needs the kernel's clock, and this locker lives by a manual one",
        ));
    }
    if options.on_lost == OnLost::Abort && options.abort_lead > shared.timing.stop_budget {
        return Err(AcquireError::InvalidOptions(
            "`abort_lead` is longer than the stop budget: the process would end before its job is told",
        ));
    }
    let now = shared.time.now();
    let wait_until = match options.wait {
        Wait::No => None,
        Wait::For(limit) => Some(now + limit),
        Wait::Forever => Some(Instant::FAR_FUTURE),
    };
    let ask_until = now + shared.timing.request_timeout * 2 + shared.timing.retry_after;
    let span = spans::acquire(key);
    let acquisition = Acquisition {
        shared,
        key,
        options,
        wait_until,
        ask_until,
        span: span.clone(),
    };
    // Boxed, so that the futures of callers, and of their callers, stay small.
    let acquired = Box::pin(acquisition.run().instrument(span.clone())).await;
    spans::acquired(&span, &acquired);
    acquired
}

/// What the store said to a request of the machine.
enum Answered {
    Claimed(Answer<Claimed>),
    Liveness(Answer<Liveness>),
    Lock(Answer<Option<Held>>),
}

impl Answered {
    fn tell(self, machine: Acquire, now: Instant) -> AcquireStep {
        match self {
            Self::Claimed(answer) => machine.on_claimed(now, answer),
            Self::Liveness(answer) => machine.on_liveness(now, answer),
            Self::Lock(answer) => machine.on_lock(now, answer),
        }
    }
}

impl Acquisition<'_> {
    async fn run(self) -> Result<Acquired, AcquireError> {
        let mut turn = match self.wait_until {
            None => None,
            Some(until) => tokio::select! {
                biased;
                turn = self.shared.queues.stand(self.key) => Some(turn),
                // Others of this process stand before us: ask once, to say who holds it.
                () = self.shared.time.sleep_until(until) => None,
                reason = self.drained() => return Err(AcquireError::Draining(reason)),
            },
        };
        let mut denied = 0;
        loop {
            if let Some(reason) = self.shared.draining.get() {
                return Err(AcquireError::Draining(reason.clone()));
            }
            let life_by = self.wait_until.unwrap_or(self.ask_until);
            let incarnation = match self.shared.living_incarnation() {
                Some(incarnation) => incarnation,
                None => tokio::select! {
                    biased;
                    found = self.shared.incarnation(life_by) => {
                        found.map_err(|why| AcquireError::NotRunning(why.after(denied)))?
                    }
                    reason = self.drained() => return Err(AcquireError::Draining(reason)),
                },
            };
            let seq = self.shared.next_seq();
            let trace = self.options.trace.as_ref();
            let owner = OwnerHash::new(self.key, &incarnation.process, seq, trace);
            // From here on a drop settles whatever was sent.
            let mut attempt = Attempt::begin(self.shared, &incarnation, owner.clone());
            spans::asking(&self.span, &owner);
            // The Reporter ends when it finds the locker draining and the registry empty. Asked in
            // the other order here, so that it never ends under an attempt.
            if let Some(reason) = self.shared.draining.get() {
                return Err(AcquireError::Draining(reason.clone()));
            }
            let end = self
                .ask(&mut attempt, owner, &incarnation.process, turn.as_mut())
                .await?;
            match end.outcome {
                Outcome::Granted { token, sent } => {
                    // Processes are served in the order in which they enrolled: who was served
                    // enrols anew.
                    if let Some(head) = turn.as_mut().and_then(Turn::head) {
                        head.hints = None;
                    }
                    let granted = self
                        .granted(attempt, &incarnation, token, sent, end.unsettled)
                        .await;
                    match granted {
                        // It is being given back; who still has time asks again, as soon as the
                        // process has a report that is recent enough.
                        Err(AcquireError::TooLate) if turn.is_some() && self.has_time() => {}
                        granted => return granted,
                    }
                }
                Outcome::Held(held) => {
                    attempt.known_open(end.unsettled);
                    return Ok(Acquired::SomeoneElseHoldsLock(held.data));
                }
                Outcome::Failed(error) => {
                    attempt.known_open(end.unsettled);
                    return Err(AcquireError::Store(error));
                }
                Outcome::OwnerDead => {
                    attempt.known_open(end.unsettled);
                    drop(attempt);
                    // The store says that this incarnation has ended; the Reporter learns it at
                    // its next report. Until then there is nothing to ask with.
                    if incarnation.is_alive(self.shared.time.now()) {
                        incarnation.deadline.lose();
                        self.shared.bells.reports.notify_one();
                        // The jobs hear of it now, also while a report is under way.
                        self.shared.bells.watchdog.notify_one();
                    }
                    denied += 1;
                    if self.shared.time.now() >= life_by {
                        let why = NotRunning::Unreported(None).after(denied);
                        return Err(AcquireError::NotRunning(why));
                    }
                    if denied > 1 {
                        // This side of the store does not see what the other one writes: more
                        // incarnations make that no better.
                        let pause = self.shared.time.now() + self.shared.timing.retry_after;
                        self.shared.time.sleep_until(pause).await;
                    }
                }
            }
        }
    }

    /// Whether it may go on waiting.
    fn has_time(&self) -> bool {
        self.wait_until
            .is_some_and(|until| self.shared.time.now() < until)
    }

    /// Runs the acquire machine.
    async fn ask(
        &self,
        attempt: &mut Attempt,
        owner: OwnerHash,
        process: &ProcessHash,
        mut turn: Option<&mut Turn<'_>>,
    ) -> Result<End, AcquireError> {
        let shared = self.shared;
        let patience = Patience {
            wait_until: self.wait_until.filter(|_| turn.is_some()),
            ask_until: self.ask_until,
            poll_every: self.options.poll_every.unwrap_or(if shared.limits.hints {
                Duration::from_secs(5)
            } else {
                POLL_WITHOUT_HINTS
            }),
            cheap_death_poll: shared.limits.cheap_death_poll,
        };
        if let Some(turn) = turn.as_deref_mut()
            && turn.had_to_wait
        {
            // The lock is wanted by others: enrol before the first try, not after it.
            self.subscribe(turn, process).await;
        }
        // Before the clock is read: what the store says from now on is news.
        let store_clock = shared.store_clock();
        let now = shared.time.now();
        let seed = owner.seq() ^ u64::from(shared.made_in.pid()) << 32;
        // When a subscription that has ended is renewed at the earliest.
        let mut subscribe_at = now;
        let mut step = Acquire::begin(now, owner, shared.timing, patience, store_clock, seed);
        loop {
            step = match step {
                Step::Done(end) => return Ok(end),
                Step::Call(machine, request) => {
                    let answer = self.send(attempt, &request).await;
                    let step = answer.tell(machine, shared.time.now());
                    // What was answered has nothing left to settle, unless it was granted.
                    if let Step::Call(machine, _) | Step::Sleep(machine, _) = &step {
                        attempt.known_open(machine.unsettled());
                    }
                    step
                }
                Step::Sleep(machine, until) => {
                    // Boxed: a lock that is free needs no room for it.
                    let turn = turn.as_deref_mut();
                    Box::pin(self.wait(machine, until, turn, process, &mut subscribe_at)).await?
                }
            };
        }
    }

    /// Waits until the machine shall go on, or hears that it may.
    async fn wait(
        &self,
        machine: Acquire,
        until: Instant,
        mut turn: Option<&mut Turn<'_>>,
        process: &ProcessHash,
        subscribe_at: &mut Instant,
    ) -> Result<AcquireStep, AcquireError> {
        let shared = self.shared;
        let waiting = machine.is_waiting();
        if waiting
            && shared.time.now() >= *subscribe_at
            && let Some(turn) = turn.as_deref_mut()
            && self.subscribe(turn, process).await
        {
            // A release may have happened between the try and the subscription.
            return Ok(machine.on_hint(shared.time.now(), Hint::Rebuilt));
        }
        let head = turn.as_deref_mut().and_then(Turn::head);
        let hints = head.and_then(|head| head.hints.as_mut());
        let hint = async {
            match hints {
                Some((_, hints)) if waiting => hints.next().await,
                _ => std::future::pending().await,
            }
        };
        let look_again = if waiting && shared.time.now() < *subscribe_at {
            until.min(*subscribe_at)
        } else {
            until
        };
        tokio::select! {
            biased;
            // Nothing is in flight, be it that the lock is held or that the store does not answer.
            reason = self.drained() => Err(AcquireError::Draining(reason)),
            hint = hint => Ok(match hint {
                Some(hint) => machine.on_hint(shared.time.now(), hint),
                None => {
                    // The subscription has ended. It is renewed after a pause: the next one may end
                    // as soon.
                    *subscribe_at = shared.time.now() + shared.timing.retry_after;
                    if let Some(head) = turn.and_then(Turn::head) {
                        head.hints = None;
                    }
                    Step::Sleep(machine, until)
                }
            }),
            () = shared.time.sleep_until(look_again) => Ok(match shared.time.now() {
                now if now < until => Step::Sleep(machine, until),
                now => machine.on_wake(now),
            }),
        }
    }

    /// Sends a request of the machine.
    async fn send(&self, attempt: &mut Attempt, request: &Request) -> Answered {
        let link = &self.shared.caller;
        match request {
            Request::TryCreate(claim) => {
                attempt.sending(claim.not_after);
                let sent = link.call(async |store| store.try_create(claim).await);
                Answered::Claimed(sent.await)
            }
            Request::TakeOver(claim, observed) => {
                attempt.sending(claim.not_after);
                let sent = link.call(async |store| store.take_over(claim, observed).await);
                Answered::Claimed(sent.await)
            }
            Request::ReadProcess(process) => {
                let sent = link.call(async |store| store.read_process(process).await);
                Answered::Liveness(sent.await)
            }
            Request::ReadLock(key) => {
                let sent = link.call(async |store| store.read_lock(key).await);
                Answered::Lock(sent.await)
            }
        }
    }

    /// Subscribes to the hints of the key, if that is not done. Answers whether it was done now.
    async fn subscribe(&self, turn: &mut Turn<'_>, process: &ProcessHash) -> bool {
        if !self.shared.limits.hints {
            return false;
        }
        let Some(head) = turn.head() else {
            return false;
        };
        // An enrolment lasts as long as its process: one of a former incarnation hears nothing.
        if let Some((enrolled, _)) = &head.hints
            && enrolled == process
        {
            return false;
        }
        head.hints = None;
        let watcher = Watcher::Waiter(process.clone());
        let watching = self
            .shared
            .caller
            .call(async |store| store.watch(self.key, &watcher).await)
            .await;
        // Without hints a waiter polls.
        head.hints = watching.ok().map(|hints| (process.clone(), hints));
        head.hints.is_some()
    }

    /// Makes a guard of a grant, if it is still worth something.
    async fn granted(
        &self,
        attempt: Attempt,
        incarnation: &Arc<Incarnation>,
        token: Token,
        sent: Instant,
        unsettled: Option<StoreTime>,
    ) -> Result<Acquired, AcquireError> {
        let shared = self.shared;
        let lock_until = shared.timing.valid_until(sent, shared.timing.lock_ttl);
        let beat_within = match self.options.heartbeat.unwrap_or_default() {
            HeartbeatPolicy::Required => Some(shared.timing.lock_ttl),
            HeartbeatPolicy::Automatic => None,
        };
        let abort_lead = (self.options.on_lost == OnLost::Abort).then_some(self.options.abort_lead);
        let now = shared.time.now();
        let owner = attempt.owner().clone();
        let process = Arc::clone(&incarnation.deadline);
        let stop_budget = shared.timing.stop_budget;
        let tenure = Tenure::new(owner, now, lock_until, process, beat_within, stop_budget);
        // A grant that would have to be given up at once is none: the attempt's drop gives it back.
        if tenure.judge(now).is_err() {
            return Err(AcquireError::TooLate);
        }
        let entry = attempt.into_entry(token, Arc::new(tenure), abort_lead, unsettled);
        let guard = LockGuard::new(Arc::clone(shared), entry);
        if let Err(error) = self.watched(&guard).await {
            guard.entry().tell_nobody();
            return Err(error);
        }
        spans::granted(&self.span, token);
        Ok(Acquired::Guard(guard))
    }

    /// Waits until the lock can be handed out: it is watched, and still held.
    async fn watched(&self, guard: &LockGuard) -> Result<(), AcquireError> {
        let shared = self.shared;
        if let Some(armed) = guard.entry().watch(shared) {
            let patience = shared.timing.request_timeout;
            // Without the timer the promise of `OnLost::Abort` is empty, and the lock is given back.
            match shared.time.timeout(patience, armed).await {
                Some(Ok(armed)) => armed.map_err(AcquireError::AbortUnavailable)?,
                // Its thread is stopped, or has ended.
                Some(Err(_)) | None => {
                    let stopped = io::ErrorKind::TimedOut.into();
                    return Err(AcquireError::AbortUnavailable(stopped));
                }
            }
        }
        if guard.is_valid() {
            Ok(())
        } else {
            Err(AcquireError::TooLate)
        }
    }

    /// Waits until the locker takes no more work.
    async fn drained(&self) -> String {
        loop {
            let rung = self.shared.bells.drained.notified();
            if let Some(reason) = self.shared.draining.get() {
                return reason.clone();
            }
            rung.await;
        }
    }
}
