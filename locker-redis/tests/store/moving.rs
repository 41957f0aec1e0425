//! A slot of a cluster that is being moved, for as long as somebody takes.

use super::*;
use locker_core::backend::Liveness;

/// L2: the record has gone to the new node, and the slot has not.
#[tokio::test]
async fn a_process_whose_record_has_moved_before_its_slot_is_found_dead() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let holder = Process::born(servers.url(), "ns").await;
    let claimant = Process::born(servers.url(), "ns").await;
    holder.acquire("k").await;
    let name = format!("ns:process:{}", holder.hash);
    let slot = servers.slot_of(&name).unwrap();
    let from = servers.node_of(slot).unwrap();
    let to = (from + 1) % 3;
    servers.begin_move(slot, to).unwrap();
    servers.move_keys(slot, from, to).unwrap();
    let lives = claimant.backend.read_process(&holder.hash).await;
    let lives = lives.unwrap().value;
    assert!(matches!(lives, Liveness::Alive(_)), "{lives:?}");
    let retired = holder.backend.retire_process(&holder.hash).await;
    retired.unwrap();
    let heir = claimant.owner("k");
    let Claimed::Held(held) = claimant.create(&heir).await.unwrap() else {
        panic!("it was not released")
    };
    assert_eq!(held.holder, Some(Liveness::Dead));
    let heir = claim(&heir);
    let taken = claimant.backend.take_over(&heir, &held.observed).await;
    token(&taken.unwrap().value);
}
