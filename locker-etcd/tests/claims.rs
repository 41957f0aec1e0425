//! Claims, settlements, take-overs and lives, where the contract's own cases cannot look: what lies
//! in etcd, and what arrives late.
// Tests may unwrap, also in what they share.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    BRIEF, LONG, acquire, born, born_for, claim, connect, create, granted, held, key, lease,
    liveness, lock_key, observe, open, owner, process_key, raw, server, store, until,
};
use etcd_client::{GetOptions, LeaseTimeToLiveOptions};
use locker_core::backend::{
    Claimed, Force, Liveness, Observed, Released, Renewal, Settlement, Standing,
};
use locker_core::{Effect, ErrorKind, StoreTime};
use std::time::Duration;

const FAR: StoreTime = StoreTime::from_micros(u64::MAX);

/// Attacks 9 and 34c: a record is written once, and its token is the base and the revision of that.
#[tokio::test]
async fn a_lock_is_put_once_and_its_token_is_base_and_revision() {
    let server = server();
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let process = born(&a, 1).await;
    let mine = owner("k", &process, 1);
    let token = acquire(&a, &mine).await;
    assert_eq!(acquire(&a, &mine).await, token, "repeated");
    a.extend(std::slice::from_ref(&mine), LONG).await.unwrap();
    a.force_release(&mine, Force::Mark).await.unwrap();
    a.renew_process(&process, LONG).await.unwrap();

    let found = raw.get(lock_key("k"), None).await.unwrap();
    let record = &found.kvs()[0];
    assert_eq!(record.version(), 1, "a lock is never put again");
    let base = raw.get("locker/base", None).await.unwrap();
    let base: i64 = base.kvs()[0].value_str().unwrap().parse().unwrap();
    assert_eq!(
        i64::try_from(token.get()).unwrap(),
        base + record.mod_revision()
    );
}

/// Attack 9: everything of a process hangs on its one lease, and goes with it.
#[tokio::test]
async fn everything_of_a_process_hangs_on_its_lease() {
    let server = server();
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let process = born(&a, 1).await;
    let mine = owner("k", &process, 1);
    acquire(&a, &mine).await;
    a.force_release(&mine, Force::Mark).await.unwrap();
    let waiting = locker_core::backend::Watcher::Waiter(process.clone());
    let _hints = a.watch(&key("other"), &waiting).await.unwrap();

    let lease = lease(&mut raw, &process).await;
    let keys = LeaseTimeToLiveOptions::new().with_keys();
    let found = raw.lease_time_to_live(lease, Some(keys)).await.unwrap();
    let mut keys: Vec<_> = found
        .keys()
        .iter()
        .map(|key| String::from_utf8_lossy(key))
        .collect();
    keys.sort();
    assert_eq!(
        keys,
        [
            "locker/lock/k!mark".to_owned(),
            lock_key("k"),
            process_key(&process),
            format!("locker/wait/other!{process}!"),
        ]
    );
    a.retire_process(&process).await.unwrap();
    let all = raw
        .get("locker/", Some(GetOptions::new().with_prefix()))
        .await
        .unwrap();
    let left: Vec<_> = all.kvs().iter().map(|kv| kv.key_str().unwrap()).collect();
    assert_eq!(left, ["locker/base", &*format!("locker/born/{process}!")]);
}

/// L7: no acquisition grants a lease.
#[tokio::test]
async fn an_acquisition_grants_no_lease_and_leaves_nothing() {
    let server = server();
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let process = born(&a, 1).await;
    let leases = raw.leases().await.unwrap().leases().len();
    let keys = async |raw: &mut etcd_client::Client| {
        let all = GetOptions::new().with_prefix().with_count_only();
        raw.get("", Some(all)).await.unwrap().count()
    };
    let before = keys(&mut raw).await;
    for seq in 0..20 {
        let mine = owner("k", &process, seq);
        acquire(&a, &mine).await;
        let released = a.release(&mine).await.unwrap().value;
        assert_eq!(released, Released::Done);
    }
    assert_eq!(raw.leases().await.unwrap().leases().len(), leases);
    assert_eq!(keys(&mut raw).await, before);
}

/// Attack 1, as far as the server sees it: a create that was sent before its settlement arrives
/// after it. The late one is of a connection that knows nothing of the settlement, like the bytes
/// that a kernel sends again.
#[tokio::test]
async fn a_claim_under_way_is_refused_once_its_owner_was_settled() {
    let server = server();
    let a = open(&server).await;
    let process = born(&a, 1).await;
    acquire(&a, &owner("warm", &process, 0)).await;
    let upkeep = open(&server).await;
    let late = owner("k", &process, 1);
    let settled = upkeep.settle(&late, FAR).await.unwrap().value;
    assert_eq!(settled, Settlement::Final(Released::Absent));
    assert_eq!(
        create(&a, &late).await,
        Claimed::TooLate,
        "nothing lands late"
    );
    assert_eq!(a.read_lock(&key("k")).await.unwrap().value, None);
    // An innocent claim of the process asks again, and has learned.
    acquire(&a, &owner("k", &process, 2)).await;
}

/// Attack 1: the same for a call that was held up inside the process, and is made afterwards.
#[tokio::test]
async fn a_settled_owner_never_claims_again() {
    let server = server();
    let store = store(&server);
    let (a, upkeep) = (connect(&store).await, connect(&store).await);
    let process = born(&a, 1).await;
    let late = owner("k", &process, 1);
    acquire(&a, &late).await;
    let settled = upkeep.settle(&late, FAR).await.unwrap().value;
    assert_eq!(settled, Settlement::Final(Released::Done));
    assert_eq!(create(&a, &late).await, Claimed::TooLate);
    acquire(&a, &owner("k", &process, 2)).await;
}

/// A claim is also refused when the base was raised meanwhile; that costs its caller nothing.
#[tokio::test]
async fn a_claim_under_an_old_base_is_granted_under_the_new_one() {
    let server = server();
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let process = born(&a, 1).await;
    let first = acquire(&a, &owner("k", &process, 1)).await;
    a.release(&owner("k", &process, 1)).await.unwrap();
    let raised = first.get() + 1_000_000_000;
    raw.put("locker/base", raised.to_string(), None)
        .await
        .unwrap();
    let second = acquire(&a, &owner("k", &process, 2)).await;
    assert!(
        second.get() > raised,
        "{second} is no token of the new base"
    );
    assert_eq!(observe(&a, "k").await.data.token, second);
}

/// S3: only the absence of the holder's own record frees its lock for a take-over.
#[tokio::test]
async fn a_lock_whose_process_record_was_deleted_by_hand_is_taken_over() {
    let server = server();
    let (a, b) = (open(&server).await, open(&server).await);
    let mut raw = raw(&server).await;
    let (victim, taker) = (born(&a, 1).await, born(&b, 2).await);
    let theirs = owner("k", &victim, 1);
    let first = acquire(&a, &theirs).await;
    a.force_release(&theirs, Force::Mark).await.unwrap();
    let observed = observe(&b, "k").await.observed;
    let mine = claim(&owner("k", &taker, 1));
    let refused = held(b.take_over(&mine, &observed).await.unwrap().value);
    assert!(matches!(refused.holder, Some(Liveness::Alive(data)) if data.process == victim));

    raw.delete(process_key(&victim), None).await.unwrap();
    assert_eq!(liveness(&b, &victim).await, Liveness::Dead);
    let token = granted(b.take_over(&mine, &observed).await.unwrap().value);
    assert!(token > first);
    let again = granted(b.take_over(&mine, &observed).await.unwrap().value);
    assert_eq!(again, token, "a repeated take-over is the same grant");
    let standing = b
        .check(std::slice::from_ref(&mine.owner))
        .await
        .unwrap()
        .value;
    assert_eq!(
        standing[0].as_ref().unwrap(),
        &Standing::Mine,
        "the mark went"
    );

    // The lease of the victim takes nothing along that is not its own any more.
    a.retire_process(&victim).await.unwrap();
    assert_eq!(observe(&b, "k").await.data.token, token);
    let renewed = a.renew_process(&victim, LONG).await.unwrap().value;
    assert_eq!(renewed, Renewal::Gone);
}

/// S3: whatever the caller says of the holder, the record itself must say it too.
#[tokio::test]
async fn an_observation_that_names_another_process_robs_nobody() {
    let server = server();
    let (a, b) = (open(&server).await, open(&server).await);
    let (living, taker) = (born(&a, 1).await, born(&b, 2).await);
    acquire(&a, &owner("k", &living, 1)).await;
    let observed = observe(&b, "k").await.observed;
    let revision = observed.as_str().split(' ').next().unwrap().to_owned();
    let never_born = owner("k", &common::process(77), 1);
    for forged in [
        format!("{revision} {never_born}"),
        revision.clone(),
        format!("{revision} "),
        format!("0 {never_born}"),
    ] {
        let claim = claim(&owner("k", &taker, 1));
        let answer = b.take_over(&claim, &Observed::new(&*forged)).await;
        held(answer.unwrap().value);
    }
    assert_eq!(observe(&b, "k").await.observed, observed);
}

/// Attack 28: a renewal is acknowledged by the record, not by the lease.
#[tokio::test]
async fn a_renewal_needs_the_record_as_well_as_the_lease() {
    let server = server();
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let renewal = async |process| a.renew_process(process, LONG).await.unwrap().value;
    let revoked = born(&a, 1).await;
    let lease_id = lease(&mut raw, &revoked).await;
    raw.lease_revoke(lease_id).await.unwrap();
    assert_eq!(renewal(&revoked).await, Renewal::Gone);

    let deleted = born(&a, 2).await;
    raw.delete(process_key(&deleted), None).await.unwrap();
    assert_eq!(
        renewal(&deleted).await,
        Renewal::Gone,
        "the lease is still there"
    );
    let claimed = create(&a, &owner("k", &deleted, 1)).await;
    assert_eq!(claimed, Claimed::OwnerDead);

    // A record without its lease would never run out.
    let stray = born(&a, 3).await;
    raw.put(process_key(&stray), "{}", None).await.unwrap();
    assert_eq!(renewal(&stray).await, Renewal::Gone);
}

/// L2: what a dead process held is free when its lease runs out, without anybody's doing.
#[tokio::test]
async fn the_locks_of_a_process_that_stopped_reporting_go_with_its_lease() {
    let server = server();
    let (a, b) = (open(&server).await, open(&server).await);
    // Twice the least, so that it lives until it has its lock, also on a slow disk.
    let ttl = BRIEF * 2;
    let (dying, next) = (born_for(&a, 1, ttl).await, born(&b, 2).await);
    acquire(&a, &owner("k", &dying, 1)).await;
    let mine = owner("k", &next, 1);
    let took = until(async || matches!(create(&b, &mine).await, Claimed::Granted(_))).await;
    // etcd looks for expired leases twice in a second. Twice that: what hangs on no lease never goes.
    let limit = 2 * (ttl + Duration::from_millis(500));
    assert!(took < limit, "free only after {took:?}");
    assert_eq!(liveness(&b, &dying).await, Liveness::Dead);
}

/// S11: without a base that can be read, nobody is granted anything, and what is held stays so.
#[tokio::test]
async fn a_corrupt_base_grants_nothing() {
    let server = server();
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let process = born(&a, 1).await;
    let mine = owner("held", &process, 1);
    acquire(&a, &mine).await;
    for garbage in ["", "-1", "+5", " 5", "x", "9223372036854775808"] {
        raw.put("locker/base", garbage, None).await.unwrap();
        let error = a
            .try_create(&claim(&owner("k", &process, 2)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{garbage:?}");
        assert_eq!(error.effect(), Effect::NotApplied, "{garbage:?}");
    }
    assert_eq!(observe(&a, "held").await.data.owner, mine);
    assert_eq!(a.release(&mine).await.unwrap().value, Released::Done);
}
