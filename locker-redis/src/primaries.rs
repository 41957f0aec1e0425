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
//! nothing. No safety rests on the chart: it only says which scripts travel together.
//!
//! *Why a connection of our own?* The client of a cluster sends a pipeline again as a whole when one
//! of its commands is redirected. A release that was done would be done twice, and the second answer
//! says that the lock was gone. Over a plain connection every member has its own answer: only those
//! that were refused are sent again, by the client of the cluster, which follows redirects.
//!
//! *What if the connection breaks?* Then nobody was answered, and the client of the cluster sends
//! each member once more, as it does with a request of its own. `locks` says why a request that
//! arrives twice is harmless.
//!
//! *What if the caller goes away?* The future of a flight is dropped with the last of its callers,
//! and what follows a refusal is part of it.

use crate::connection::{Connection, Source};
use crate::names::Names;
use crate::script::{self, Answered, BATCH, Member, MemberAnswer};
use crate::slots::{self, Address};
use futures_util::future::join_all;
use locker_coalesce::{Carrier, Gate, Limits};
use locker_core::BackendError;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How many operations under way, each alone, are a crowd.
const CROWD: usize = 8;
/// How long after one look at the cluster the next one may begin.
const PAUSE: Duration = Duration::from_secs(1);

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
        let chart = self.shared.chart();
        if let Some(gate) = chart.gate(slots::of(&member.lock)) {
            return gate.ask(member).await;
        }
        let _counted = self.shared.one_more();
        script::send_one(&self.shared.cluster, &self.shared.names, &member).await
    }
}

impl Drop for Primaries {
    fn drop(&mut self) {
        self.surveyor.abort();
    }
}

/// Draws the chart whenever somebody has found it missing or wrong.
async fn survey(shared: Arc<Shared>) {
    loop {
        shared.outdated.notified().await;
        match shared.draw().await {
            Ok(chart) => {
                let mut place = shared.chart.write().unwrap_or_else(PoisonError::into_inner);
                *place = Arc::new(chart);
            }
            // The old one stays: whoever finds it wrong rings again.
            Err(error) => tracing::debug!(%error, "the slots of the cluster cannot be read now"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shared {
    fn chart(&self) -> Arc<Chart> {
        Arc::clone(&self.chart.read().unwrap_or_else(PoisonError::into_inner))
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
        let mut ranges = slots::ask(&self.cluster).await?;
        ranges.sort_by_key(|range| range.first);
        let old = self.chart();
        let primaries: BTreeMap<Address, Option<Arc<Gate<Pipelines>>>> = ranges
            .iter()
            .map(|range| (range.primary.clone(), old.sound_gate(&range.primary)))
            .collect();
        let gates = primaries.into_iter().map(|(address, gate)| async move {
            match gate {
                Some(gate) => Some((address, gate)),
                None => self.open(address).await,
            }
        });
        let gates: BTreeMap<_, _> = join_all(gates).await.into_iter().flatten().collect();
        let charted = ranges.into_iter().filter_map(|range| {
            let gate = Arc::clone(gates.get(&range.primary)?);
            Some((range, gate))
        });
        Ok(Chart(charted.collect()))
    }

    /// A gate before a primary. Its slots have none as long as it cannot be reached.
    async fn open(&self, address: Address) -> Option<(Address, Arc<Gate<Pipelines>>)> {
        const LIMITS: Limits = match NonZeroUsize::new(BATCH) {
            // The primary works on one pipeline, the answers of another are read, and a third is written.
            Some(batch) => Limits {
                flights: NonZeroUsize::MIN.saturating_add(2),
                together: NonZeroUsize::MIN.saturating_add(3),
                ..Limits::batches_of(batch)
            },
            None => panic!("a batch holds something"),
        };
        let line = match self.source.open_node(&address).await {
            Ok(line) => line,
            Err(error) => {
                let (host, port) = address;
                tracing::debug!(%error, host, port, "a primary of the cluster cannot be reached now");
                return None;
            }
        };
        let pipelines = Pipelines {
            line,
            broken: AtomicBool::new(false),
            cluster: self.cluster.clone(),
            names: Arc::clone(&self.names),
            outdated: Arc::clone(&self.outdated),
        };
        Some((address, Arc::new(Gate::new(pipelines, LIMITS))))
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
        let mut gates = self.0.iter().filter(|(range, _)| range.primary == *primary);
        let (_, gate) = gates.find(|(_, gate)| !gate.carrier().is_broken())?;
        Some(Arc::clone(gate))
    }
}

/// Sends members as pipelines over the connection of one primary.
#[derive(Debug)]
struct Pipelines {
    line: MultiplexedConnection,
    broken: AtomicBool,
    /// Who sends what the primary has refused, or could not answer.
    cluster: Connection,
    names: Arc<Names>,
    outdated: Arc<Notify>,
}

impl Pipelines {
    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// What the primary says to each, and nothing where it has not done it for certain or cannot be
    /// asked.
    async fn over_the_line(&self, members: &[Member]) -> Vec<Option<MemberAnswer>> {
        if !self.is_broken() {
            match script::send_piped(&self.line, members).await {
                Ok(answers) => return answers,
                Err(_) => self.broken.store(true, Ordering::Relaxed),
            }
        }
        members.iter().map(|_| None).collect()
    }
}

impl Carrier for Pipelines {
    type Op = Member;
    type Answer = Answered;

    fn key(member: &Member) -> impl Hash {
        &member.lock
    }

    async fn carry_one(&self, member: &Member) -> MemberAnswer {
        script::send_one(&self.cluster, &self.names, member).await
    }

    async fn carry(&self, members: &[Member]) -> Result<Vec<MemberAnswer>, BackendError> {
        let answers = self.over_the_line(members).await;
        if answers.iter().all(Option::is_some) {
            return Ok(answers.into_iter().flatten().collect());
        }
        self.outdated.notify_one();
        let answers = answers.into_iter().zip(members);
        let answers = answers.map(|(answer, member)| async move {
            match answer {
                Some(answer) => answer,
                None => self.carry_one(member).await,
            }
        });
        Ok(join_all(answers).await)
    }
}
