//! F24 on etcd.

use crate::harness::cases::{Case, Expect, records};
use crate::harness::deployment::etcd::admin::Admin;
use crate::harness::deployment::etcd::site::Members;
use crate::harness::scene::Scene;

/// F24.
pub const CORRUPT: &[Case] = &[Case::new(Expect::ANYBODY, corrupt)];

/// What the record of a lock becomes.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// Another text.
    Text(&'static str),
    /// A million letters.
    Large,
    /// Itself, with the number of another format.
    Newer,
    /// Its first half.
    Half,
}

const DAMAGES: &[(&str, Damage)] = &[
    ("no record", Damage::Text("nonsense")),
    (
        "another record",
        Damage::Text("{\"format\":1,\"owner\":\"nonsense\"}"),
    ),
    ("a newer format", Damage::Newer),
    ("half a record", Damage::Half),
    ("1 MiB", Damage::Large),
];

fn corrupt(scene: &mut Scene) -> Result<(), String> {
    // As the README of the store tells an operator to repair it.
    let repair = |scene: &mut Scene| {
        let mut admin = Members::of(scene)?.admin()?;
        admin.delete(&Admin::lock(0)).map(drop)
    };
    records::damaged(scene, DAMAGES, damage, repair)
}

fn damage(scene: &mut Scene, damage: &Damage) -> Result<(), String> {
    let mut admin = Members::of(scene)?.admin()?;
    let lock = Admin::lock(0);
    let value = match damage {
        Damage::Text(text) => (*text).to_owned(),
        // A request of etcd has at most 1.5 MiB.
        Damage::Large => "x".repeat(1 << 20),
        Damage::Newer => {
            let value = admin.value(&lock)?;
            let newer = value.replacen("\"format\":1", "\"format\":99", 1);
            if newer == value {
                return Err(format!("no format in {value}"));
            }
            newer
        }
        Damage::Half => {
            let mut value = admin.value(&lock)?;
            value.truncate(value.len() / 2);
            value
        }
    };
    admin.put(&lock, &value, true)
}
