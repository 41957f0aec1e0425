//! Faults that are done within a worker and on its network: the same for every store that has one.

use crate::harness::cases::{Case, network, troubles};

/// F07: the requests of a worker are stopped within it, and on the network.
pub(super) const CUT_OFF: &[Case] = &[troubles::CUT_OFF[0], troubles::CUT_OFF[1], network::CUT_OFF];
/// F08.
pub(super) const REPLIES_LOST: &[Case] = &[troubles::REPLIES_LOST[0], network::REPLIES_LOST];
/// F09.
pub(super) const ONE_REPLY_LOST: &[Case] = &[troubles::ONE_REPLY_LOST[0], network::ONE_REPLY_LOST];
/// F10.
pub(super) const RESETS: &[Case] = &[network::RESETS];
/// F12.
pub(super) const DELAY: &[Case] = &[network::DELAY];
/// F15.
pub(super) const EMPTIED: &[Case] = &[troubles::EMPTIED, network::RESTARTED_EMPTY];
/// F29.
pub(super) const LANDS_LATE: &[Case] = &[troubles::LANDS_LATE[0], network::LANDS_LATE];
