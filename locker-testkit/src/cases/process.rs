//! The three requests of a life: birth once, renewals while it lasts, retirement. Death is one-way.

use crate::case::{Case, LONG};
use locker_core::backend::{Birth, Liveness, Renewal};
use std::time::Duration;

/// A process that is born lives, and the record says who it is.
pub async fn the_born_live(case: Case) {
    let [a, b] = case.processes().await;
    match b.read_process(a.hash()).await {
        Liveness::Alive(data) => assert_eq!(data.process, *a.hash()),
        other => panic!("a process that was born should be alive, but the store says {other:?}"),
    }
}

/// S3: a process without a record is dead, and that is a sure answer.
pub async fn the_unborn_are_dead(case: Case) {
    let a = case.process().await;
    let unborn = case.unborn().await;
    assert_eq!(a.read_process(unborn.hash()).await, Liveness::Dead);
}

/// Attack 7a: a birth that finds its own record set no TTL, and must not look as if it had.
pub async fn a_second_birth_changes_nothing(case: Case) {
    let (ttl, (process, birth)) = case
        .in_time(async |ttl| {
            let process = case.process_for(ttl).await;
            let birth = process.create_process(LONG).await;
            (process, birth)
        })
        .await;
    assert_eq!(birth, Birth::Exists);
    case.until(
        "a second birth has not prolonged the first",
        ttl,
        async || process.liveness().await == Liveness::Dead,
    )
    .await;
}

/// Attack 6c: a birth that is delivered after the retirement brings nobody back.
pub async fn a_retired_name_is_never_born_again(case: Case) {
    let process = case.process().await;
    process.retire().await;
    assert_eq!(process.create_process(LONG).await, Birth::Exists);
    assert_eq!(process.liveness().await, Liveness::Dead);
}

/// Attack 6c: nor after the process has lapsed.
pub async fn a_lapsed_name_is_never_born_again(case: Case) {
    let ttl = case.unit();
    let process = case.process_for(ttl).await;
    case.until("a process that nobody renews is dead", ttl, async || {
        process.liveness().await == Liveness::Dead
    })
    .await;
    assert_eq!(process.create_process(LONG).await, Birth::Exists);
    assert_eq!(process.liveness().await, Liveness::Dead);
}

/// A renewal in time keeps the process alive for at least what it promises.
pub async fn a_renewal_prolongs_life(case: Case) {
    let (ttl, (process, renewal)) = case
        .in_time(async |ttl| {
            let process = case.process_for(ttl).await;
            let renewal = process.renew(LONG).await;
            (process, renewal)
        })
        .await;
    match (renewal, case.exceptions().fixed_process_ttl) {
        (Renewal::Renewed { valid_for }, None) => {
            assert!(valid_for > ttl, "{valid_for:?} for {LONG:?}");
        }
        (Renewal::Renewed { valid_for }, Some(_)) => {
            assert!(valid_for <= ttl, "{valid_for:?} for a birth of {ttl:?}");
        }
        (Renewal::Gone, _) => panic!("a living process should be renewed, but is Gone"),
    }
    case.outlive_renewed(&process, ttl).await;
    assert!(matches!(process.liveness().await, Liveness::Alive(_)));
}

/// Section 4: a renewal never re-creates the record of a process that has lapsed.
pub async fn a_lapsed_process_is_not_renewed(case: Case) {
    let ttl = case.unit();
    let process = case.process_for(ttl).await;
    case.until("a process that nobody renews is dead", ttl, async || {
        process.liveness().await == Liveness::Dead
    })
    .await;
    assert_eq!(process.renew(LONG).await, Renewal::Gone);
    assert_eq!(
        process.liveness().await,
        Liveness::Dead,
        "Gone re-creates nothing"
    );
}

/// Section 4: nor that of one which has retired.
pub async fn a_retired_process_is_not_renewed(case: Case) {
    let process = case.process().await;
    process.retire().await;
    assert_eq!(process.renew(LONG).await, Renewal::Gone);
    assert_eq!(
        process.liveness().await,
        Liveness::Dead,
        "Gone re-creates nothing"
    );
}

/// Section 4: nor that of one which never was.
pub async fn an_unborn_process_is_not_renewed(case: Case) {
    let unborn = case.unborn().await;
    assert_eq!(unborn.renew(LONG).await, Renewal::Gone);
    assert_eq!(
        unborn.liveness().await,
        Liveness::Dead,
        "Gone re-creates nothing"
    );
}

/// A retirement may be repeated, and one of an unknown process harms nobody.
pub async fn a_retirement_is_repeatable(case: Case) {
    let [a, b] = case.processes().await;
    a.retire().await;
    a.retire().await;
    case.unborn().await.retire().await;
    assert_eq!(a.liveness().await, Liveness::Dead);
    assert!(
        matches!(b.liveness().await, Liveness::Alive(_)),
        "others live on"
    );
}

/// L4, S1: a process lives at least as long as the store has guaranteed.
pub async fn a_process_does_not_die_early(case: Case) {
    let process = case.unborn().await;
    let sent = case.elapsed();
    let valid_for = match process.create_process(case.unit() * 4).await {
        Birth::Created { valid_for } => valid_for,
        Birth::Exists => panic!("a process of a new name should be born"),
    };
    let seen = case
        .until(
            "a process that nobody renews is dead",
            valid_for,
            async || process.liveness().await == Liveness::Dead,
        )
        .await;
    assert!(
        // The rates of two clocks differ by at most 10 % (A1).
        seen.saturating_sub(sent) >= valid_for * 9 / 10,
        "a process with a guarantee of {valid_for:?} was dead {:?} after its birth",
        seen.saturating_sub(sent)
    );
}

/// S8: of several births under one name, sent at the same moment, one succeeds. (Names never
/// repeat; this is what tells a twin.)
pub async fn simultaneous_births_have_one_winner(case: Case) {
    let process = case.unborn().await;
    let births = (0..6).map(|_| {
        let process = process.clone();
        async move { process.create_process(LONG).await }
    });
    let births = case.at_once(births).await;
    let created = births
        .iter()
        .filter(|birth| matches!(birth, Birth::Created { .. }));
    assert_eq!(
        created.count(),
        1,
        "one birth counts, but the store answers {births:?}"
    );
}

/// Attacks 4 and 6: once anybody has seen a process dead, nothing it does is ever acknowledged.
pub async fn death_is_one_way_under_a_race_of_renewals(case: Case) {
    let b = case.process().await;
    let ttl = case.unit();
    let process = case.process_for(ttl).await;
    // The last renewals fall around the moment of death, wherever that is. Where each of them gives
    // a whole TTL, the next one comes later after it than the one before.
    let prolongs = case.exceptions().fixed_process_ttl.is_some();
    let mut pause = if prolongs {
        ttl * 3 / 4
    } else {
        Duration::ZERO
    };
    let mut renew_at = case.elapsed() + pause;
    let limit = if prolongs { ttl * 8 } else { ttl };
    case.until("a process whose renewals stop is dead", limit, async || {
        if case.elapsed() < renew_at {
            return false;
        }
        let before = b.read_process(process.hash()).await;
        let renewal = process.renew(case.unit() / 16).await;
        let resurrected = before == Liveness::Dead && matches!(renewal, Renewal::Renewed { .. });
        assert!(
            !resurrected,
            "a process was renewed after somebody had seen it dead"
        );
        if prolongs {
            pause += case.unit() / 8;
            renew_at = case.elapsed() + pause;
        }
        renewal == Renewal::Gone
    })
    .await;
    assert_eq!(b.read_process(process.hash()).await, Liveness::Dead);
}

/// The three connections of one process are one process: what one writes, the others see.
pub async fn the_sides_of_a_process_are_one(case: Case) {
    use locker_core::backend::{Released, Side, Standing};
    let process = case.unborn().await;
    let reports = process.through(Side::Reports).await;
    let upkeep = process.through(Side::Upkeep).await;
    reports.be_born(LONG).await;
    let grant = process.acquire(&case.key()).await;
    assert_eq!(upkeep.extend(&grant.owner, LONG).await, Standing::Mine);
    assert_eq!(upkeep.check(&grant.owner).await, Standing::Mine);
    assert!(matches!(reports.renew(LONG).await, Renewal::Renewed { .. }));
    assert_eq!(upkeep.release(&grant.owner).await, Released::Done);
    assert_eq!(process.check(&grant.owner).await, Standing::Absent);
    reports.retire().await;
    assert_eq!(process.liveness().await, Liveness::Dead);
}

/// Dropping one connection of a process does not end the process.
pub async fn a_closed_connection_is_not_a_death(case: Case) {
    use locker_core::backend::{Side, Standing};
    let [a, b] = case.processes().await;
    let grant = a.acquire(&case.key()).await;
    drop(a.through(Side::Upkeep).await);
    drop(a.connect(Side::Caller).await);
    assert!(matches!(b.read_process(a.hash()).await, Liveness::Alive(_)));
    assert_eq!(a.check(&grant.owner).await, Standing::Mine);
}
