//! Redis: one server; a master with a replica under three sentinels; a cluster of three masters with
//! a replica each. [`site`] is the servers of one case.

pub mod site;

use super::{Cell, Deployment, Site, networked};
use crate::harness::cases::{Case, common, network, random, redis as own, troubles, waiters};
use crate::harness::fault::Fault;
use crate::harness::times::Times;
use locker_core::Connect;
use site::Servers;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The Redis store on one of its deployments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Redis {
    /// One server.
    Alone,
    /// A master and a replica, and three sentinels that promote it.
    Sentinel,
    /// Three masters, and a replica of each.
    Cluster,
}

/// The same on one server, also with packets that are really lost.
const CUT_OFF_AND_WIRES: &[Case] = &[
    troubles::CUT_OFF[0],
    troubles::CUT_OFF[1],
    network::CUT_OFF,
    own::wires::CUT_OFF,
];
/// The same on one server, also with packets that are really lost.
const REPLIES_LOST_AND_WIRES: &[Case] = &[
    troubles::REPLIES_LOST[0],
    network::REPLIES_LOST,
    own::wires::REPLIES_LOST,
];

const NO_SQL: &str = "these are states of a SQL server; what Redis refuses is F17";

impl Deployment for Redis {
    fn name(&self) -> &'static str {
        match self {
            Self::Alone => "redis",
            Self::Sentinel => "redis-sentinel",
            Self::Cluster => "redis-cluster",
        }
    }

    fn times(&self) -> Times {
        Times::SCALED
    }

    fn cell(&self, fault: Fault) -> Cell {
        match fault.0 {
            0 => Cell::Run(common::NONE),
            1 => Cell::Run(common::KILLED),
            2 => Cell::Run(common::TERMINATED),
            3 => Cell::Run(common::PAUSED_SHORTLY),
            4 => Cell::Run(common::PAUSED_LONG),
            5 => Cell::Run(common::REPORTER_STALLED),
            6 => Cell::Run(common::RUNTIME_BLOCKED),
            7 => match self {
                Self::Alone => Cell::Run(CUT_OFF_AND_WIRES),
                Self::Sentinel | Self::Cluster => Cell::Run(networked::CUT_OFF),
            },
            8 => match self {
                Self::Alone => Cell::Run(REPLIES_LOST_AND_WIRES),
                Self::Sentinel | Self::Cluster => Cell::Run(networked::REPLIES_LOST),
            },
            9 => Cell::Run(networked::ONE_REPLY_LOST),
            10 => Cell::Run(networked::RESETS),
            11 => Cell::Run(network::HALF_OPEN),
            12 => Cell::Run(networked::DELAY),
            13 => Cell::Run(troubles::STANDSTILL),
            14 => match self {
                // A master that has just been started takes no write for two seconds, so that it hears
                // first whether another has taken its place: no restart is shorter than T.
                Self::Cluster => Cell::Run(&network::RESTARTED[1..]),
                Self::Alone | Self::Sentinel => Cell::Run(network::RESTARTED),
            },
            15 => Cell::Run(networked::EMPTIED),
            16 => match self {
                Self::Alone => Cell::DoesNotApply("there is one server, and no replica of it"),
                Self::Sentinel | Self::Cluster => Cell::Run(own::promotion::PROMOTED),
            },
            17 => match self {
                Self::Alone => Cell::Run(own::states::STATES),
                Self::Sentinel => Cell::ShownBy(
                    "`redis` F17: the master is a server like any other, and answers the same",
                ),
                Self::Cluster => Cell::ShownBy(
                    "`redis` F17: a node answers the same; CLUSTERDOWN is a case of F18",
                ),
            },
            18 => match self {
                Self::Cluster => Cell::Run(own::cluster::SHARDS),
                Self::Alone | Self::Sentinel => {
                    Cell::DoesNotApply("there are no shards: one server holds all locks")
                }
            },
            19 => Cell::DoesNotApply(NO_SQL),
            20 => Cell::DoesNotApply("PgBouncer speaks the language of Postgres, and no other"),
            21 => Cell::DoesNotApply(
                "there is no quorum: a write counts when its master has it; what a promotion may \
                 lose is F16",
            ),
            22 => match self {
                Self::Alone => Cell::Run(own::clock::STEPPED),
                Self::Sentinel | Self::Cluster => Cell::ShownBy(
                    "`redis` F22: every master judges by its own clock, and the scripts are the same",
                ),
            },
            23 => Cell::Run(own::hints::WAKE_UPS),
            24 => Cell::Run(own::records::CORRUPT),
            25 => Cell::ShownBy(
                "`no_future_leaves_anything_behind_wherever_it_is_dropped`, the cancellation sweep \
                 of the store's own tests",
            ),
            26 => Cell::Run(common::FORKED),
            27 => Cell::Run(waiters::HERD),
            28 => Cell::Run(random::PAIRS),
            29 => Cell::Run(networked::LANDS_LATE),
            30 => Cell::DoesNotApply(
                "there are no row locks: scripts run one after the other, and one that does not end \
                 is BUSY, in F17",
            ),
            31 => Cell::Run(waiters::FIRST_LEAVES),
            _ => Cell::DoesNotApply("there is no such fault"),
        }
    }

    fn is_short(&self, fault: Fault, _variant: &str) -> bool {
        match self {
            Self::Alone => true,
            // What differs from one server: how a killed and a cut off owner are judged, and what is
            // lost with a master.
            Self::Sentinel => matches!(fault.0, 0 | 1 | 7 | 16 | 23),
            Self::Cluster => matches!(fault.0, 0 | 1 | 7 | 16 | 18),
        }
    }

    fn killed_is_taken_over(&self) -> Duration {
        self.times().taken_over()
    }

    fn open(&self, _folder: &Path, _program: &Path) -> Result<Box<dyn Site>, Box<dyn Error>> {
        Ok(Box::new(Servers::start(*self)?))
    }

    fn connect(&self, url: &str, _times: Times) -> Result<Arc<dyn Connect>, Box<dyn Error>> {
        Ok(Arc::new(locker_redis::Redis::from_url(url)?))
    }
}
