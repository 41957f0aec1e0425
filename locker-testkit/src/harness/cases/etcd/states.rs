//! F21, as far as one member has it: the store is full, the past is compacted, an administrator
//! revokes a lease.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::etcd::admin::Admin;
use crate::harness::deployment::etcd::site::Members;
use crate::harness::event::Event;
use crate::harness::scene::Scene;
use crate::harness::times::{as_micros, micros};
use std::time::Duration;

/// F21 on one member. A quorum of one is lost when its only member stands still or is down: F13, F14.
pub const OF_ONE: &[Case] = &[NOSPACE, COMPACTED, LEASE_REVOKED];

/// The store is full.
pub(super) const NOSPACE: Case =
    Case::variant("NOSPACE", Expect::HOLD.with_errors().grants(50), full);
/// The past is forgotten under the watches.
pub(super) const COMPACTED: Case = Case::variant("compaction", Expect::HOLD, compacted);
/// An administrator ends a process.
pub(super) const LEASE_REVOKED: Case = Case::variant(
    "lease revoked",
    Expect::STRUCK.broken_ground(),
    lease_revoked,
);

/// What a locker may say to its users about a store that is full.
const SAID: [&str; 4] = ["Unavailable", "Timeout", "Busy", "TooLate"];

/// What is held is renewed and given back; what is free is not granted.
fn full(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let both = [scene.keep(0)?, scene.keep(1)?];
    scene.work(scene.times.t / 5);
    let mut admin = Members::of(scene)?.admin()?;
    let from = micros();
    admin.is_full(true)?;
    let put = admin.put("something/new", "", false);
    scene.expect(put.is_err(), "the store took something new");
    // Longer than a process lives without a report.
    scene.work(scene.times.t * 2);
    for kept in both {
        scene.still_holds(kept, "a held lock was lost while the store was full");
    }
    let let_go = micros();
    scene.let_go(both[0]);
    scene.work(scene.times.t / 2);
    let there = admin.value(&Admin::lock(both[0].key)).is_ok();
    scene.expect(
        !there,
        "a held lock was not given back while the store was full",
    );
    let granted = scene.next_grant(both[0].key, let_go, Duration::ZERO);
    scene.expect(
        granted.is_none(),
        "a free lock was granted while the store was full",
    );
    admin.is_full(false)?;
    let over = micros();
    scene.did("the store is full", from, None);
    match scene.next_grant(both[0].key, over, scene.times.t * 5) {
        Some(next) => scene.took(
            "the end of the alarm to the next grant",
            over,
            next.at,
            None,
        ),
        None => scene.expect(false, "grants did not resume"),
    }
    scene.let_go(both[1]);
    scene.work(scene.times.t * 2);
    let records = scene.fleet.log.records();
    let mut refused = records.iter().filter_map(|record| match &record.event {
        Event::Refused { kind, .. } => Some(kind.as_str()),
        _ => None,
    });
    let strange = refused.find(|kind| !SAID.contains(kind)).map(str::to_owned);
    scene.expect(
        strange.is_none(),
        format!("somebody was refused with {strange:?}"),
    );
    Ok(())
}

/// No hand-off is missed: none takes longer than a poll.
fn compacted(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t);
    let mut admin = Members::of(scene)?.admin()?;
    let (from, end) = (micros(), micros() + as_micros(scene.times.t * 4));
    let mut compactions = 0_u32;
    while micros() < end {
        // Nothing new to forget is an error of its own.
        compactions += u32::from(admin.compact().is_ok());
        scene.work(scene.times.t / 50);
    }
    scene.did("the past is forgotten", from, None);
    scene.measure("compactions", f64::from(compactions), None, "");
    scene.expect(compactions > 20, "hardly anything was compacted");
    let (mut longest, records) = ((0, 0), scene.fleet.log.records());
    for key in 0..2 {
        let mut sent = None;
        for record in records.iter().filter(|record| record.at >= from) {
            match record.event {
                Event::ReleaseSent { key: of, .. } if of == key => sent = Some(record.at),
                Event::Grant { key: of, .. } if of == key => {
                    if let Some(since) = sent.take()
                        && record.at - since > longest.1 - longest.0
                    {
                        longest = (since, record.at);
                    }
                }
                _ => {}
            }
        }
    }
    let poll = scene.times.timing().recheck_every;
    scene.took("longest hand-off", longest.0, longest.1, Some(poll));
    scene.work(scene.times.t);
    Ok(())
}

/// The process is dead by the store's word, and whatever it held is free at once: this breaks A5.
/// Its owner finds out at its next report.
fn lease_revoked(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        scene.strikes(kept.place);
        scene.work(scene.times.t / 5);
        let mut admin = Members::of(scene)?.admin()?;
        let at = micros();
        admin.revoke_lease_of(kept.key)?;
        scene.did("a lease revoked", at, Some(kept.place));
        let limit = scene.times.noticed();
        match scene.loss(kept, limit * 2) {
            Some(told) => scene.took("the revocation to STOP", at, told, Some(limit)),
            None => scene.expect(false, "the owner was not told of its loss"),
        }
        let next = scene.taken(kept, at, scene.times.t * 5);
        scene.expect(next.is_some(), "nobody got the lock");
        scene.work(scene.times.t * 3 / 2);
    }
    Ok(())
}
