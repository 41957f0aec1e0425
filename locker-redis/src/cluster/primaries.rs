//! What several tasks ask of a cluster at once travels in one pipeline to each primary.
//!
//! Keys of different slots cannot be in one script, but scripts for one node can be in one pipeline:
//! one message of the client, few system calls of the server. So the slots are read, each primary
//! gets a connection of its own and a gate before it, and every operation goes through the gate of
//! its slot. A primary that stalls keeps nobody waiting who asks another.
//!
//! The connections are opened with that of the store, for callers and for the upkeep of their locks.
//! What lies behind a gate travels by its connection only, also what travels alone. The client of
//! the cluster carries what has no gate (while a primary cannot be reached), and what a primary has
//! refused; and what never comes here: reports, enrolments, and the walks of a listing.
//!
//! # The argument
//!
//! *What if the slots have moved?* Then a node refuses the scripts of what it has not, and has done
//! nothing. The chart only says which scripts travel together. What was
//! refused is asked again by its caller's own future, alone. So it keeps no flight waiting, and is
//! not sent for a caller who has left. The client of the cluster sends it, which follows redirects.
//!
//! *And if a node has forgotten the scripts?* It was restarted or flushed, and has what the chart says it
//! has. So it is sent the whole text with each member that it has refused, over the same connection, also
//! by the caller's own future. Each has the text: the members go apart, so none of them may rely on
//! another's having arrived, and it happens once in the life of a server.
//!
//! *And while a slot is being moved?* The node to which it goes wants to hear ASKING right before
//! each command. The client of the cluster sends the two one after the other over a connection
//! which it shares, so that of several callers one gets through and the others go round again: in
//! vain where they are more than three or four, however often it tries. So that node is asked over
//! our connection to it, if there is one, and the two are one message. That is as good as the word of the
//! primary, as long as it is one: it has the slot and not the key, and sends everybody there.
//!
//! *Why also for what travels alone?* When one primary hangs, the client of a cluster tries to reach it
//! as soon as anything is asked of it, and lets everybody else wait meanwhile. A batch of a locker's
//! locks asks something of all of them, so nothing would be extended while one hangs (L5).
//!
//! *And processes?* A locker's own is born, renewed and retired over the connection for reports, which
//! has nothing of this. Those of others are read, by whoever wants a lock that they hold, and over the
//! same connections as the locks: a claim on a primary that answers must not wait for one that does not.
//! There is no gate before them. A reading is one small script, and it changes nothing, so where the
//! connection breaks it is asked for again by the client of the cluster. That a process is dead is believed
//! only where most primaries name the one that says so, or that sends to who says so (`chart`); so not of
//! this client, which does not tell whom it has asked, unless there is no address by which a primary could
//! be asked. That a claim can take no effect any more is believed in the same way.
//!
//! *Why a connection of our own?* The client of a cluster sends a pipeline again as a whole when one
//! of its commands is redirected, and everything when a connection breaks. A release that was done
//! would be done twice, and the second answer says that the lock was gone. Over a plain connection
//! every member has its own answer, and what has none is not sent again.
//!
//! *What if that connection breaks?* What was in flight is of unknown effect, as on a server alone,
//! and nothing of it is sent again: whoever asked settles it. But only this connection broke, and
//! it is replaced from here; so the error is not one upon which the locker closes everything. One
//! that breaks while nothing is in flight is noticed, and not used any more.
//!
//! *And if one primary refuses, or is dead?* The same: what it says, or the client of the cluster says of
//! what lies there, closes nothing, as long as there is a connection to another.
//!
//! *What if a node does not answer?* Its own callers run out of time, as they would without this.
//! Only the locker knows what time they have, so only the locker judges: it doubts the whole
//! connection, these with it, and opens another one. A judge in this place would take a busy node
//! for a dead one. A batch that all its callers have left is given up by its gate.
//!
//! *And if it has been replaced meanwhile?* One that stands still refuses nothing, and its kernel keeps
//! its connections. So the slots are read anew whenever an answer has not come, also when its caller has
//! left: that judges nobody. The surveyor believes the node that knows best (`survey`), and every connection
//! is used as soon as it is open.

use crate::cluster::chart::{Chart, Gates};
use crate::cluster::pipelines::Pipelines;
use crate::cluster::slots;
use crate::cluster::survey;
use crate::connection::{Connection, OTHERS, PushTaker, Source, bounded, next_by};
use crate::error;
use crate::names::Names;
use crate::reply;
use crate::script::{self, Answered, Apart, BATCH, Member, MemberAnswer, Refused};
use crate::url::Address;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use locker_coalesce::{Gate, Limits};
use locker_core::BackendError;
use redis::{PushInfo, PushKind};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

/// How long after one look at the cluster the next one may begin, and how long if it was in vain again
/// and again. A look is one small request to each primary. It is in vain for as long as one of them stands
/// still and is not replaced, and from when it is on, what lies there waits for the next look.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How long a node may take to tell the slots, or to take a connection.
const MOMENT: Duration = Duration::from_secs(2);
/// How long one that is opened waits for its first connection. What is not there by then comes later.
const AT_FIRST: Duration = Duration::from_millis(500);
/// How long after the last node that has answered the others are waited for. They answer in the same
/// time, or one of them is in trouble. Whoever is taken for silent only because it is slower than that is
/// asked again apart from the others, and is waited for as long after whatever has failed beside it and
/// answers now; where nothing of that answers, for the whole time of a request. That is also what becomes
/// of the last of many members of one primary, of which a few batches only are under way at once, where a
/// round trip takes as long as this. A refused claim waits no longer for what is only added to it.
pub(crate) const STRAGGLER: Duration = Duration::from_millis(250);

/// The gates of a cluster. Dropped, it closes the connections behind them.
#[derive(Debug)]
pub(crate) struct Primaries {
    surveyor: AbortHandle,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    source: Source,
    cluster: Connection,
    names: Arc<Names>,
    chart: watch::Sender<Arc<Chart>>,
    /// Rung when the chart is to be drawn anew.
    outdated: Arc<Notify>,
}

/// For whom a request about many locks waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// For all primaries.
    ForAll,
    /// Where one hangs, not longer for it than [`STRAGGLER`] after the last of the others has answered.
    /// Its members have failed then. They may be asked again soon, and are done twice without harm.
    NotForStragglers,
}

/// What follows when a process is found dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Others take its locks over.
    IsFinal,
    /// Somebody who looks sees it.
    IsShown,
}

/// Who has answered.
#[derive(Debug)]
pub(crate) enum By {
    /// A server alone, whoever it is.
    Server,
    /// The primary of this slot by this chart, or the node to which it sends for what it has moved there.
    Primary(Arc<Shared>, Arc<Chart>, u16),
    /// Somebody. The client of a cluster does not tell whom it has asked.
    Client,
}

impl By {
    /// Whether what was answered is final (`chart` has the argument).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub(crate) async fn is_sure(&self) -> bool {
        match self {
            Self::Server => true,
            Self::Primary(shared, chart, slot) => shared.is_sure(chart, *slot).await,
            Self::Client => false,
        }
    }
}

impl Primaries {
    /// The gates of a connection of the current runtime; at first there are none.
    pub(crate) fn over(source: &Source, cluster: &Connection, names: &Arc<Names>) -> Self {
        let shared = Arc::new(Shared {
            source: source.clone(),
            cluster: cluster.clone(),
            names: Arc::clone(names),
            chart: watch::Sender::default(),
            outdated: Arc::default(),
        });
        let surveyor = tokio::spawn(survey(Arc::clone(&shared))).abort_handle();
        Self { surveyor, shared }
    }

    /// Opens a connection to each primary. They are there afterwards, but for those of primaries that
    /// are slow to answer.
    pub(crate) async fn open(&self) {
        let mut chart = self.shared.chart.subscribe();
        self.shared.outdated.notify_one();
        let opened = async {
            let begun = chart.wait_for(|chart| chart.is_finished || chart.has_gates());
            if begun.await.is_ok() {
                // Where one is in trouble, whoever waits here has little left of what an opening may take.
                let finished = chart.wait_for(|chart| chart.is_finished);
                let _ = timeout(OTHERS, finished).await;
            }
        };
        // What has no gate goes another way until it has one.
        let _ = timeout(AT_FIRST, opened).await;
    }

    /// Sends one member, with what others ask of its primary at the same time.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the member was sent or never will be.
    pub(crate) async fn ask(&self, member: Member) -> MemberAnswer {
        let (chart, slot) = (self.shared.chart(), slots::of(&member.lock));
        let answer = self.shared.ask(&chart, slot, member).await;
        let answer = answer.map_err(|cause| of_one(&chart, slot, cause));
        answer.map(|(answered, _)| answered)
    }

    /// The same, and who has answered.
    ///
    /// # Cancel safety
    ///
    /// As [`ask`](Self::ask).
    pub(crate) async fn ask_whom(&self, member: Member) -> Result<(Answered, By), BackendError> {
        let (chart, slot) = (self.shared.chart(), slots::of(&member.lock));
        let answer = self.shared.ask(&chart, slot, member).await;
        let (answered, by_primary) = answer.map_err(|cause| of_one(&chart, slot, cause))?;
        let by = if by_primary || chart.is_nameless(slot) {
            By::Primary(Arc::clone(&self.shared), chart, slot)
        } else {
            By::Client
        };
        Ok((answered, by))
    }

    /// Reads the process under this key, by the connection to its primary. Where it is final that it is
    /// dead, that must have been said by the primary of its slot (`chart` has the argument).
    ///
    /// # Errors
    ///
    /// When it was not answered, or what is final may have been answered by somebody else.
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub(crate) async fn read_process(&self, key: &str, death: Death) -> MemberAnswer {
        let (chart, slot) = (self.shared.chart(), slots::of(key));
        let answer = self.shared.read_process(&chart, slot, key, death).await;
        answer.map_err(|cause| of_one(&chart, slot, cause))
    }

    /// Sends any number of members, and answers in their order.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped each member was sent or never will be.
    pub(crate) async fn ask_all(&self, members: Vec<Member>, waits: Waits) -> Vec<MemberAnswer> {
        let asked = members.into_iter().map(|member| self.ask(member));
        match waits {
            Waits::ForAll => join_all(asked).await,
            Waits::NotForStragglers => without_stragglers(asked).await,
        }
    }
}

/// What is answered in time, in the order of the asking.
///
/// A failure says nothing about how fast the others are. While there are only failures the caller's own
/// patience is all there is.
async fn without_stragglers<F>(asked: impl Iterator<Item = F>) -> Vec<MemberAnswer>
where
    F: Future<Output = MemberAnswer>,
{
    let mut give_up = None;
    let mut waiting: FuturesUnordered<_> = asked
        .enumerate()
        .map(|(place, answer)| async move { (place, answer.await) })
        .collect();
    let mut answers: Vec<_> = (0..waiting.len()).map(|_| None).collect();
    loop {
        let next = next_by(&mut waiting, give_up).await;
        let Some((place, answer)) = next else { break };
        if answer.is_ok() {
            give_up = Some(Instant::now() + STRAGGLER);
        }
        answers[place] = Some(answer);
    }
    let answers = answers.into_iter();
    answers
        .map(|answer| answer.unwrap_or_else(|| Err(error::straggler())))
        .collect()
}

/// An error about this slot. As long as another primary can be asked it closes nothing: the connection
/// to this one is replaced when it breaks, and its slots are read anew, so another client would be told
/// the same, and everybody who asks the others would wait until it is open. Where nobody is left to ask,
/// the locker opens it anew, from the address of the store.
fn of_one(chart: &Chart, slot: u16, cause: BackendError) -> BackendError {
    if chart.has_others(slot) {
        error::of_one_primary(cause)
    } else {
        cause
    }
}

impl Drop for Primaries {
    fn drop(&mut self) {
        self.surveyor.abort();
    }
}

/// Draws the chart whenever somebody has found it missing or wrong.
async fn survey(shared: Arc<Shared>) {
    let (least, most) = PAUSE;
    let mut pause = least;
    loop {
        shared.outdated.notified().await;
        let is_new = match shared.draw().await {
            Ok(is_new) => is_new,
            // The old one stays: whoever finds it wrong rings again.
            Err(error) => {
                tracing::debug!(%error, "the slots of the cluster cannot be read now");
                false
            }
        };
        pause = if is_new { least } else { most.min(pause * 2) };
        tokio::time::sleep(pause).await;
    }
}

impl Shared {
    fn chart(&self) -> Arc<Chart> {
        Arc::clone(&self.chart.borrow())
    }

    /// Asks for one member. Whether its primary has answered, or the node to which it sends.
    async fn ask(
        &self,
        chart: &Chart,
        slot: u16,
        member: Member,
    ) -> Result<(Answered, bool), BackendError> {
        let member = Arc::new(member);
        let Some(gate) = chart.gate(slot) else {
            self.outdated.notify_one();
            let answer = script::send_one(&self.cluster, &self.names, &member).await;
            return answer.map(|answered| (answered, false));
        };
        match gate.ask(Arc::clone(&member)).await? {
            Ok(answered) => Ok((answered, true)),
            // Boxed: it is rare, and the futures of all the others stay small.
            Err(refused) => Box::pin(self.ask_again(chart, gate, refused, &member)).await,
        }
    }

    /// Whether what the primary of the slot has answered meanwhile is final. Where it tells no address
    /// nobody can look, and it is.
    async fn is_sure(&self, chart: &Chart, slot: u16) -> bool {
        let is_sure = chart.is_nameless(slot) || chart.is_confirmed(slot).await;
        if !is_sure {
            self.outdated.notify_one();
        }
        is_sure
    }

    async fn read_process(
        &self,
        chart: &Chart,
        slot: u16,
        key: &str,
        death: Death,
    ) -> MemberAnswer {
        let by_primary = self.read_at_primary(chart, slot, key).await?;
        let is_by_primary = by_primary.is_some();
        let answered = match by_primary {
            Some(answered) => answered,
            // Boxed: it is rare.
            None => Box::pin(script::send_process(&self.cluster, key, script::READ, 0)).await?,
        };
        if death == Death::IsShown || reply::word(&answered.fields) != Some("gone") {
            return Ok(answered);
        }
        // The client does not tell whom it has asked.
        let may_be_sure = is_by_primary || chart.is_nameless(slot);
        if may_be_sure && Box::pin(self.is_sure(chart, slot)).await {
            return Ok(answered);
        }
        Err(error::unconfirmed())
    }

    /// Reads a process by the connection to its primary, or to the node to which that one sends. Nothing
    /// where there is none, it breaks, or is refused.
    async fn read_at_primary(
        &self,
        chart: &Chart,
        slot: u16,
        key: &str,
    ) -> Result<Option<Answered>, BackendError> {
        let Some(gate) = chart.gate(slot) else {
            self.outdated.notify_one();
            return Ok(None);
        };
        let read =
            async |gate: &Gate<Pipelines>, how| match gate.carrier().read_process(key, how).await {
                Err(error) if error.is_unanswered() => Ok(Err(Refused::Otherwise)),
                read => read,
            };
        let answered = match read(gate, None).await? {
            Err(Refused::TakenBy(node)) => match chart.sound_gate(&node) {
                Some(gate) => read(&gate, Some(Apart::Asking)).await?,
                None => return Ok(None),
            },
            answered => answered,
        };
        Ok(answered.ok())
    }

    /// Asks for what was refused: the node that has forgotten the script, or the one that takes the
    /// member, if there is a connection to it; or else, and then it is not sure who has answered, by the
    /// client of the cluster.
    async fn ask_again(
        &self,
        chart: &Chart,
        gate: &Gate<Pipelines>,
        refused: Refused,
        member: &Member,
    ) -> Result<(Answered, bool), BackendError> {
        let answered = match refused {
            Refused::Forgotten => gate.carrier().send_apart(member, Apart::Telling).await?,
            Refused::TakenBy(node) => match chart.sound_gate(&node) {
                Some(gate) => gate.carrier().send_apart(member, Apart::Asking).await?,
                None => Err(Refused::Otherwise),
            },
            Refused::Otherwise => Err(Refused::Otherwise),
        };
        if let Ok(answered) = answered {
            return Ok((answered, true));
        }
        let answer = script::send_one(&self.cluster, &self.names, member).await;
        answer.map(|answered| (answered, false))
    }

    /// Reads the slots, and opens what connections are missing. Whether the chart is new.
    async fn draw(&self) -> Result<bool, BackendError> {
        let ranges = bounded(MOMENT, self.ranges()).await?;
        let old = self.chart();
        let mut gates = Gates::new();
        let mut opening = FuturesUnordered::new();
        let primaries = ranges
            .iter()
            .filter_map(|range| Some((range.primary.as_ref()?, range)));
        for (address, range) in primaries.collect::<BTreeMap<&Address, &slots::Range>>() {
            let Some(gate) = old.kept_gate(range) else {
                let open = async move { Some((address.clone(), self.open(address).await?)) };
                opening.push(open);
                continue;
            };
            gates.insert(address.clone(), gate);
        }
        loop {
            let is_finished = opening.is_empty();
            let chart = Arc::new(Chart::of(&ranges, &gates, is_finished));
            self.chart.send_replace(Arc::clone(&chart));
            match opening.next().await {
                Some(opened) => gates.extend(opened),
                None => return Ok(!old.is_like(&chart)),
            }
        }
    }

    /// The slots, as whoever knows best sees them.
    async fn ranges(&self) -> Result<Vec<slots::Range>, BackendError> {
        let chart = self.chart();
        let lines = chart.lines().map(|(_, line)| Connection::Server(line));
        survey::ask(lines, self.cluster.clone()).await
    }

    /// A gate before a primary. Its slots have none as long as it cannot be reached.
    async fn open(&self, address: &Address) -> Option<Arc<Gate<Pipelines>>> {
        const LIMITS: Limits = match NonZeroUsize::new(BATCH) {
            // The primary works on one pipeline, the answers of another are read, and a third is written.
            Some(batch) => Limits {
                flights: NonZeroUsize::MIN.saturating_add(2),
                together: NonZeroUsize::MIN.saturating_add(3),
                ..Limits::batches_of(batch)
            },
            None => panic!("a batch holds something"),
        };
        let broken = Arc::new(AtomicBool::new(false));
        let noticed = Arc::clone(&broken);
        let taker: PushTaker = Arc::new(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                noticed.store(true, Ordering::Relaxed);
            }
        });
        let line = match bounded(MOMENT, self.source.open_node(address, taker)).await {
            Ok(line) => line,
            Err(error) => {
                let (host, port) = address;
                tracing::debug!(%error, host, port, "a primary of the cluster cannot be reached now");
                return None;
            }
        };
        let pipelines = Pipelines {
            line,
            broken,
            outdated: Arc::clone(&self.outdated),
        };
        Some(Arc::new(Gate::new(pipelines, LIMITS)))
    }
}
