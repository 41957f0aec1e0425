//! What several tasks ask of a cluster at once travels in one pipeline to each primary.
//!
//! Keys of different slots cannot be in one script, but scripts for one node can be in one pipeline:
//! one message of the client, few system calls of the server. So the slots are read, each primary
//! gets a connection of its own and a gate before it, and every operation goes through the gate of
//! its slot. A primary that stalls keeps nobody waiting who asks another.
//!
//! This begins when a crowd asks at the same time. A locker that never has one opens no connection
//! for it.
//!
//! What lies behind a gate travels by its connection only, also what travels alone. The client of
//! the cluster carries what has no gate (before there was a crowd, or while a primary cannot be
//! reached), and what a primary has refused.
//!
//! # The argument
//!
//! *What if the slots have moved?* Then a node refuses the scripts of what it has not, and has done
//! nothing. No safety rests on the chart: it only says which scripts travel together. What was
//! refused is asked again by its caller's own future, alone. So it keeps no flight waiting, and is
//! not sent for a caller who has left. The client of the cluster sends it, which follows redirects.
//!
//! *And while a slot is being moved?* The node to which it goes wants to hear ASKING right before
//! each command. The client of the cluster sends the two one after the other over a connection
//! which it shares, so that of several callers one gets through and the others go round again: in
//! vain where they are more than three or four, however often it tries. So that node is asked over
//! our connection to it, if there is one, and the two are one message.
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
//! *What if a node does not answer?* Its own callers run out of time, as they would without this.
//! Only the locker knows what time they have, so only the locker judges: it doubts the whole
//! connection, these with it, and opens another one. A judge in this place would take a busy node
//! for a dead one, or would not hear of callers who leave early. A batch that all its callers have
//! left is given up by its gate. The surveyor waits for nobody longer than a moment, and draws what
//! it knows.

use crate::connection::{Connection, PushTaker, Source, bounded};
use crate::names::Names;
use crate::script::{self, BATCH, Member, MemberAnswer, Piped, Refused};
use crate::slots;
use crate::url::Address;
use futures_util::future::join_all;
use locker_coalesce::{Carrier, Gate, Limits};
use locker_core::BackendError;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How many operations under way, each alone, are a crowd.
const CROWD: usize = 8;
/// How long after one look at the cluster the next one may begin, and how long if it was in vain again
/// and again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a node may take to tell the slots, or to take a connection.
const MOMENT: Duration = Duration::from_secs(2);

/// The gates of a cluster. Dropped, it closes the connections behind them.
#[derive(Debug)]
pub(crate) struct Primaries {
    surveyor: AbortHandle,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    cluster: Connection,
    names: Arc<Names>,
    chart: RwLock<Arc<Chart>>,
    /// Rung when the chart is to be drawn anew.
    outdated: Arc<Notify>,
    /// How many operations are under way, each alone.
    alone: AtomicUsize,
}

/// Which slots lie behind which gate, in the order of the slots. Slots that are missing have none.
#[derive(Debug, Default)]
struct Chart(Vec<(slots::Range, Arc<Gate<Pipelines>>)>);

impl Primaries {
    /// The gates of a connection of the current runtime; at first there are none.
    pub(crate) fn over(source: &Source, cluster: &Connection, names: &Arc<Names>) -> Self {
        let shared = Arc::new(Shared {
            source: source.clone(),
            cluster: cluster.clone(),
            names: Arc::clone(names),
            chart: RwLock::default(),
            outdated: Arc::default(),
            alone: AtomicUsize::new(0),
        });
        let surveyor = tokio::spawn(survey(Arc::clone(&shared))).abort_handle();
        Self { surveyor, shared }
    }

    /// Sends one member, with what others ask of its primary at the same time.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the member was sent or never will be.
    pub(crate) async fn ask(&self, member: Member) -> MemberAnswer {
        let shared = &*self.shared;
        let member = Arc::new(member);
        let chart = shared.chart();
        let _counted = match chart.gate(slots::of(&member.lock)) {
            Some(gate) => match gate.ask(Arc::clone(&member)).await? {
                Ok(answered) => return Ok(answered),
                // Boxed: it is rare, and the futures of all the others stay small.
                Err(refused) => return Box::pin(shared.ask_again(&chart, refused, &member)).await,
            },
            None => shared.one_more(),
        };
        script::send_one(&shared.cluster, &shared.names, &member).await
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
            Ok(chart) => shared.replace(chart),
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
        Arc::clone(&self.chart.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this chart says anything new.
    fn replace(&self, chart: Chart) -> bool {
        let chart = Arc::new(chart);
        let mut place = self.chart.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *place, Arc::clone(&chart));
        drop(place);
        !old.is_like(&chart)
    }

    /// Counts an operation that travels alone, and rings if it is one of a crowd.
    fn one_more(&self) -> impl Drop {
        struct Counted<'s>(&'s AtomicUsize);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if self.alone.fetch_add(1, Ordering::Relaxed) + 1 >= CROWD {
            self.outdated.notify_one();
        }
        Counted(&self.alone)
    }

    /// Asks for what was refused: the node that takes it, if there is a connection to it, or else
    /// by the client of the cluster.
    async fn ask_again(&self, chart: &Chart, refused: Refused, member: &Member) -> MemberAnswer {
        let gate = refused.taken_by.and_then(|node| chart.sound_gate(&node));
        if let Some(gate) = gate
            && let Ok(answered) = script::send_asking(&gate.carrier().line, member).await?
        {
            return Ok(answered);
        }
        script::send_one(&self.cluster, &self.names, member).await
    }

    /// Reads the slots, and opens what connections are missing.
    async fn draw(&self) -> Result<Chart, BackendError> {
        let mut ranges = bounded(MOMENT, slots::ask(&self.cluster)).await?;
        ranges.sort_by_key(|range| range.first);
        let old = self.chart();
        let primaries = ranges.iter().filter_map(|range| range.primary.as_ref());
        let primaries: BTreeSet<&Address> = primaries.collect();
        let gates = primaries.into_iter().map(async |address| {
            let gate = match old.sound_gate(address) {
                Some(gate) => gate,
                None => self.open(address).await?,
            };
            Some((address.clone(), gate))
        });
        let gates: BTreeMap<_, _> = join_all(gates).await.into_iter().flatten().collect();
        let charted = ranges.into_iter().filter_map(|range| {
            let gate = Arc::clone(gates.get(range.primary.as_ref()?)?);
            Some((range, gate))
        });
        Ok(Chart(charted.collect()))
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

impl Chart {
    fn gate(&self, slot: u16) -> Option<&Arc<Gate<Pipelines>>> {
        let after = self.0.partition_point(|(range, _)| range.first <= slot);
        let (range, gate) = self.0.get(after.checked_sub(1)?)?;
        (slot <= range.last).then_some(gate)
    }

    /// The gate of a primary whose connection has not broken.
    fn sound_gate(&self, primary: &Address) -> Option<Arc<Gate<Pipelines>>> {
        let gates = self.0.iter();
        let mut gates = gates.filter(|(range, _)| range.primary.as_ref() == Some(primary));
        let (_, gate) = gates.find(|(_, gate)| !gate.carrier().is_broken())?;
        Some(Arc::clone(gate))
    }

    fn is_like(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        self.0.len() == other.0.len() && pairs.all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(&a.1, &b.1))
    }
}

/// Sends members as pipelines over the connection of one primary, one of a single member as well.
#[derive(Debug)]
struct Pipelines {
    line: MultiplexedConnection,
    /// Set once, when the connection has broken: it is not used again.
    broken: Arc<AtomicBool>,
    outdated: Arc<Notify>,
}

impl Pipelines {
    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Carrier for Pipelines {
    type Op = Arc<Member>;
    type Answer = Piped;

    fn key(member: &Arc<Member>) -> impl Hash {
        &member.lock
    }

    async fn carry_one(&self, member: &Arc<Member>) -> Result<Piped, BackendError> {
        script::only(self.carry(std::slice::from_ref(member)).await?)
    }

    async fn carry(
        &self,
        members: &[Arc<Member>],
    ) -> Result<Vec<Result<Piped, BackendError>>, BackendError> {
        let answers = if self.is_broken() {
            members
                .iter()
                .map(|_| Ok(Err(Refused::default())))
                .collect()
        } else {
            let answers = script::send_piped(&self.line, members).await;
            answers.inspect_err(|_| self.broken.store(true, Ordering::Relaxed))?
        };
        // A slot that is being moved says nothing against the chart.
        let outdated = |refused: &Refused| refused.taken_by.is_none();
        let mut refusals = answers
            .iter()
            .flatten()
            .filter_map(|piped| piped.as_ref().err());
        if refusals.any(outdated) {
            self.outdated.notify_one();
        }
        Ok(answers)
    }
}
