//! The contract, method by method: each is one call of one function of the schema.

use crate::arguments::{self, Value, deadline, micros};
use crate::crash::CrashDetection;
use crate::error;
use crate::gather::{self, BATCH, Op, Statements};
use crate::lanes::{Lanes, Then};
use crate::row::{Answered, ProcessAnswered, foreign, store_time, unexpected};
use crate::statement::Of;
use crate::subscription::Subscription;
use async_trait::async_trait;
use futures_core::Stream;
use locker_coalesce::{Carrier, Gate};
use locker_core::backend::{
    Answer, Birth, Claim, Claimed, Cursor, Force, Held, Hint, HintStream, KeptBy, Limits, Listing,
    Liveness, Observed, Page, Released, Renewal, Reply, Settlement, Standing, Watcher,
};
use locker_core::{Backend, BackendError, Key, OwnerHash, ProcessData, ProcessHash, StoreTime};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How many rows one page of a listing, or one step of a sweep, looks at.
const SCAN: i32 = 512;
/// How often a claim or a release is asked whose row somebody else is just changing.
const TURNS: u32 = 4;
/// How many connections are left to requests that wait for nobody's lock on a row.
const FREE_LANES: usize = 2;
/// How long a request that may wait for a row waits for its turn. With the time for which the server lets it
/// wait for the row that is less than a request may take: so its caller hears that nothing was done.
const TURN_WAIT: Duration = Duration::from_millis(250);

/// One side's connections.
#[derive(Debug)]
pub(crate) struct PostgresBackend {
    gate: Gate<Statements>,
    /// The turns of those who may wait for somebody's lock on a row. A transaction that goes on for minutes
    /// can hold many rows; whoever waits for one of them has a connection for that time.
    patient: Semaphore,
    /// `None` where no session is kept, so that nobody can listen.
    subscription: Option<Subscription>,
    crash_detection: CrashDetection,
}

/// The answers of the members of a batch, in their order.
type Members<T> = Vec<Result<T, BackendError>>;

impl PostgresBackend {
    pub(crate) fn new(
        lanes: Lanes,
        subscription: Option<Subscription>,
        crash_detection: CrashDetection,
    ) -> Self {
        Self {
            patient: Semaphore::new(lanes.limit().saturating_sub(FREE_LANES).max(1)),
            gate: gather::before(lanes),
            subscription,
            crash_detection,
        }
    }

    async fn ask(
        &self,
        of: Of,
        arguments: Vec<Value>,
        then: Then,
    ) -> Result<Vec<PgRow>, BackendError> {
        self.gate.carrier().lanes().ask(of, arguments, then).await
    }

    /// A call that answers about exactly one lock.
    async fn one(
        &self,
        of: Of,
        arguments: Vec<Value>,
        then: Then,
    ) -> Result<Answered, BackendError> {
        let mut rows = self.ask(of, arguments, then).await?.into_iter();
        match (rows.next(), rows.next()) {
            (Some(row), None) => Answered::new(row),
            _ => Err(unexpected("number of answers")),
        }
    }

    /// Sends what may wait for a row, if few others do so already.
    async fn patiently<T>(
        &self,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        match timeout(TURN_WAIT, self.patient.acquire()).await {
            Ok(Ok(_turn)) => request.await,
            Ok(Err(_)) | Err(_) => Err(error::crowded()),
        }
    }

    /// A call that answers about exactly one process.
    async fn about_process(
        &self,
        of: Of,
        arguments: Vec<Value>,
        then: Then,
    ) -> Result<ProcessAnswered, BackendError> {
        let mut rows = self.ask(of, arguments, then).await?.into_iter();
        match (rows.next(), rows.next()) {
            (Some(row), None) => ProcessAnswered::new(row),
            _ => Err(unexpected("number of answers")),
        }
    }

    /// Asks through the gate, and again while somebody else was just changing the row, which did
    /// nothing for certain. The last time it goes alone, and then it waits for the row.
    async fn gathered<T>(
        &self,
        op: impl Fn() -> Op,
        read: impl Fn(&Answered) -> Result<Option<T>, BackendError>,
    ) -> Answer<T> {
        for turn in 1..=TURNS {
            let answered = if turn < TURNS {
                self.gate.ask(op()).await?
            } else {
                self.patiently(self.gate.carrier().carry_one(&op())).await?
            };
            if let Some(value) = read(&answered)? {
                return Ok(Reply::at(answered.store_time(), value));
            }
        }
        Err(error::busy())
    }

    /// The arguments of a birth or a renewal.
    fn life(&self, process: &ProcessHash, ttl: Duration) -> Vec<Value> {
        let believed = self.crash_detection.believed().map_or(0, micros);
        vec![process.as_str().into(), micros(ttl).into(), believed.into()]
    }

    async fn sweep_of(
        &self,
        of: Of,
        retention: Duration,
    ) -> Result<(u64, StoreTime), BackendError> {
        let mut swept = 0;
        let mut after = String::new();
        loop {
            let older_than = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX / 4);
            let arguments = vec![
                after.as_str().into(),
                older_than.min(i64::MAX / 4).into(),
                Value::Small(SCAN),
            ];
            let rows = self.ask(of, arguments, Then::Nothing).await?;
            let row = rows.first().ok_or_else(|| unexpected("sweep"))?;
            let number = |field| row.try_get::<i64, _>(field).map_err(foreign);
            swept += u64::try_from(number("swept")?).unwrap_or(0);
            match row.try_get("last").map_err(foreign)? {
                Some(last) => after = last,
                None => return Ok((swept, store_time(number("judged_at")?))),
            }
        }
    }
}

/// Sorts the rows of a batch into the order of its members. Every member has its own answer, and one
/// that cannot be read is that member's error.
fn members<T>(
    rows: Vec<PgRow>,
    expected: usize,
    answer: impl Fn(usize, &Answered) -> Result<T, BackendError>,
) -> Answer<Members<T>> {
    let mut time = None;
    let mut answers: Vec<Option<Result<T, BackendError>>> = Vec::new();
    answers.resize_with(expected, || None);
    for row in rows {
        let answered = Answered::new(row)?;
        time = Some(answered.store_time());
        let place = answered.member()?;
        let slot = answers.get_mut(place).ok_or_else(|| unexpected("member"))?;
        *slot = Some(answer(place, &answered));
    }
    let answers: Option<Members<T>> = answers.into_iter().collect();
    Ok(Reply {
        value: answers.ok_or_else(|| unexpected("number of answers"))?,
        // A batch of nothing is answered by nothing, not even a time.
        store_time: time,
    })
}

/// The hints of a store that has none.
struct Silence;

impl Stream for Silence {
    type Item = Hint;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Hint>> {
        Poll::Pending
    }
}

#[async_trait]
impl Backend for PostgresBackend {
    fn limits(&self) -> Limits {
        Limits {
            least_ttl: Duration::from_millis(1),
            ttl_granularity: Duration::from_micros(1),
            batch: BATCH,
            lock_ttl_kept_by: KeptBy::Store,
            hints: self.subscription.is_some(),
            wall_clock_expiry: true,
            shares_owner_clock: false,
            dead_after: self.crash_detection.dead_after(),
            cheap_death_poll: None,
        }
    }

    async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        let op = || Op::Claim(claim.clone());
        self.gathered(op, |answered| answered.claimed(claim.key()))
            .await
    }

    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        let arguments = vec![
            claim.key().as_str().into(),
            observed.as_str().into(),
            claim.owner.as_str().into(),
            claim.owner.process().as_str().into(),
            micros(claim.ttl).into(),
            deadline(claim.not_after).into(),
        ];
        let of: Of = |all| &all.take_over;
        let answered = self
            .patiently(self.one(of, arguments, Then::Nothing))
            .await?;
        let claimed = answered.claimed(claim.key())?.ok_or_else(error::busy)?;
        Ok(Reply::at(answered.store_time(), claimed))
    }

    async fn extend(&self, owners: &[OwnerHash], ttl: Duration) -> Answer<Members<Standing>> {
        let mut arguments = arguments::owners(&owners.iter().collect::<Vec<_>>());
        arguments.push(micros(ttl).into());
        let rows = self
            .ask(|all| &all.extend, arguments, Then::Nothing)
            .await?;
        members(rows, owners.len(), |place, answered| {
            answered.standing(&owners[place])
        })
    }

    async fn check(&self, owners: &[OwnerHash]) -> Answer<Members<Standing>> {
        let arguments = arguments::owners(&owners.iter().collect::<Vec<_>>());
        let rows = self
            .ask(|all| &all.standings, arguments, Then::Nothing)
            .await?;
        members(rows, owners.len(), |place, answered| {
            answered.standing(&owners[place])
        })
    }

    async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        let op = || Op::Release(owner.clone());
        self.gathered(op, |answered| answered.released(owner)).await
    }

    /// It queues behind a claim that is being committed, and claims that come to the row later read
    /// a later clock and are too late by themselves: so `Final` is final.
    async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Answer<Settlement> {
        let arguments = vec![owner.key().as_str().into(), owner.as_str().into()];
        let of: Of = |all| &all.settle;
        let answered = self
            .patiently(self.one(of, arguments, Then::WakeFreed))
            .await?;
        let released = answered.released(owner)?.ok_or_else(error::busy)?;
        let time = answered.store_time();
        let settlement = if time > not_after {
            Settlement::Final(released)
        } else {
            Settlement::Open(released)
        };
        Ok(Reply::at(time, settlement))
    }

    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        match force {
            Force::Now => self.release(owner).await,
            Force::Mark => {
                let arguments = vec![owner.key().as_str().into(), owner.as_str().into()];
                let of: Of = |all| &all.mark;
                let answered = self
                    .patiently(self.one(of, arguments, Then::Nothing))
                    .await?;
                let released = answered.released(owner)?.ok_or_else(error::busy)?;
                Ok(Reply::at(answered.store_time(), released))
            }
        }
    }

    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        let arguments = vec![key.as_str().into()];
        let of: Of = |all| &all.read_lock;
        let answered = self.one(of, arguments, Then::Nothing).await?;
        Ok(Reply::at(
            answered.store_time(),
            answered.read(key.as_str())?,
        ))
    }

    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        let arguments = vec![process.as_str().into()];
        let of: Of = |all| &all.read_process;
        let answered = self.about_process(of, arguments, Then::Nothing).await?;
        let liveness = answered.living()?.map_or(Liveness::Dead, Liveness::Alive);
        Ok(Reply::at(answered.store_time(), liveness))
    }

    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth> {
        let arguments = self.life(process, ttl);
        let of: Of = |all| &all.create_process;
        let answered = self.about_process(of, arguments, Then::Nothing).await?;
        let birth = match answered.verdict()? {
            "created" => Birth::Created { valid_for: ttl },
            "exists" => Birth::Exists,
            _ => return Err(unexpected("verdict")),
        };
        Ok(Reply::at(answered.store_time(), birth))
    }

    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal> {
        let arguments = self.life(process, ttl);
        let of: Of = |all| &all.renew_process;
        let answered = self.about_process(of, arguments, Then::Nothing).await?;
        let renewal = match answered.verdict()? {
            "renewed" => Renewal::Renewed { valid_for: ttl },
            "gone" => Renewal::Gone,
            _ => return Err(unexpected("verdict")),
        };
        Ok(Reply::at(answered.store_time(), renewal))
    }

    async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        let arguments = vec![process.as_str().into()];
        let of: Of = |all| &all.retire_process;
        let then = Then::WakeHeldBy(process.as_str().to_owned());
        let answered = self.about_process(of, arguments, then).await?;
        Ok(Reply::at(answered.store_time(), ()))
    }

    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        let mut after = page
            .after
            .clone()
            .map_or_else(String::new, |c| c.as_str().to_owned());
        let arguments = vec![after.as_str().into(), prefix.into(), Value::Small(SCAN)];
        let of: Of = |all| &all.list_locks;
        let rows = self.ask(of, arguments, Then::Nothing).await?;
        let more = rows.len() >= SCAN.unsigned_abs() as usize;
        let mut time = None;
        let mut items = Vec::new();
        for row in rows {
            let answered = Answered::new(row)?;
            time = Some(answered.store_time());
            let name = answered.name()?.to_owned();
            // In their order, nothing that begins with the prefix comes after this.
            if !name.starts_with(prefix) {
                return Ok(listing(time, items, None));
            }
            if let Some(item) = answered.read(&name).transpose() {
                if items.len() >= page.limit.max(1) as usize {
                    return Ok(listing(time, items, Some(after)));
                }
                items.push(item);
            }
            after = name;
        }
        Ok(listing(time, items, more.then_some(after)))
    }

    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        let mut after = page
            .after
            .clone()
            .map_or_else(String::new, |c| c.as_str().to_owned());
        let arguments = vec![after.as_str().into(), Value::Small(SCAN)];
        let of: Of = |all| &all.list_processes;
        let rows = self.ask(of, arguments, Then::Nothing).await?;
        let more = rows.len() >= SCAN.unsigned_abs() as usize;
        let mut time = None;
        let mut items = Vec::new();
        for row in rows {
            let answered = ProcessAnswered::new(row)?;
            time = Some(answered.store_time());
            if let Some(item) = answered.living().transpose() {
                if items.len() >= page.limit.max(1) as usize {
                    return Ok(listing(time, items, Some(after)));
                }
                items.push(item);
            }
            answered.name()?.clone_into(&mut after);
        }
        Ok(listing(time, items, more.then_some(after)))
    }

    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError> {
        match &self.subscription {
            Some(subscription) => subscription.watch(key, watcher).await,
            // It never hints, as `limits` says; who waits polls.
            None => Ok(Box::pin(Silence)),
        }
    }

    async fn sweep(&self, retention: Duration) -> Answer<u64> {
        let (locks, _) = self.sweep_of(|all| &all.sweep_locks, retention).await?;
        let (processes, time) = self.sweep_of(|all| &all.sweep_processes, retention).await?;
        Ok(Reply::at(time, locks + processes))
    }
}

/// A page. An empty one has no row that could tell the time.
fn listing<T>(time: Option<StoreTime>, items: Vec<T>, next: Option<String>) -> Reply<Listing<T>> {
    Reply {
        value: Listing {
            items,
            next: next.map(Cursor::new),
        },
        store_time: time,
    }
}
