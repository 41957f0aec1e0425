//! etcd: one member, and a cluster of three. [`site`] is the members of one case, [`admin`] is
//! somebody who works on them past the locker.

pub mod admin;
pub mod site;

use super::{Cell, Deployment, Site, networked, shows_most};
use crate::harness::cases::{Case, common, etcd as own, network, random, troubles, waiters};
use crate::harness::fault::Fault;
use crate::harness::times::Times;
use locker_core::Connect;
use site::Members;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The etcd store on one of its deployments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Etcd {
    /// One member.
    Alone,
    /// Three members.
    Cluster,
}

/// F12.
const DELAY: &[Case] = &[network::HALF_DELAY];

impl Deployment for Etcd {
    fn name(&self) -> &'static str {
        match self {
            Self::Alone => "etcd",
            Self::Cluster => "etcd-cluster",
        }
    }

    fn feature(&self) -> &'static str {
        "etcd"
    }

    fn times(&self) -> Times {
        // Leases are whole seconds, and a server grants no fewer than two.
        Times {
            t: Duration::from_secs(2),
        }
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
            7 => Cell::Run(networked::CUT_OFF),
            8 => Cell::Run(networked::REPLIES_LOST),
            9 => Cell::Run(networked::ONE_REPLY_LOST),
            10 => Cell::Run(networked::RESETS),
            11 => Cell::Run(network::HALF_OPEN),
            12 => Cell::Run(DELAY),
            13 => Cell::Run(troubles::STANDSTILL),
            14 => Cell::Run(network::RESTARTED),
            15 => Cell::Run(networked::EMPTIED),
            16 => Cell::DoesNotApply(
                "no replica is promoted: a write counts when a majority has it, and only a member \
                 that has all of them can lead",
            ),
            17 => Cell::DoesNotApply("these are states of a Redis server; etcd's are F21"),
            18 => Cell::DoesNotApply("there are no shards: every member has everything"),
            19 | 30 => Cell::DoesNotApply(
                "these are states of a SQL server: etcd knows neither sessions nor row locks, and \
                 a transaction is one request",
            ),
            20 => Cell::DoesNotApply("PgBouncer speaks the language of Postgres, and no other"),
            21 => match self {
                Self::Alone => Cell::Run(own::states::OF_ONE),
                Self::Cluster => Cell::Run(own::quorum::OF_THREE),
            },
            22 => Cell::DoesNotApply(
                "leases run on the servers' monotonic clock, which nobody can step; tokens are made \
                 of revisions, and of a base that is never lowered",
            ),
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
            31 => Cell::Run(waiters::FIRST_LEAVES),
            _ => Cell::DoesNotApply("there is no such fault"),
        }
    }

    fn is_short(&self, fault: Fault, variant: &str) -> bool {
        match self {
            Self::Alone => shows_most(fault, variant),
            // What differs from one member: what a majority can bear, and what it cannot.
            Self::Cluster => match fault.0 {
                1 | 7 | 14 => shows_most(fault, variant),
                21 => own::quorum::takes_several(variant),
                _ => false,
            },
        }
    }

    fn killed_is_taken_over(&self) -> Duration {
        self.times().taken_over()
    }

    fn open(&self, folder: &Path, _program: &Path) -> Result<Box<dyn Site>, Box<dyn Error>> {
        Ok(Box::new(Members::start(*self, folder)?))
    }

    fn connect(&self, url: &str, _times: Times) -> Result<Arc<dyn Connect>, Box<dyn Error>> {
        Ok(Arc::new(locker_etcd::Etcd::from_url(url)?))
    }
}
