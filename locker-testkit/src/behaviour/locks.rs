//! Acquiring and releasing.

use super::World;
use crate::fixture::Fixture;
use crate::wrap::{Fault, Scope};
use distributed_locker::{
    AcquireError, AcquireOptions, Acquired, Key, OwnerHashStatus, ReadError, Released, Trace,
};

/// The first test of `@clickup/distributed-locker`.
pub async fn acquire_and_release_show_in_the_owner_hash_status<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let guard = world.hold(&locker, "k").await;
    let owner = guard.owner_hash().to_string();
    let status = locker.read_owner_hash_status(&owner).await.unwrap();
    assert_eq!(status, OwnerHashStatus::Running);
    let data = locker
        .read_lock_data("k")
        .await
        .unwrap()
        .expect("it is held");
    assert_eq!(data.owner.as_str(), owner);
    assert_eq!(data.token, guard.token());

    guard.release().await.unwrap();
    let status = locker.read_owner_hash_status(&owner).await.unwrap();
    assert_eq!(status, OwnerHashStatus::NoKey);
    let other = world.hold(&locker, "k").await;
    let status = locker.read_owner_hash_status(&owner).await.unwrap();
    assert!(matches!(status, OwnerHashStatus::SomeoneElseHoldsLock(data)
        if data.owner == *other.owner_hash()));
    // The typed form of an owner hash asks the same.
    let status = locker
        .read_owner_hash_status(other.owner_hash())
        .await
        .unwrap();
    assert_eq!(status, OwnerHashStatus::Running);
    let status = locker.read_owner_hash_status("k@nonsense").await.unwrap();
    assert_eq!(status, OwnerHashStatus::MalformedOwnerHash);
}

/// Hazard PG-3 the other way round: the refusal leaves the first guard as it was.
pub async fn a_second_acquire_by_the_same_process_is_refused<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let guard = world.hold(&locker, "k").await;
    let second = locker.acquire("k", AcquireOptions::new()).await.unwrap();
    assert!(matches!(second, Acquired::SomeoneElseHoldsLock(data)
        if data.owner == *guard.owner_hash()));
    assert!(guard.is_valid());
    guard.release().await.unwrap();
    assert!(world.is_free(&locker, "k").await);
}

/// S1.
pub async fn a_second_process_is_refused_and_told_who_holds_it<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let options = AcquireOptions::new().trace(Trace::new("ticket 5").unwrap());
    let guard = world.hold_with(&a, "k", options).await;
    let Acquired::SomeoneElseHoldsLock(data) = b.acquire("k", AcquireOptions::new()).await.unwrap()
    else {
        panic!("two owners");
    };
    assert_eq!(data.owner, *guard.owner_hash());
    assert_eq!(data.trace().unwrap().as_str(), "ticket 5");
    assert_eq!(Some(data.process()), a.process_hash().as_ref());
}

/// The short form of an acquisition: a guard, or nothing.
pub async fn a_single_try_answers_the_guard_or_nothing<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let key = "k".to_owned();
    let guard = a.try_acquire(&key).await.unwrap().expect("it is free");
    assert!(guard.is_valid());
    assert!(b.try_acquire(&key).await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(b.try_acquire(&key).await.unwrap().is_some());
    let error = a.try_acquire("a\0b").await.unwrap_err();
    assert!(matches!(error, AcquireError::InvalidKey(_)), "{error:?}");
}

/// S4, hazard PG-2.
pub async fn nobody_releases_anothers_lock<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let first = world.hold(&a, "k").await;
    let former = first.owner_hash().clone();
    first.release().await.unwrap();
    let guard = world.hold(&b, "k").await;
    let released = world.store().await.release(&former).await.unwrap().value;
    assert_eq!(released, Released::Held(guard.owner_hash().clone()));
    assert!(!world.is_free(&a, "k").await);
    guard
        .extend()
        .await
        .expect("it is still the second owner's");
}

/// S7.
pub async fn a_dropped_guard_gives_its_lock_back<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    drop(world.hold(&a, "k").await);
    let limit = world.timing().recheck_every;
    world
        .until(limit, "the lock is free", async || {
            world.is_free(&b, "k").await
        })
        .await;
    world
        .until(limit, "nothing is left", async || a.keys().is_empty())
        .await;
}

/// S7: dropped while its request is under way.
pub async fn a_dropped_acquisition_leaves_nothing<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let stall = faulty.inject(
        Scope::all().from(locker_core::backend::Side::Caller),
        Fault::Stall,
    );
    let acquiring = locker.acquire("k", AcquireOptions::new());
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(20), acquiring).await;
    assert!(given_up.is_err(), "the store does not answer");
    stall.lift();
    let limit = world.timing().request_timeout * 4 + world.timing().recheck_every * 2;
    world
        .until(limit, "nothing is left", async || locker.keys().is_empty())
        .await;
    assert!(!world.has_record("k").await);
}

/// S2.
pub async fn a_released_lock_is_acquired_with_a_greater_token<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let mut last = None;
    for round in 0..6 {
        let guard = world.hold(if round % 2 == 0 { &a } else { &b }, "k").await;
        assert!(
            Some(guard.token()) > last,
            "{last:?} then {:?}",
            guard.token()
        );
        last = Some(guard.token());
        guard.release().await.unwrap();
    }
}

/// Hazard CU-18.
pub async fn hostile_keys_and_traces_are_shown_as_they_were_given<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    for text in [
        "a@host/10.99.0#x@evil/9.9.9#y",
        "%40",
        " ",
        "\u{1}\n\t",
        "ключ 🔑",
        "'; --\"\\",
    ] {
        let options = AcquireOptions::new().trace(Trace::new(text).unwrap());
        let guard = world.hold_with(&locker, text, options).await;
        let data = locker
            .read_lock_data(text)
            .await
            .unwrap()
            .expect("it is held");
        assert_eq!(data.owner.key().as_str(), text);
        assert_eq!(data.trace().unwrap().as_str(), text);
        let owner = guard.owner_hash().to_string();
        let status = locker.read_owner_hash_status(&owner).await.unwrap();
        assert_eq!(status, OwnerHashStatus::Running);
        guard.release().await.unwrap();
    }
}

/// Bad input changes no record.
pub async fn a_bad_key_is_refused_without_asking_the_store<F: Fixture>(world: World<F>) {
    let (locker, counted) = world.counted_locker().await;
    let before = counted.counts();
    for bad in [String::new(), "a\0b".to_owned(), "x".repeat(513)] {
        let error = locker
            .acquire(bad, AcquireOptions::new())
            .await
            .unwrap_err();
        assert!(matches!(error, AcquireError::InvalidKey(_)), "{error:?}");
        assert!(error.to_string().contains("not held"), "{error}");
    }
    for bad in ["", "a\0b"] {
        let error = locker.read_lock_data(bad).await.unwrap_err();
        assert!(matches!(error, ReadError::InvalidKey(_)), "{error:?}");
        assert!(!error.to_string().contains("not held"), "{error}");
        let error = locker.on_release(bad).await.unwrap_err();
        assert!(matches!(error, ReadError::InvalidKey(_)), "{error:?}");
    }
    let caller = locker_core::backend::Side::Caller;
    assert_eq!(
        counted
            .counts()
            .since(&before)
            .from(caller, crate::wrap::Method::TryCreate),
        0
    );
    assert!(Key::new("x".repeat(512)).is_ok());
}

/// Section "round trips" of the contract.
pub async fn one_round_trip_acquires_a_free_lock_and_one_releases_it<F: Fixture>(world: World<F>) {
    use crate::wrap::Method;
    let (locker, counted) = world.counted_locker().await;
    let caller = locker_core::backend::Side::Caller;
    let before = counted.counts();
    let guard = world.hold(&locker, "k").await;
    let acquired = counted.counts().since(&before);
    assert_eq!(acquired.from(caller, Method::TryCreate), 1);
    assert_eq!(of_caller(&acquired), 1, "{acquired:?}");
    let before = counted.counts();
    guard.release().await.unwrap();
    let released = counted.counts().since(&before);
    assert_eq!(released.from(caller, Method::Release), 1);
    assert_eq!(of_caller(&released), 1, "{released:?}");
}

fn of_caller(counts: &crate::wrap::Counts) -> u64 {
    use crate::wrap::Method;
    let caller = locker_core::backend::Side::Caller;
    Method::ALL
        .iter()
        .map(|method| counts.from(caller, *method))
        .sum()
}
