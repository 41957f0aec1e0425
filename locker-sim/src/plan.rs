//! What a seed decides before the first event: the cluster, its clocks, and the weather.

use super::fault::Fault;
use super::rng::Rng;
use super::store::Kind;
use crate::scaled;
use locker_core::{Key, Timing};
use std::time::Duration;

/// The scaled durations of the fault tests, and clocks that drift as far as A1 allows.
pub fn timing() -> Timing {
    Timing {
        drift_permille: 100,
        ..scaled(Duration::from_secs(1))
    }
}

/// For how long a session is believed that nothing was heard of, where sessions count.
pub const BELIEVED: Duration = Duration::from_secs(3);

/// How long a cluster may take to heal, where no assumption was broken.
const HEALED_WITHIN: Duration = Duration::from_millis(4000);

/// What a seed decides before the first event.
#[derive(Debug, Clone)]
pub struct Plan {
    /// 2 to 6.
    pub processes: usize,
    /// 1 to 3.
    pub keys: usize,
    /// Tasks in each process that want locks: 1 to 8.
    pub tasks: usize,
    /// The durations, with the drift that the store's clock calls for.
    pub timing: Timing,
    /// The rate of each process's clock, in permille of the true one.
    pub rates: Vec<u32>,
    /// The rate of the store's clock.
    pub store_rate: u32,
    /// The rate of another node's clock, where a store has several.
    pub other_rate: u32,
    /// Which store it is.
    pub kind: Kind,
    /// The chance of a store that has its own.
    pub seed: u64,
    /// How often in a thousand a commit takes its time.
    pub slow_commits: u32,
    /// Whether an ended session has to show that a process is dead, on a store that can tell.
    pub sessions: bool,
    /// Which assumption breaks, once, and when.
    pub breach: Option<Fault>,
    /// When it does.
    pub breach_at: Duration,
    /// Whether the only trouble is one stall of the store that no lock may be lost by (L5).
    pub stall_only: bool,
    /// How often waiters ask whether the holder is dead.
    pub cheap_death_poll: Option<Duration>,
    /// When the faults end.
    pub heals_at: Duration,
    /// What the network does to single requests.
    pub weather: Weather,
    /// Longer troubles.
    pub outages: Vec<Outage>,
    /// How many of the processes' troubles strike, and when, is drawn as they come: about one in
    /// this time.
    pub trouble_every: Duration,
}

/// What the network does to single requests, in permille.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "the names are those of the faults")]
pub struct Weather {
    pub refused: u32,
    pub request_lost: u32,
    pub reply_lost: u32,
    pub slow: u32,
    pub late: u32,
    pub doubled: u32,
    pub hint_lost: u32,
}

/// A trouble that lasts.
#[derive(Debug, Clone)]
pub struct Outage {
    /// When it begins.
    pub from: Duration,
    /// When it ends.
    pub until: Duration,
    /// Whom it strikes; nobody in particular is everybody.
    pub process: Option<usize>,
    /// What it does.
    pub kind: OutageKind,
}

/// What a lasting trouble does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageKind {
    /// Requests get lost.
    CutOff,
    /// Requests arrive when it is over: bytes that the kernel retransmits.
    HeldBack,
    /// Requests arrive and are executed; replies get lost.
    RepliesSwallowed,
    /// The store reads nothing until it is over.
    StoreStalled,
    /// Replies take almost as long as anybody waits for them: what often comes before a cut.
    Congested,
}

impl Plan {
    /// What this seed decides.
    pub fn draw(rng: &mut Rng) -> Self {
        let seed = rng.bits();
        let kind = Kind::ALL[rng.below(Kind::ALL.len())];
        // Most clusters are small: what goes wrong needs two or three.
        let processes = [2, 2, 2, 3, 3, 4, 5, 6][rng.below(8)];
        // The embedded store reads the very clock of its owners; others do not.
        let shares_clock = kind == Kind::Embedded;
        let mut rate = || match rng.below(3) {
            _ if shares_clock => 1000,
            // The ends of what A1 allows: 950 / 1055 is just above 0.9.
            0 => 950,
            1 => 1055,
            _ => 950 + u32::try_from(rng.below(106)).unwrap_or(0),
        };
        let rates = (0..processes).map(|_| rate()).collect();
        let store_rate = rate();
        let other_rate = rate();
        let scaled = timing();
        let timing = Timing {
            drift_permille: if shares_clock {
                0
            } else {
                scaled.drift_permille
            },
            ..scaled
        };
        let heals_at = rng.between(Duration::from_secs(2), Duration::from_secs(7));
        let mut up_to = |most: usize| u32::try_from(rng.below(most + 1)).unwrap_or(0);
        // A third of the histories is nearly calm, so that one fault can be seen at work.
        let storm = [0, 1, 3][up_to(2) as usize];
        let weather = Weather {
            refused: up_to(10) * storm,
            request_lost: up_to(15) * storm,
            reply_lost: up_to(25) * storm,
            slow: up_to(40) * storm,
            late: up_to(15) * storm,
            doubled: up_to(15) * storm,
            hint_lost: up_to(100) * storm,
        };
        let mut outages: Vec<Outage> = Vec::new();
        for _ in 0..rng.below(5) {
            // Troubles like to follow each other.
            let after = outages.last().filter(|_| rng.chance(500));
            let outage = Outage::draw(rng, processes, heals_at, after);
            outages.push(outage);
        }
        let mut plan = Self {
            processes,
            keys: 1 + rng.below(3),
            tasks: [1, 1, 1, 2, 2, 2, 3, 4, 6, 8][rng.below(10)].min(18 / processes),
            timing,
            rates,
            store_rate,
            other_rate,
            kind,
            seed,
            slow_commits: [0, 30, 150][rng.below(3)],
            sessions: kind == Kind::Postgres && rng.chance(500),
            breach: None,
            breach_at: rng.between(Duration::from_millis(300), heals_at),
            stall_only: false,
            // The embedded store asks the kernel, which costs next to nothing.
            cheap_death_poll: shares_clock.then_some(Duration::from_millis(100)),
            heals_at,
            weather,
            outages,
            trouble_every: rng.between(Duration::from_millis(250), Duration::from_millis(2500)),
        };
        // A record that only its own TTL removes shall be seen to lie there (see `heals_within`).
        plan.timing.lock_ttl += plan.believed();
        if rng.chance(30) {
            plan.stall_only(rng);
        } else if rng.chance(80) {
            let of_store = plan.kind.model(&plan).breaches();
            // What breaks on the side of the processes breaks whatever the store is.
            let all = [of_store, &[Fault::MachinePaused, Fault::Cloned]].concat();
            plan.breach = Some(all[rng.below(all.len())]);
        }
        plan
    }

    /// No trouble at all, and clocks that show the true time: for a model by itself.
    pub fn calm(kind: Kind, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut plan = Self::draw(&mut rng);
        plan.kind = kind;
        plan.store_rate = 1000;
        plan.other_rate = 1000;
        plan.weather = Weather::default();
        plan.outages.clear();
        plan.slow_commits = 0;
        plan.sessions = false;
        plan.breach = None;
        plan
    }

    /// L5: all is well, but that the store stands still for a while that is shorter than 0.4 T.
    fn stall_only(&mut self, rng: &mut Rng) {
        self.stall_only = true;
        self.weather = Weather::default();
        self.slow_commits = 0;
        let from = rng.between(Duration::from_millis(600), self.heals_at);
        let lasts = rng.between(
            Duration::from_millis(50),
            self.timing.liveness_ttl * 38 / 100,
        );
        self.outages = vec![Outage {
            from,
            until: from + lasts,
            process: None,
            kind: OutageKind::StoreStalled,
        }];
        self.heals_at = self.heals_at.max(from + self.timing.liveness_ttl);
    }

    /// How long after the faults have ended everybody must have been served, and everything be gone.
    /// It is less than L: a record that only its own TTL removes is a violation. Only a store that
    /// has lost data may have got back a record that nobody knows of.
    pub fn heals_within(&self) -> Duration {
        let losses = match self.breach {
            Some(_) => self.timing.lock_ttl + self.timing.liveness_ttl,
            None => Duration::ZERO,
        };
        HEALED_WITHIN + losses + self.believed()
    }

    /// For how long a process is believed of which nothing is heard.
    pub fn believed(&self) -> Duration {
        if self.sessions {
            BELIEVED
        } else {
            Duration::ZERO
        }
    }

    /// The names of the keys.
    pub fn key_names(&self) -> Vec<Key> {
        (0..self.keys)
            .map(|key| Key::new(format!("k{key}")).expect("a short name is a key"))
            .collect()
    }

    /// The trouble that a request of this process meets at this moment.
    pub fn outage(&self, at: Duration, process: usize) -> Option<&Outage> {
        self.outages.iter().find(|outage| {
            outage.process.is_none_or(|struck| struck == process)
                && (outage.from..outage.until).contains(&at)
        })
    }
}

impl Outage {
    fn draw(rng: &mut Rng, processes: usize, heals_at: Duration, after: Option<&Self>) -> Self {
        let from = match after {
            Some(last) => last.until,
            None => rng.between(Duration::ZERO, heals_at),
        };
        // From far below T to far above it.
        let longest = [200, 800, 2500][rng.below(3)];
        let until = from + rng.between(Duration::ZERO, Duration::from_millis(longest));
        let kind = [
            OutageKind::CutOff,
            OutageKind::HeldBack,
            OutageKind::RepliesSwallowed,
            OutageKind::StoreStalled,
            OutageKind::Congested,
        ][rng.below(5)];
        let process = match (kind, after) {
            (OutageKind::StoreStalled, _) => None,
            (_, Some(last)) => last.process,
            (_, None) => rng.chance(800).then(|| rng.below(processes)),
        };
        Self {
            from,
            until: until.min(heals_at),
            process,
            kind,
        }
    }
}
