//! A claim of a free lock is written first and judged then, by a clock that is read after the lock of
//! the row was had. Whatever has become too late while it waited for that leaves nothing behind. A
//! claim of a lock that is held has nothing to wait for.

mod fixture;

use fixture::{PostgresFixture, Somebody};
use locker_core::StoreTime;
use locker_core::backend::{Claim, Claimed};
use locker_testkit::Fixture;
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::time::Duration;

/// Until when it is not too late, in microseconds; and when the row is given back. Both far shorter than
/// the functions wait for a row (1 s), so that a busy machine may take its time.
const SOON: i64 = 100_000;
const LATE: i64 = 200_000;

async fn now(raw: &mut PgConnection) -> i64 {
    let now = sqlx::query_scalar("SELECT clock()");
    now.fetch_one(raw).await.expect("an answer")
}

/// Claims a free lock, as of this time of the store, whose row somebody else keeps until it is later than
/// `SOON`, and something else has happened.
async fn claimed_after_a_wait(
    fixture: &PostgresFixture,
    somebody: &Arc<Somebody>,
    claim: impl FnOnce(i64) -> Claim,
    meanwhile: impl AsyncFnOnce(&mut PgConnection),
) -> Claimed {
    let (mut keeper, mut raw) = (fixture.raw().await, fixture.raw().await);
    let mut kept = keeper.begin().await.expect("an answer");
    let keep = "SELECT key FROM locks WHERE key = 'k' AND owner IS NULL FOR UPDATE";
    let keep = sqlx::query(keep);
    assert_eq!(
        keep.fetch_all(&mut *kept).await.expect("an answer").len(),
        1
    );
    let begun = now(&mut raw).await;
    let (asking, claim) = (Arc::clone(somebody), claim(begun));
    let asking = tokio::spawn(async move { asking.backend.try_create(&claim).await });
    let waits = format!("%{}%try_create(%", fixture.schema());
    loop {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1";
        let waiting = sqlx::query_scalar::<_, i64>(waiting).bind(&waits);
        let waiting = waiting.fetch_one(&mut raw).await.expect("an answer");
        if waiting > 0 && now(&mut raw).await > begun + LATE {
            break;
        }
        assert!(!asking.is_finished(), "it waits for the row");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    meanwhile(&mut raw).await;
    kept.rollback().await.expect("an answer");
    asking.await.expect("a task").expect("an answer").value
}

/// S7: otherwise a claim could land after its settlement has answered that none can any more.
#[tokio::test]
async fn a_claim_that_is_too_late_when_it_has_the_row_is_undone() {
    let fixture = PostgresFixture::open().await;
    let fixture = fixture.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
    let somebody = Arc::new(Somebody::over(&fixture.store()).await);
    let before = somebody.acquire("k").await;
    somebody.backend.release(&before.owner).await.unwrap();
    let claim = |now: i64| Claim {
        not_after: StoreTime::from_micros((now + SOON).unsigned_abs()),
        ..somebody.claim("k")
    };
    let claimed = claimed_after_a_wait(&fixture, &somebody, claim, async |_| {}).await;
    assert!(matches!(claimed, Claimed::TooLate), "{claimed:?}");
    assert!(somebody.read("k").await.is_none(), "nothing is left of it");
    somebody.acquire("k").await;
}

/// The same for a claimant whose process ends meanwhile.
#[tokio::test]
async fn a_claim_of_a_process_that_is_dead_when_it_has_the_row_is_undone() {
    let fixture = PostgresFixture::open().await;
    let fixture = fixture.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
    let somebody = Arc::new(Somebody::over(&fixture.store()).await);
    let other = Somebody::over(&fixture.store()).await;
    let before = somebody.acquire("k").await;
    somebody.backend.release(&before.owner).await.unwrap();
    let claim = |_| somebody.claim("k");
    let process = somebody.process.clone();
    let retire = async |raw: &mut PgConnection| {
        let retire = sqlx::query("SELECT retire_process($1)").bind(process.as_str());
        retire.execute(raw).await.unwrap();
    };
    let claimed = claimed_after_a_wait(&fixture, &somebody, claim, retire).await;
    assert!(matches!(claimed, Claimed::OwnerDead), "{claimed:?}");
    assert!(other.read("k").await.is_none(), "nothing is left of it");
}

/// Somebody confirms a lock in a transaction of his own, which keeps the row as long as it likes. Who is
/// too late for that lock, or dead, is told so at once: it is what the store's time is learnt from.
#[tokio::test]
async fn a_claim_of_a_lock_that_is_held_waits_for_nobody_whoever_asks_and_when() {
    let fixture = PostgresFixture::open().await;
    let fixture = fixture.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
    let store = fixture.store();
    let (holder, other) = (Somebody::over(&store).await, Somebody::over(&store).await);
    let dead = Somebody::unborn(&store).await;
    holder.acquire("k").await;
    let mut keeper = fixture.raw().await;
    let mut kept = keeper.begin().await.unwrap();
    let keep = sqlx::query("SELECT FROM locks WHERE key = 'k' FOR SHARE");
    keep.execute(&mut *kept).await.unwrap();
    let too_late = Claim {
        not_after: StoreTime::from_micros(1),
        ..other.claim("k")
    };
    let late = other.backend.try_create(&too_late).await.unwrap().value;
    assert!(matches!(late, Claimed::TooLate), "{late:?}");
    let of_the_dead = dead.backend.try_create(&dead.claim("k")).await.unwrap();
    assert!(
        matches!(of_the_dead.value, Claimed::OwnerDead),
        "{of_the_dead:?}"
    );
    let in_time = other.backend.try_create(&other.claim("k")).await.unwrap();
    assert!(matches!(in_time.value, Claimed::Held(_)), "{in_time:?}");
    kept.rollback().await.unwrap();
}
