//! The subscription of a locker: one connection that listens to the mailbox, enrols and withdraws.
//!
//! Order: the mailbox is subscribed and confirmed, then the enrolment is written and confirmed, then
//! `watch` answers and the caller tries the lock. So a release comes before that try, which then
//! succeeds, or finds the enrolment.
//!
//! A subscription that is lost is opened again, after jittered pauses; every stream is enrolled
//! again, under its old number if that is still there, so that its place is kept, and told that
//! something may have been missed. Until then its waiters poll: a lost subscription costs latency
//! and nothing else.
//!
//! On a server alone there is one mailbox, a channel. On a cluster a mailbox lies beside each watched
//! lock, as a sharded channel, so that a release publishes to its own node only. A primary that hangs
//! confirms none, and enrolments are made one after the other. So one is not waited for as long as whoever
//! stands behind it has time, and that it has failed says nothing about the subscription. Nor does it that
//! one hangs which has not been replaced.
//! Withdrawals are sent while others enrol: each names its stream and its number, so they need no order.

mod channels;
mod confirmed;
mod requests;

use crate::cluster::slots::{self, Range};
use crate::config::Shared;
use crate::connection::{Connection, PushTaker, Source, bounded};
use crate::error;
use crate::hints::{Enrolment, Slots, Withdrawal};
use crate::names::{self, Names};
use crate::reply;
use crate::script::{Argument, Member};
use crate::session::Session;
use channels::Channels;
use locker_core::{BackendError, Key};
use redis::{PushInfo, PushKind, Value};
use requests::{most, of_some, ranges, send};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// How often a subscription that says nothing is asked whether it is still there. A connection that
/// was cut in silence would otherwise be waited for without end.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long anything that the keeper asks for may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a primary of a cluster may take to confirm a channel, or to answer for one lock, which is a
/// round trip: as long as the client waits for a connection to it, and less than the request timeout of a
/// locker by default.
const ROUND_TRIP: Duration = Duration::from_secs(1);
/// The first pause before a lost subscription is opened again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

#[derive(Debug)]
pub(crate) struct Subscription {
    source: Source,
    names: Arc<Names>,
    /// The locker's, for the session; weak, because it knows the hub.
    shared: Weak<Shared>,
    runtime: Handle,
    /// The name of the mailbox. It stays when the subscription is opened again.
    mailbox: String,
    slots: Arc<Slots>,
    live: tokio::sync::Mutex<Option<Live>>,
    /// Counts the connections: what an older one says is of no interest.
    generation: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
    /// On a cluster.
    channels: Arc<Channels>,
}

/// An open subscription.
#[derive(Debug)]
struct Live {
    session: Session,
    /// The sharded channels that it listens to.
    channels: BTreeSet<String>,
    /// On a cluster, whose the slots were when it was opened.
    ranges: Option<Vec<Range>>,
}

impl Subscription {
    /// The subscription of a locker, on this runtime.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the system has no random numbers for the name of the mailbox.
    pub(crate) fn new(
        source: Source,
        names: Arc<Names>,
        shared: Weak<Shared>,
        runtime: Handle,
    ) -> Result<Self, BackendError> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).map_err(|cause| {
            error::unavailable("the system has no random numbers").with_source(cause)
        })?;
        Ok(Self {
            source,
            names,
            shared,
            runtime,
            mailbox: format!("{:032x}", u128::from_le_bytes(bits)),
            slots: Arc::default(),
            live: tokio::sync::Mutex::default(),
            generation: Arc::default(),
            broken: Arc::default(),
            channels: Arc::default(),
        })
    }

    pub(crate) fn is_of(&self, runtime: &Handle) -> bool {
        self.runtime.id() == runtime.id()
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(crate) fn lock_of(&self, key: &Key) -> String {
        self.names.lock(key)
    }

    /// Enrols a stream. It is done by a task on the subscription's own runtime, so that a caller who
    /// goes away leaves nothing half done: the task finds the stream gone, and withdraws.
    pub(crate) async fn enrol(self: &Arc<Self>, id: u64) -> Result<(), BackendError> {
        let this = Arc::clone(self);
        let enrolling = self.runtime.spawn(async move {
            let mut live = this.live.lock().await;
            // Whoever gave up meanwhile is not waited for by those behind.
            if this.slots.enrolment(id).is_none() {
                return Ok(());
            }
            this.revive(&mut live).await?;
            let Some((enrolment, live)) = this.slots.enrolment(id).zip(live.as_mut()) else {
                return Ok(());
            };
            let enrolled = this.enrol_on(live, std::slice::from_ref(&enrolment), false);
            enrolled.await
        });
        enrolling
            .await
            .unwrap_or_else(|_| Err(error::unavailable("the runtime of the locker has ended")))
    }

    /// Keeps the subscription until it is dropped with its hub.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut pause = PAUSES.0;
        let mut look = Instant::now() + ASK_EVERY;
        // What a primary has not answered. It is sent again at the next look, not whenever somebody leaves.
        let mut unanswered = Vec::new();
        loop {
            tokio::time::timeout_at(look, self.slots.rung()).await.ok();
            // Also where the bell never rests.
            let is_due = Instant::now() >= look;
            if is_due && !self.slots.is_empty() {
                self.ask().await;
                let mut live = self.live.lock().await;
                self.enrol_lapsed(live.as_mut()).await.ok();
            }
            if is_due {
                look = Instant::now() + ASK_EVERY;
                self.slots.give_back(std::mem::take(&mut unanswered));
            }
            unanswered.extend(self.withdraw().await);
            let mut live = self.live.lock().await;
            if !self.broken.load(Ordering::Acquire) {
                pause = PAUSES.0;
                continue;
            }
            if self.slots.is_empty() {
                // Nobody waits: the next watch opens it again.
                *live = None;
                continue;
            }
            if let Err(error) = self.revive(&mut live).await {
                tracing::debug!(%error, "the subscription is lost; waiters poll meanwhile");
                drop(live);
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(PAUSES.1);
                // The next round goes on with it.
                self.slots.ring();
            }
        }
    }

    /// Opens the subscription if there is none that works, and enrols again whoever was enrolled.
    async fn revive(&self, live: &mut Option<Live>) -> Result<(), BackendError> {
        if self.broken.swap(false, Ordering::AcqRel) {
            self.slots.lapse();
            *live = None;
        }
        let revived = self.revived(live).await;
        if revived.is_err() {
            self.broken.store(true, Ordering::Release);
        }
        revived
    }

    async fn revived(&self, live: &mut Option<Live>) -> Result<(), BackendError> {
        if live.is_some() {
            return Ok(());
        }
        *live = Some(bounded(PATIENCE, self.open()).await?);
        self.enrol_lapsed(live.as_mut()).await
    }

    /// Enrols again. Where a node of a cluster is gone, or a lock cannot be read, the others go on,
    /// and who waits there is looked after every [`ASK_EVERY`].
    async fn enrol_lapsed(&self, live: Option<&mut Live>) -> Result<(), BackendError> {
        let Some(live) = live else { return Ok(()) };
        let most = most(&live.session);
        for batch in self.slots.lapsed().chunks(most) {
            if let Err(error) = self.enrol_on(live, batch, true).await {
                if error.kind().breaks_connection() {
                    return Err(error);
                }
                tracing::debug!(%error, "not everybody is enrolled again; they poll meanwhile");
            }
        }
        Ok(())
    }

    async fn open(&self) -> Result<Live, BackendError> {
        let shared = self.shared.upgrade();
        let shared = shared.ok_or_else(|| error::unavailable("the locker has ended"))?;
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.channels.begin();
        let connection = self.source.open(Some(self.taker(generation))).await?;
        if let Connection::Server(server) = &connection {
            let channel = format!("{}{}", self.names.mailboxes(), self.mailbox);
            let subscribed = server.clone().subscribe(channel).await;
            subscribed.map_err(|cause| error::from_redis(cause, error::Stage::Connecting))?;
        }
        let session = Session::new(connection, Arc::clone(&self.names), shared);
        Ok(Live {
            ranges: ranges(&session).await,
            session,
            channels: BTreeSet::new(),
        })
    }

    async fn enrol_on(
        &self,
        live: &mut Live,
        enrolments: &[Enrolment],
        again: bool,
    ) -> Result<(), BackendError> {
        let (enrolments, mut failed) = self.listen(live, enrolments).await;
        let members = enrolments.iter().map(|enrolment| {
            let process = match &enrolment.waits {
                Some(process) => format!(" {}", names::tail(process)),
                None => String::new(),
            };
            let former = enrolment.former.clone().unwrap_or_default();
            let value = format!("{} {}{process}", self.mailbox, enrolment.id);
            Member::new(
                enrolment.lock.clone(),
                "enrol",
                [former, value].map(Argument::Text),
            )
        });
        let answers = send(&live.session, members.collect()).await;
        for (answer, enrolment) in self.noticed(answers)?.into_iter().zip(enrolments) {
            match answer {
                Ok(answered) => match answered.fields.get(1).and_then(reply::text) {
                    Some(number) => self.slots.enrolled(enrolment, number, again),
                    None => failed = Some(error::unexpected("an enrolment")),
                },
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), |cause| Err(of_some(&live.session, cause)))
    }

    /// Subscribes to the sharded channels of these enrolments. Answers those that may be written now, and
    /// why others may not.
    async fn listen<'e>(
        &self,
        live: &mut Live,
        enrolments: &'e [Enrolment],
    ) -> (Vec<&'e Enrolment>, Option<BackendError>) {
        let Connection::Cluster(cluster) = &live.session.connection else {
            return (enrolments.iter().collect(), None);
        };
        let channel =
            |enrolment: &Enrolment| names::sharded_channel(&enrolment.lock, &self.mailbox);
        let wanted: BTreeSet<String> = enrolments.iter().map(channel).collect();
        let wanted = wanted.difference(&live.channels);
        let ranges = live.ranges.as_deref().unwrap_or_default();
        let (entered, failed) = self.channels.enter(cluster, ranges, wanted).await;
        live.channels.extend(entered);
        let heard = |enrolment: &&Enrolment| live.channels.contains(&channel(enrolment));
        (enrolments.iter().filter(heard).collect(), failed)
    }

    /// Sends the withdrawals, while others enrol. Answers those that are to be sent again.
    async fn withdraw(&self) -> Vec<Withdrawal> {
        let withdrawals = self.slots.take_withdrawn();
        let mut again = Vec::new();
        if withdrawals.is_empty() {
            return again;
        }
        let Some((session, generation)) = self.opened().await else {
            return again;
        };
        let most = most(&session);
        let end = Instant::now() + PATIENCE;
        let mut done = Vec::new();
        for batch in withdrawals.chunks(most) {
            if Instant::now() > end {
                // The keeper has more to do.
                again.extend_from_slice(batch);
                continue;
            }
            let members = batch.iter().map(|withdrawal| {
                let number = withdrawal.number.clone();
                let enrolment = format!("{} {}", self.mailbox, withdrawal.id);
                Member::new(
                    withdrawal.lock.clone(),
                    "withdraw",
                    [number, enrolment].map(Argument::Text),
                )
            });
            let answers = match send(&session, members.collect()).await {
                Ok(answers) => answers.into_iter().map(|answer| answer.map(drop)).collect(),
                Err(cause) => vec![Err(cause); batch.len()],
            };
            for (answer, withdrawal) in answers.into_iter().zip(batch) {
                match answer {
                    // What is refused for good would be refused without end. An enrolment that stays is
                    // withdrawn after its next hint.
                    Err(error) if error.kind().is_transient() => {
                        tracing::debug!(%error, "an enrolment is not withdrawn now");
                        self.noticed_of(generation, &error);
                        again.push(withdrawal.clone());
                    }
                    _ => done.push(withdrawal),
                }
            }
        }
        self.leave(&done).await;
        again
    }

    /// Leaves the sharded channels of locks that nobody here watches any more.
    async fn leave(&self, withdrawals: &[&Withdrawal]) {
        let mut live = self.live.lock().await;
        let Some(Live {
            session, channels, ..
        }) = live.as_mut()
        else {
            return;
        };
        let Connection::Cluster(cluster) = &session.connection else {
            return;
        };
        for withdrawal in withdrawals {
            let channel = names::sharded_channel(&withdrawal.lock, &self.mailbox);
            if self.slots.watches(&withdrawal.lock) || !channels.remove(&channel) {
                continue;
            }
            let left = self.channels.leave(cluster, &channel).await;
            if self.noticed(left).is_err() {
                // It is opened anew, and listens to none of the others then.
                self.broken.store(true, Ordering::Release);
                return;
            }
        }
    }

    /// Asks a silent subscription whether it is still there. Nobody who enrols waits for the answer: on a
    /// cluster it is that of all primaries.
    ///
    /// There one that hangs says nothing of the channels of the others, and while it does, hardly anybody can
    /// be enrolled over another connection: the client waits for it again and again. So the subscription stays
    /// as long as anybody answers that whoever had slots has some: then the one that hangs has not been
    /// replaced.
    async fn ask(&self) {
        let Some((session, generation)) = self.opened().await else {
            return;
        };
        let ping = redis::cmd("PING");
        let asked = bounded(PATIENCE, async {
            let answer = session.connection.query(&ping).await;
            answer.map_err(|cause| error::from_redis(cause, error::Stage::Once))
        });
        if let Err(error) = asked.await {
            let now = ranges(&session).await;
            let live = self.live.lock().await;
            let former = live.as_ref().and_then(|live| live.ranges.as_ref());
            let both = former.zip(now.as_ref());
            let stays = both
                .is_some_and(|(former, now)| slots::owners(former).is_subset(&slots::owners(now)));
            if !stays {
                self.noticed_of(generation, &error);
            }
        }
    }

    /// What is open, to be used while others enrol, and which of the connections that is.
    async fn opened(&self) -> Option<(Session, u64)> {
        let live = self.live.lock().await;
        let session = live.as_ref()?.session.clone();
        Some((session, self.generation.load(Ordering::Acquire)))
    }

    /// Notes an error of this connection, unless another has taken its place meanwhile.
    fn noticed_of(&self, generation: u64, error: &BackendError) {
        if error.kind().breaks_connection() && self.generation.load(Ordering::Acquire) == generation
        {
            self.broken.store(true, Ordering::Release);
        }
    }

    /// Notes whether an error says that the connection is lost.
    fn noticed<T>(&self, answer: Result<T, BackendError>) -> Result<T, BackendError> {
        if let Err(error) = &answer
            && error.kind().breaks_connection()
        {
            self.broken.store(true, Ordering::Release);
        }
        answer
    }

    /// What takes the messages of one connection. It runs in the client's task and never waits.
    fn taker(&self, generation: u64) -> PushTaker {
        let slots = Arc::clone(&self.slots);
        let current = Arc::clone(&self.generation);
        let broken = Arc::clone(&self.broken);
        let channels = Arc::clone(&self.channels);
        let names = Arc::clone(&self.names);
        Arc::new(move |push: PushInfo| {
            if current.load(Ordering::Acquire) != generation {
                return;
            }
            let lost = match push.kind {
                PushKind::Message | PushKind::SMessage => {
                    read(&slots, &names, &push.data);
                    false
                }
                PushKind::SSubscribe => {
                    if let Some(channel) = push.data.first().and_then(reply::text) {
                        channels.entered(channel);
                    }
                    false
                }
                PushKind::Disconnection => true,
                // The slot of the channel has moved to another node. The client takes this for the
                // answer to whatever it has asked for, so the connection is of no use any more.
                PushKind::SUnsubscribe => {
                    let channel = push.data.first().and_then(reply::text).unwrap_or_default();
                    !channels.left(channel)
                }
                _ => false,
            };
            if lost {
                broken.store(true, Ordering::Release);
                slots.ring();
            }
        })
    }
}

/// Reads a message: `ID NUMBER PLACE LOCK`. One that nobody of ours has sent is at most a hint.
fn read(slots: &Slots, names: &Names, data: &[Value]) {
    let Some(message) = data.get(1).and_then(reply::text) else {
        return;
    };
    let mut words = message.splitn(4, ' ');
    let (Some(id), Some(number), Some(place), Some(lock)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return;
    };
    let Ok(id) = id.parse() else { return };
    // A withdrawal names the lock as its key, and a whole batch is refused for one that is not ours.
    if names.key_of(lock).is_none() {
        return;
    }
    match place.parse() {
        Ok(place) => slots.deliver(id, number, lock, place),
        Err(_) if place == "gone" => slots.end(id),
        Err(_) => {}
    }
}

/// Between half and the whole of a pause, so that the waiters of many processes do not come back as
/// one.
fn jittered(pause: Duration) -> Duration {
    let part = getrandom::u32().map_or(1.0, |bits| f64::from(bits) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + part / 2.0)
}
