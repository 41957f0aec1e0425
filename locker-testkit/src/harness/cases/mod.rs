//! How the faults are done.
//!
//! A case is a function over a [`Scene`] with what is expected of every run of it. Those in
//! [`common`], [`troubles`], [`network`], [`random`] and [`waiters`] know no store; `clock`, `hints`
//! and `records` are told how it is done there; the others belong to their deployment.

mod clock;
pub mod common;
#[cfg(feature = "etcd")]
pub mod etcd;
mod hints;
pub mod network;
pub mod postgres;
pub mod random;
mod records;
pub mod redis;
pub mod sqlite;
pub mod troubles;
pub mod waiters;

use super::scene::Scene;

/// One fault on one deployment.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What distinguishes it from other cases of its fault; often nothing.
    pub variant: &'static str,
    /// What must hold, besides what the case itself expects.
    pub expect: Expect,
    /// Whether it belongs to the whole table only, whatever its fault: it takes long, or rights that
    /// few have.
    pub only_in_full: bool,
    /// Does it.
    pub run: fn(&mut Scene) -> Result<(), String>,
}

/// What must hold in every run of a case.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// Whose guards may be lost.
    pub losses: Losses,
    /// Whether the fault takes away what the promises stand on (A2, A3, A6).
    pub ground: Ground,
    /// Fewer grants than this are too little load to show anything.
    pub grants: u64,
    /// Whether acquisitions may fail.
    pub errors: bool,
}

/// Whose guards may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Losses {
    /// HOLD.
    Nobody,
    /// Only of those workers that were struck.
    Struck,
    /// The fault is everybody's.
    Anybody,
}

/// Whether the promises have their ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// V1 is zero.
    Firm,
    /// Overlaps are counted, and each ends when the next report or check finds out.
    Broken,
}

impl Expect {
    /// Nothing is lost, nothing fails.
    pub const HOLD: Self = Self {
        losses: Losses::Nobody,
        ground: Ground::Firm,
        grants: 200,
        errors: false,
    };

    /// Who is struck may lose.
    pub const STRUCK: Self = Self {
        losses: Losses::Struck,
        ..Self::HOLD
    };

    /// Everybody may lose.
    pub const ANYBODY: Self = Self {
        losses: Losses::Anybody,
        errors: true,
        ..Self::HOLD
    };

    /// Acquisitions may fail.
    #[must_use]
    pub const fn with_errors(mut self) -> Self {
        self.errors = true;
        self
    }

    /// Another minimum of grants.
    #[must_use]
    pub const fn grants(mut self, grants: u64) -> Self {
        self.grants = grants;
        self
    }

    /// The fault breaks an assumption.
    #[must_use]
    pub const fn broken_ground(mut self) -> Self {
        self.ground = Ground::Broken;
        self
    }
}

impl Case {
    /// A case without variants.
    pub const fn new(expect: Expect, run: fn(&mut Scene) -> Result<(), String>) -> Self {
        Self {
            variant: "",
            expect,
            only_in_full: false,
            run,
        }
    }

    /// One of several cases of a fault.
    pub const fn variant(
        variant: &'static str,
        expect: Expect,
        run: fn(&mut Scene) -> Result<(), String>,
    ) -> Self {
        Self {
            variant,
            expect,
            only_in_full: false,
            run,
        }
    }

    /// It belongs to the whole table only.
    #[must_use]
    pub const fn only_in_full(mut self) -> Self {
        self.only_in_full = true;
        self
    }
}
