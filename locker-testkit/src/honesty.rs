//! Whether a model of the [simulation](crate::sim) is honest: the same random commands, given to the
//! model and to the real store, must get the same answers.
//!
//! It compares what the machines can see, and nothing else: a token by whether it grew, a holder by
//! its name and liveness, a remaining time by whether it is zero. Time is compared at one point, where
//! both can be waited for: a process, or a lock, that has run out.
//!
//! And it asks only what lockers ask. Each process has a locker of its own, through which alone it is
//! born, renewed and retired, and makes and settles its claims: what a locker remembers of itself is
//! part of the store's answer. A name is not born again when it has ended; its locker goes on under
//! a new one. Everything else may come from anybody.

use crate::fixture::{Fixture, Time};
use crate::sim::op::{Answer, Op, Outbox, Ticket, Value};
use crate::sim::plan::Plan;
use crate::sim::rng::Rng;
use crate::sim::store::{Asked, Kind, StoreModel};
use locker_core::backend::{
    Backend, Claim, Claimed, Force, Held, Liveness, Observed, Renewal, Reply, Side,
};
use locker_core::{BackendError, Host, Key, OwnerHash, ProcessHash, StoreTime, Token};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);
const KEYS: usize = 2;
const PROCESSES: usize = 3;

/// How many commands of each kind were compared.
pub type Compared = BTreeMap<&'static str, u64>;

/// Gives `sequences` random sequences of commands to the model of this kind and to the store of the
/// fixture.
///
/// # Panics
///
/// When an answer differs: with the sequence so far, and both answers.
pub async fn compare<F: Fixture>(kind: Kind, sequences: u64, commands: usize) -> Compared {
    let mut compared = Compared::new();
    for seed in 0..sequences {
        let fixture = F::open()
            .await
            .unwrap_or_else(|missing| panic!("no store: {missing}"));
        let mut pair = Pair::open(&fixture, kind, seed).await;
        for _ in 0..commands {
            let name = pair.command(&fixture).await;
            *compared.entry(name).or_default() += 1;
        }
    }
    compared
}

/// One side of the comparison, as far as its answers lead to the next commands.
#[derive(Debug, Default)]
struct Seen {
    observed: BTreeMap<Key, Observed>,
    tokens: BTreeMap<Key, Token>,
    of_owner: BTreeMap<Box<str>, Token>,
}

/// How a process stands that a locker goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unborn,
    Born,
    /// Retired, or run out: for ever.
    Ended,
}

struct Pair {
    rng: Rng,
    seed: u64,
    kind: Kind,
    model: Box<dyn StoreModel>,
    at: Duration,
    next: usize,
    real: Vec<Arc<dyn Backend>>,
    /// The present name of each locker, and how it stands.
    processes: Vec<(ProcessHash, Life)>,
    incarnations: u128,
    seen: [Seen; 2],
    story: String,
}

impl Pair {
    async fn open<F: Fixture>(fixture: &F, kind: Kind, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut real = Vec::new();
        for _ in 0..PROCESSES {
            let connected = fixture.process().connect(Side::Caller).await;
            real.push(connected.unwrap_or_else(|error| panic!("no connection: {error}")));
        }
        let mut pair = Self {
            model: kind.model(&Plan::calm(kind, rng.bits())),
            kind,
            seed,
            at: Duration::from_secs(1),
            next: 0,
            real,
            processes: Vec::new(),
            incarnations: 0,
            seen: [Seen::default(), Seen::default()],
            story: String::new(),
            rng,
        };
        for _ in 0..PROCESSES {
            let name = pair.next_name();
            pair.processes.push((name, Life::Unborn));
        }
        pair
    }

    fn next_name(&mut self) -> ProcessHash {
        self.incarnations += 1;
        let host = Host::new("honest").expect("a short name is a host name");
        ProcessHash::new(&host, 1, self.incarnations)
    }

    fn owner(&mut self, process: usize) -> OwnerHash {
        let key = Key::new(format!("k{}", self.rng.below(KEYS))).expect("a short name is a key");
        let (name, _) = &self.processes[process];
        OwnerHash::new(&key, name, self.rng.below(2) as u64, None)
    }

    /// The name under which the locker is born next.
    fn next_birth(&mut self, process: usize) -> ProcessHash {
        if self.processes[process].1 == Life::Ended {
            self.processes[process].0 = self.next_name();
        }
        self.processes[process].1 = Life::Born;
        self.processes[process].0.clone()
    }

    /// One command for both. Answers its name.
    async fn command<F: Fixture>(&mut self, fixture: &F) -> &'static str {
        let process = self.rng.below(PROCESSES);
        let (name, life) = self.processes[process].clone();
        let owner = self.owner(process);
        let late = StoreTime::from_micros(1);
        let in_time = StoreTime::from_micros(u64::MAX);
        // What has no clock of its own does not refuse by one.
        let late = if self.kind == Kind::Etcd {
            in_time
        } else {
            late
        };
        let until = if self.rng.chance(150) { late } else { in_time };
        let claim = Claim {
            owner: owner.clone(),
            ttl: LONG,
            not_after: until,
        };
        // Nobody claims before the birth of its process is acknowledged. Where a claim cannot see its
        // own process, it would be granted, and the name be taken for a dead one's ever after.
        let may_claim = self.kind != Kind::Cluster || life != Life::Unborn;
        let anybody = self.rng.below(PROCESSES);
        let (op, what, locker) = match self.rng.below(26) {
            0..=3 if life == Life::Born || (life == Life::Ended && self.rng.chance(300)) => {
                (Op::RenewProcess(name, LONG), "renew", process)
            }
            0..=3 => {
                let name = self.next_birth(process);
                (Op::CreateProcess(name, LONG), "birth", process)
            }
            4 if life != Life::Unborn => (Op::CreateProcess(name, LONG), "birth again", process),
            5 if life != Life::Unborn => {
                self.processes[process].1 = Life::Ended;
                (Op::RetireProcess(name), "retire", process)
            }
            6..=11 if may_claim => (Op::TryCreate(claim), "create", process),
            12..=14 if may_claim => {
                let take_over = Op::TakeOver(claim, Observed::new(""));
                (take_over, "take over", process)
            }
            15 => (Op::Extend(vec![owner], LONG), "extend", anybody),
            16 => {
                let other = OwnerHash::new(owner.key(), &self.processes[0].0, 7, None);
                (Op::Check(vec![owner, other]), "check", anybody)
            }
            17..=19 => (Op::Release(owner), "release", anybody),
            20 => (Op::Settle(owner, until), "settle", process),
            21 => (Op::Mark(owner), "mark", anybody),
            22 | 23 => (Op::ReadLock(owner.key().clone()), "read lock", anybody),
            24 => (Op::ReadProcess(name), "read process", anybody),
            _ if life != Life::Born && self.rng.chance(400) => {
                self.run_out(fixture, process).await;
                return "run out";
            }
            _ => (Op::ReadProcess(name), "read process", anybody),
        };
        let granted = self.both(op, locker).await;
        match what {
            "create" if granted => "create, granted",
            "take over" if granted => "take over, granted",
            what => what,
        }
    }

    /// A process that is born for a short time, and waited for until it is dead.
    async fn run_out<F: Fixture>(&mut self, fixture: &F, process: usize) {
        let (name, unit) = (self.next_birth(process), fixture.unit());
        self.processes[process].1 = Life::Ended;
        self.both(Op::CreateProcess(name.clone(), unit), process)
            .await;
        match fixture.time() {
            Time::Virtual(clock) => clock.advance(unit * 2),
            Time::Real => tokio::time::sleep(unit).await,
        }
        let mut patience = 0;
        while let Ok(reply) = self.real[process].read_process(&name).await
            && reply.value != Liveness::Dead
        {
            patience += 1;
            assert!(patience < 200, "{name} does not die");
            tokio::time::sleep(unit / 20).await;
        }
        self.at += unit * 2;
        self.both(Op::ReadProcess(name.clone()), process).await;
        self.both(Op::RenewProcess(name, unit), process).await;
    }

    /// Asks both, and compares. Answers whether something was granted.
    async fn both(&mut self, op: Op, connection: usize) -> bool {
        let _ = writeln!(self.story, "  {op}");
        let with = |seen: &Seen| match &op {
            Op::TakeOver(claim, _) => {
                let observed = seen.observed.get(claim.key()).cloned();
                let observed = observed.unwrap_or_else(|| Observed::new("1 nobody"));
                Op::TakeOver(claim.clone(), observed)
            }
            op => op.clone(),
        };
        let (of_model, of_real) = (with(&self.seen[0]), with(&self.seen[1]));
        let said = self.ask_model(&of_model);
        let model = self.seen[0].word(&op, said);
        let said = ask_real(&*self.real[connection], &of_real).await;
        let real = self.seen[1].word(&op, said);
        assert_eq!(
            model, real,
            "the model of {} (left) and the store (right) differ about the last of these, seed {}:\n{}",
            self.kind, self.seed, self.story
        );
        let _ = writeln!(self.story, "    {real}");
        real.starts_with("granted")
    }

    fn ask_model(&mut self, op: &Op) -> Answer {
        self.at += Duration::from_millis(10);
        let ticket = Ticket(self.next);
        self.next += 1;
        let mut out = Outbox::default();
        self.model.advance(self.at);
        while self.model.next_wake().is_some_and(|due| due <= self.at) {
            self.model.wake(&mut out);
        }
        let sent = self.at;
        self.model.receive(Asked { ticket, op, sent }, &mut out);
        loop {
            if let Some(place) = out.answers.iter().position(|(of, _)| *of == ticket) {
                return out.answers.swap_remove(place).1;
            }
            let due = self.model.next_wake();
            self.at = self.at.max(due.expect("a model answers in the end"));
            self.model.advance(self.at);
            self.model.wake(&mut out);
        }
    }
}

impl Seen {
    /// What an answer says to a machine.
    fn word(&mut self, op: &Op, answer: Answer) -> String {
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return format!("{:?}, {:?}", error.kind(), error.effect()),
        };
        match reply.value {
            Value::Claimed(Claimed::Granted(token)) => self.granted(op, token),
            Value::Claimed(Claimed::Held(held)) | Value::Lock(Some(held)) => self.held(&held),
            Value::Born(birth) => match birth {
                locker_core::backend::Birth::Created { .. } => "created".to_owned(),
                locker_core::backend::Birth::Exists => "exists".to_owned(),
            },
            Value::Renewed(Renewal::Renewed { .. }) => "renewed".to_owned(),
            Value::Liveness(liveness) => word_of(&liveness).to_owned(),
            Value::Standings(standings) => {
                let standings = standings.into_iter().map(|standing| match standing {
                    Ok(standing) => format!("{standing:?}"),
                    Err(error) => format!("{:?}", error.kind()),
                });
                standings.collect::<Vec<_>>().join(", ")
            }
            other => format!("{other:?}"),
        }
    }

    fn granted(&mut self, op: &Op, token: Token) -> String {
        let (Op::TryCreate(claim) | Op::TakeOver(claim, _)) = op else {
            return "granted what nobody claimed".to_owned();
        };
        let last = self.tokens.insert(claim.key().clone(), token);
        let mine = self.of_owner.insert(claim.owner.as_str().into(), token);
        match (last, mine) {
            (last, Some(mine)) if mine == token && last == Some(token) => "granted again",
            (last, _) if last.is_none_or(|last| last < token) => "granted",
            _ => "granted, with an old token",
        }
        .to_owned()
    }

    fn held(&mut self, held: &Held) -> String {
        let key = held.data.owner.key().clone();
        self.observed.insert(key.clone(), held.observed.clone());
        let token = self.tokens.get(&key) == Some(&held.data.token);
        let holder = held.holder.as_ref().map(word_of);
        let (owner, marked) = (&held.data.owner, held.marked);
        let free = held.free_in.is_zero();
        format!("held by {owner}, {holder:?}, marked {marked}, free {free}, token {token}")
    }
}

fn word_of(liveness: &Liveness) -> &'static str {
    match liveness {
        Liveness::Alive(_) => "alive",
        Liveness::Dead => "dead",
        Liveness::Unknown => "unknown",
    }
}

async fn ask_real(store: &dyn Backend, op: &Op) -> Answer {
    fn wrap<T>(answer: Result<Reply<T>, BackendError>, value: impl FnOnce(T) -> Value) -> Answer {
        answer.map(|reply| reply.map(value))
    }
    match op {
        Op::TryCreate(claim) => wrap(store.try_create(claim).await, Value::Claimed),
        Op::TakeOver(claim, observed) => {
            wrap(store.take_over(claim, observed).await, Value::Claimed)
        }
        Op::Extend(owners, ttl) => wrap(store.extend(owners, *ttl).await, Value::Standings),
        Op::Check(owners) => wrap(store.check(owners).await, Value::Standings),
        Op::Release(owner) => wrap(store.release(owner).await, Value::Released),
        Op::Settle(owner, until) => wrap(store.settle(owner, *until).await, Value::Settled),
        Op::Mark(owner) => wrap(
            store.force_release(owner, Force::Mark).await,
            Value::Released,
        ),
        Op::ReadLock(key) => wrap(store.read_lock(key).await, Value::Lock),
        Op::ReadProcess(process) => wrap(store.read_process(process).await, Value::Liveness),
        Op::CreateProcess(process, ttl) => {
            wrap(store.create_process(process, *ttl).await, Value::Born)
        }
        Op::RenewProcess(process, ttl) => {
            wrap(store.renew_process(process, *ttl).await, Value::Renewed)
        }
        Op::RetireProcess(process) => wrap(store.retire_process(process).await, |()| Value::Done),
        Op::Watch(..) | Op::Unwatch(_) => Err(BackendError::timeout()),
    }
}
