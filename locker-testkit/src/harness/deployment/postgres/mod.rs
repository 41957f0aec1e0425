//! Postgres: one server; a primary with a hot standby; a server behind `PgBouncer` in transaction
//! mode. [`site`] is the servers of one case, [`admin`] is somebody who works on them past the
//! locker.

pub mod admin;
pub mod site;

use super::{Cell, Deployment, Site, networked, shows_most};
use crate::harness::cases::{common, network, postgres as own, random, troubles, waiters};
use crate::harness::fault::Fault;
use crate::harness::times::Times;
use locker_core::Connect;
use site::Servers;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The Postgres store on one of its deployments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pg {
    /// One server.
    Alone,
    /// A primary, and a standby that follows it asynchronously.
    Standby,
    /// One server, and `PgBouncer` in transaction mode in front of it.
    Pooled,
}

const NOBODY_IS_WOKEN: &str = "a pooler in transaction mode carries no wake-ups: whoever waits polls, \
                               so there is nobody to wake, and no order in which";
const SAME_SERVER: &str = "`postgres` F22, F30: the server behind the pooler, or beside the standby, \
                           judges by the same functions";

impl Deployment for Pg {
    fn name(&self) -> &'static str {
        match self {
            Self::Alone => "postgres",
            Self::Standby => "postgres-standby",
            Self::Pooled => "pgbouncer",
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
            7 => Cell::Run(networked::CUT_OFF),
            8 => Cell::Run(networked::REPLIES_LOST),
            9 => Cell::Run(networked::ONE_REPLY_LOST),
            10 => Cell::Run(networked::RESETS),
            11 => Cell::Run(network::HALF_OPEN),
            12 => Cell::Run(networked::DELAY),
            13 => Cell::Run(troubles::STANDSTILL),
            14 => Cell::Run(network::RESTARTED),
            15 => Cell::Run(networked::EMPTIED),
            16 => match self {
                Self::Standby => Cell::Run(own::promotion::PROMOTED),
                Self::Alone | Self::Pooled => {
                    Cell::DoesNotApply("there is one server, and no standby of it")
                }
            },
            17 => Cell::DoesNotApply("these are states of a Redis server; Postgres' are F19"),
            18 => Cell::DoesNotApply("there are no shards: one server holds all locks"),
            19 => match self {
                Self::Alone => Cell::Run(own::sessions::STATES),
                Self::Pooled => Cell::Run(own::sessions::THROUGH_A_POOLER),
                Self::Standby => Cell::ShownBy(
                    "`postgres` F19: the primary is a server like any other, and answers the same",
                ),
            },
            20 => match self {
                Self::Pooled => Cell::Run(own::pooler::POOLED),
                Self::Alone | Self::Standby => {
                    Cell::ShownBy("`pgbouncer`, a deployment of its own: here is no pooler")
                }
            },
            21 => Cell::DoesNotApply(
                "there is no quorum: a write counts when the primary has it; what a promotion may \
                 lose is F16",
            ),
            22 => match self {
                Self::Alone => Cell::Run(own::clock::STEPPED),
                Self::Standby | Self::Pooled => Cell::ShownBy(SAME_SERVER),
            },
            23 => match self {
                Self::Alone | Self::Standby => Cell::Run(own::hints::WAKE_UPS),
                Self::Pooled => Cell::DoesNotApply(NOBODY_IS_WOKEN),
            },
            24 => Cell::Run(own::records::CORRUPT),
            25 => Cell::ShownBy(
                "`no_future_leaves_anything_behind_wherever_it_is_dropped`, the cancellation sweep \
                 of the store's own tests",
            ),
            26 => Cell::Run(common::FORKED),
            27 => match self {
                Self::Alone | Self::Standby => Cell::Run(waiters::HERD),
                Self::Pooled => Cell::DoesNotApply(NOBODY_IS_WOKEN),
            },
            28 => Cell::Run(random::PAIRS),
            29 => Cell::Run(networked::LANDS_LATE),
            30 => match self {
                Self::Alone => Cell::Run(own::rows::HELD),
                Self::Standby | Self::Pooled => Cell::ShownBy(SAME_SERVER),
            },
            31 => match self {
                Self::Alone | Self::Standby => Cell::Run(waiters::FIRST_LEAVES),
                Self::Pooled => Cell::DoesNotApply(NOBODY_IS_WOKEN),
            },
            _ => Cell::DoesNotApply("there is no such fault"),
        }
    }

    fn is_short(&self, fault: Fault, variant: &str) -> bool {
        match self {
            Self::Alone => shows_most(fault, variant),
            // What differs from one server: what is lost with a primary; and whether every request
            // may reach another session.
            Self::Standby => matches!(fault.0, 1 | 7 | 14 | 16) && shows_most(fault, variant),
            Self::Pooled => matches!(fault.0, 1 | 7 | 19 | 20) && shows_most(fault, variant),
        }
    }

    fn killed_is_taken_over(&self) -> Duration {
        self.times().taken_over()
    }

    fn open(&self, _folder: &Path, _program: &Path) -> Result<Box<dyn Site>, Box<dyn Error>> {
        Ok(Box::new(Servers::start(*self, self.times())?))
    }

    fn connect(&self, url: &str, _times: Times) -> Result<Arc<dyn Connect>, Box<dyn Error>> {
        Ok(Arc::new(locker_postgres::Postgres::from_url(url)?))
    }
}
