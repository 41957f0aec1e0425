//! F21 on three members: one of them may lead in another's place, or die, and two may not.

use super::states::{self, COMPACTED, LEASE_REVOKED, NOSPACE};
use crate::harness::cases::troubles::resumes;
use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::etcd::site::Members;
use crate::harness::scene::Scene;
use crate::harness::times::micros;
use std::io;

/// F21 on three members.
pub const OF_THREE: &[Case] = &[
    Case::variant("leader change", Expect::HOLD.with_errors(), leader_change),
    Case::variant("leader killed", Expect::HOLD.with_errors(), leader_killed),
    Case::variant(
        "follower killed",
        Expect::HOLD.with_errors(),
        follower_killed,
    ),
    Case::variant("quorum lost", Expect::ANYBODY, quorum_lost),
    NOSPACE,
    COMPACTED,
    LEASE_REVOKED,
];

/// Whether this case of F21 takes several members; the others are the same on one.
pub fn takes_several(variant: &str) -> bool {
    states::OF_ONE.iter().all(|case| case.variant != variant)
}

fn leader_change(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        let members = Members::of(scene)?;
        let old = members.cluster.leader().map_err(text)?;
        let from = micros();
        members.admin_of(old)?.hands_over()?;
        let new = Members::of(scene)?.cluster.leader().map_err(text)?;
        scene.did("another member leads", from, None);
        scene.expect(new != old, "the same member leads");
        scene.took("the change", from, micros(), None);
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
        scene.work(scene.times.t / 5);
    }
    Ok(())
}

fn leader_killed(scene: &mut Scene) -> Result<(), String> {
    one_killed(scene, true)
}

fn follower_killed(scene: &mut Scene) -> Result<(), String> {
    one_killed(scene, false)
}

/// Longer than T, and each time another member.
fn one_killed(scene: &mut Scene, leads: bool) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..3 {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        let members = Members::of(scene)?;
        let leader = members.cluster.leader().map_err(text)?;
        let place = if leads { leader } else { (leader + 1) % 3 };
        let from = micros();
        members.cluster.members_mut()[place].kill().map_err(text)?;
        scene.work(scene.times.t * 6 / 5);
        scene.still_holds(kept, "the death of one member lost a lock");
        scene.let_go(kept);
        let let_go = micros();
        resumes(scene, kept, let_go);
        let members = Members::of(scene)?;
        members.cluster.members_mut()[place]
            .start_again()
            .map_err(text)?;
        scene.watch_servers();
        scene.did("a member is gone", from, None);
        scene.work(scene.times.t / 2);
    }
    Ok(())
}

fn quorum_lost(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..2 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(scene.times.t / 5);
        let members = Members::of(scene)?;
        let leader = members.cluster.leader().map_err(text)?;
        // The leader is one of the two, or it is the one that is left.
        let first = leader + round;
        let from = micros();
        let gone = [first % 3, (first + 1) % 3];
        for place in gone {
            members.cluster.members_mut()[place].kill().map_err(text)?;
        }
        scene.work(scene.times.t * 3);
        let members = Members::of(scene)?;
        for place in gone {
            members.cluster.members_mut()[place].start().map_err(text)?;
        }
        members.cluster.serves().map_err(text)?;
        let back = micros();
        scene.watch_servers();
        scene.did("no quorum", from, None);
        for kept in both {
            match scene.loss(kept, std::time::Duration::from_millis(1)) {
                Some(told) => {
                    let limit = scene.times.t + scene.times.t / 10;
                    scene.took("the quorum's end to STOP", from, told, Some(limit));
                }
                None => scene.expect(false, "an owner was not told of its loss"),
            }
            resumes(scene, kept, back);
        }
        scene.work(scene.times.t * 3 / 2);
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: io::Error) -> String {
    error.to_string()
}
