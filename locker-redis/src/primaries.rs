//! What several tasks ask of a cluster at once travels in one pipeline to each primary.
//!
//! Keys of different slots cannot be in one script, but scripts for one node can be in one pipeline:
//! one message of the client, few system calls of the server. So the slots are read, each primary
//! gets a connection of its own and a gate before it, and every operation goes through the gate of
//! its slot. A primary that stalls keeps nobody waiting who asks another.
//!
//! This begins when a crowd asks at the same time. A locker that never has one opens no connection
//! for it, and until the connections are open every operation travels alone, by the client of the
//! cluster.
//!
//! # The argument
//!
//! *What if the slots have moved?* Then a node refuses the scripts of what it has not, and has done
//! nothing. No safety rests on the chart: it only says which scripts travel together. What was
//! refused is asked again by its caller's own future, alone, by the client of the cluster, which
//! follows redirects. So it keeps no flight waiting, and is not sent for a caller who has left.
//!
//! *Why a connection of our own?* The client of a cluster sends a pipeline again as a whole when one
//! of its commands is redirected. A release that was done would be done twice, and the second answer
//! says that the lock was gone. Over a plain connection every member has its own answer.
//!
//! *What if that connection breaks?* What was in flight is of unknown effect, as on a server alone,
//! and nothing of it is sent again: whoever asked settles it. One that breaks while nothing is in
//! flight is noticed, and not used any more.
//!
//! *What if a node does not answer?* Its own callers run out of time, as they would without this; the
//! locker then opens the whole store anew. The surveyor waits for nobody longer than a moment, and
//! draws what it knows.

use crate::connection::{Connection, PushTaker, Source, bounded};
use crate::names::Names;
use crate::script::{self, Answered, BATCH, Member, MemberAnswer};
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
use tokio::time::Instant;

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
        let _counted = match shared.chart().gate(slots::of(&member.lock)) {
            Some(gate) => match gate.ask(Arc::clone(&member)).await? {
                Some(answered) => return Ok(answered),
                None => None,
            },
            None => Some(shared.one_more()),
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
            cluster: self.cluster.clone(),
            names: Arc::clone(&self.names),
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

/// Sends members as pipelines over the connection of one primary.
#[derive(Debug)]
struct Pipelines {
    line: MultiplexedConnection,
    /// Set once, when the connection has broken.
    broken: Arc<AtomicBool>,
    /// Who sends what travels alone.
    cluster: Connection,
    names: Arc<Names>,
    outdated: Arc<Notify>,
}

impl Pipelines {
    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The connection is not used again, and another is wanted.
    fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.outdated.notify_one();
    }
}

/// The wait for a pipeline's answers, since when. If everybody gives it up after a while, the
/// connection is not used again: it may have been forgotten on the way.
struct Silence<'p>(&'p Pipelines, Option<Instant>);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        if self.1.is_some_and(|since| since.elapsed() >= PAUSE.0) {
            self.0.give_up();
        }
    }
}

impl Carrier for Pipelines {
    type Op = Arc<Member>;
    /// Nothing, if the primary has refused: it is to be asked for by the client of the cluster.
    type Answer = Option<Answered>;

    fn key(member: &Arc<Member>) -> impl Hash {
        &member.lock
    }

    async fn carry_one(&self, member: &Arc<Member>) -> Result<Option<Answered>, BackendError> {
        script::send_one(&self.cluster, &self.names, member)
            .await
            .map(Some)
    }

    async fn carry(
        &self,
        members: &[Arc<Member>],
    ) -> Result<Vec<Result<Option<Answered>, BackendError>>, BackendError> {
        if self.is_broken() {
            self.outdated.notify_one();
            return Ok(members.iter().map(|_| Ok(None)).collect());
        }
        let mut silence = Silence(self, Some(Instant::now()));
        let answers = script::send_piped(&self.line, members).await;
        silence.1 = None;
        match &answers {
            Err(_) => self.give_up(),
            Ok(answers) if answers.iter().any(|answer| matches!(answer, Ok(None))) => {
                self.outdated.notify_one();
            }
            Ok(_) => {}
        }
        answers
    }
}
