//! F24 on Postgres.

use crate::harness::cases::{Case, Expect, records};
use crate::harness::deployment::postgres::site::Servers;
use crate::harness::scene::Scene;
use crate::harness::worker::name;

/// F24.
pub const CORRUPT: &[Case] = &[Case::new(Expect::ANYBODY, corrupt)];

/// What is done to the row of a lock.
const DAMAGES: &[(&str, &str)] = &[
    ("no owner hash", "owner = 'nonsense'"),
    ("no process hash", "process = 'nonsense'"),
    ("a newer format", "format = 99"),
    ("half a record", "process = NULL"),
    ("1 MiB", "owner = repeat('x', 1048576)"),
];

/// Whether the row is damaged in one of these ways. Its owner may have freed it meanwhile, where it can
/// still be told whose it is; then it is somebody else's by now, and not to be repaired.
const IS_DAMAGED: &str = "owner = 'nonsense' OR process = 'nonsense' OR format = 99
     OR (owner IS NOT NULL AND process IS NULL) OR length(owner) > 100000";

/// As the README of the store tells an operator to repair it: the row stays, and keeps the token.
const REPAIR: &str = "format = NULL, owner = NULL, process = NULL, acquired_at = NULL, \
                      extended_at = NULL, expires = NULL";

fn corrupt(scene: &mut Scene) -> Result<(), String> {
    records::damaged(
        scene,
        DAMAGES,
        |scene, damage| change(scene, damage, "true"),
        |scene| change(scene, REPAIR, IS_DAMAGED),
    )
}

fn change(scene: &mut Scene, what: &str, which: &str) -> Result<(), String> {
    let key = name(0);
    let sql = format!("UPDATE locker.locks SET {what} WHERE key = '{key}' AND ({which})");
    Servers::of(scene)?.admin()?.run(&sql)
}
