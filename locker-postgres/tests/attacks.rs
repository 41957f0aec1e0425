//! Interleavings that a store on Postgres must survive, each forced on a real server. The numbers are
//! those of the attacks in the project's documentation.

mod fixture;

use fixture::{PostgresFixture, Somebody, fixture};
use locker_core::backend::{
    Birth, Claimed, Hint, Liveness, Released, Renewal, Reply, Settlement, Watcher,
};
use locker_core::{BackendError, ErrorKind, StoreTime, Token};
use locker_postgres::{ConfirmError, CrashDetection};
use sqlx::{Connection, PgConnection, Row};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
/// A time to live that passes while a row is waited for.
const BRIEF: Duration = Duration::from_millis(400);
/// How often an interleaving is tried on a machine that may be slow.
const ROUNDS: usize = 20;

/// Waits until some session of this schema waits for a lock of the server's. That is not for long (1 s), so
/// the connection that watches has been opened before.
async fn somebody_waits(watch: &mut PgConnection, fixture: &PostgresFixture) {
    let limit = tokio::time::Instant::now() + LONG / 6;
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1",
        )
        .bind(format!("%{}%", fixture.schema()))
        .fetch_one(&mut *watch)
        .await
        .expect("a sound answer");
        if waiting > 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < limit, "nobody waits");
    }
}

/// Lets a process end soon, unless it reports.
async fn ends_soon(raw: &mut PgConnection, somebody: &Somebody) {
    sqlx::query("UPDATE processes SET expires = clock() + $2 WHERE process = $1")
        .bind(somebody.process.as_str())
        .bind(i64::try_from(BRIEF.as_micros()).expect("a sound answer"))
        .execute(raw)
        .await
        .expect("a sound answer");
}

/// What a take-over answered. The machine may have been too slow for the interleaving; then it is
/// none, and forced once more.
#[track_caller]
fn left_alone(claimed: Result<Reply<Claimed>, BackendError>) -> bool {
    match claimed.map(|reply| reply.value) {
        Ok(Claimed::Held(held)) => {
            assert!(matches!(held.holder, Some(Liveness::Alive(_))), "{held:?}");
            true
        }
        Ok(other) => panic!("its process is alive, but: {other:?}"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
            false
        }
    }
}

/// Attack 4a: a take-over that waits for the row of the lock judges by what is true after the wait.
#[tokio::test]
async fn a_take_over_that_waited_sees_the_renewals_of_its_wait() {
    let fixture = fixture().await;
    let taker = Somebody::over(&fixture.store()).await;
    let mut raw = fixture.raw().await;
    let mut watch = fixture.raw().await;
    for round in 0..ROUNDS {
        let name = format!("k{round}");
        let owner = Somebody::over(&fixture.store()).await;
        owner.acquire(&name).await;
        let observed = taker.read(&name).await.expect("it is held").observed;
        let mut administrator = raw.begin().await.unwrap();
        sqlx::query("SELECT FROM locks WHERE key = $1 FOR UPDATE")
            .bind(&name)
            .execute(&mut *administrator)
            .await
            .unwrap();
        ends_soon(&mut watch, &owner).await;
        let claim = taker.claim(&name);
        let take_over = taker.backend.take_over(&claim, &observed);
        let meanwhile = async {
            somebody_waits(&mut watch, &fixture).await;
            // Its snapshot says that the owner is dead by then.
            let end = owner.expires(&mut watch).await;
            let renewed = owner.backend.renew_process(&owner.process, LONG).await;
            let in_time = matches!(renewed.unwrap().value, Renewal::Renewed { .. });
            while in_time && now(&mut watch).await <= end {}
            administrator.rollback().await.unwrap();
            in_time
        };
        let (claimed, in_time) = tokio::join!(take_over, meanwhile);
        if in_time && left_alone(claimed) {
            return;
        }
    }
    panic!("the machine is too slow to force it");
}

/// Attack 4b: a renewal that was executed in time and takes long to commit keeps its process alive.
#[tokio::test]
async fn a_take_over_waits_for_a_renewal_that_is_being_committed() {
    let fixture = fixture().await;
    let taker = Somebody::over(&fixture.store()).await;
    let mut raw = fixture.raw().await;
    let mut watch = fixture.raw().await;
    for round in 0..ROUNDS {
        let name = format!("k{round}");
        let owner = Somebody::over(&fixture.store()).await;
        owner.acquire(&name).await;
        let observed = taker.read(&name).await.expect("it is held").observed;
        ends_soon(&mut watch, &owner).await;
        let end = owner.expires(&mut watch).await;
        let mut renewal = raw.begin().await.unwrap();
        let renewed: String =
            sqlx::query_scalar("SELECT verdict FROM renew_process($1, 60000000, 0)")
                .bind(owner.process.as_str())
                .fetch_one(&mut *renewal)
                .await
                .unwrap();
        if renewed != "renewed" {
            renewal.rollback().await.unwrap();
            continue;
        }
        while now(&mut watch).await <= end {}
        let claim = taker.claim(&name);
        let take_over = taker.backend.take_over(&claim, &observed);
        let meanwhile = async {
            somebody_waits(&mut watch, &fixture).await;
            renewal.commit().await.unwrap();
        };
        let (claimed, ()) = tokio::join!(take_over, meanwhile);
        if left_alone(claimed) {
            return;
        }
    }
    panic!("the machine is too slow to force it");
}

async fn now(raw: &mut PgConnection) -> i64 {
    let now = sqlx::query_scalar("SELECT clock()").fetch_one(raw).await;
    now.expect("a sound answer")
}

/// Attack 4c: a create that waits for another one never takes its process for dead, although its
/// first snapshot did not contain it.
#[tokio::test]
async fn a_create_that_waited_does_not_rob_a_process_that_was_born_meanwhile() {
    for known in [false, true] {
        let fixture = fixture().await;
        let other = Somebody::over(&fixture.store()).await;
        if known {
            // The row is there and free.
            let claim = other.acquire("k").await;
            other.backend.release(&claim.owner).await.unwrap();
        }
        let newborn = Somebody::unborn(&fixture.store()).await;
        let (mut raw, mut watch) = (fixture.raw().await, fixture.raw().await);
        let mut transaction = raw.begin().await.unwrap();
        sqlx::query("SELECT FROM create_process($1, 60000000, 0)")
            .bind(newborn.process.as_str())
            .execute(&mut *transaction)
            .await
            .unwrap();
        let owned = newborn.claim("k");
        let verdict = newborn.claim_over(&mut transaction, &owned).await;
        assert_eq!(verdict, "granted");
        let claim = other.claim("k");
        let second = other.backend.try_create(&claim);
        let meanwhile = async {
            somebody_waits(&mut watch, &fixture).await;
            transaction.commit().await.unwrap();
        };
        let (claimed, ()) = tokio::join!(second, meanwhile);
        match claimed.unwrap().value {
            Claimed::Held(held) => {
                assert_eq!(held.data.owner, owned.owner);
                assert!(matches!(held.holder, Some(Liveness::Alive(_))), "{held:?}");
            }
            other => panic!("the newborn owns it, but: {other:?} (row known: {known})"),
        }
    }
}

/// Attack 1, on Postgres: the create of an attempt of unknown outcome is executed, and is committed
/// after its owner has asked to settle it. The settlement waits for it, and removes it.
#[tokio::test]
async fn settling_waits_for_a_create_that_is_being_committed_and_removes_it() {
    for known in [false, true] {
        let fixture = fixture().await;
        let owner = Somebody::over(&fixture.store()).await;
        if known {
            let claim = owner.acquire("k").await;
            owner.backend.release(&claim.owner).await.unwrap();
        }
        let claim = owner.claim("k");
        let (mut raw, mut watch) = (fixture.raw().await, fixture.raw().await);
        let mut attempt = raw.begin().await.unwrap();
        assert_eq!(owner.claim_over(&mut attempt, &claim).await, "granted");
        let settle = owner
            .backend
            .settle(&claim.owner, StoreTime::from_micros(1));
        let meanwhile = async {
            somebody_waits(&mut watch, &fixture).await;
            attempt.commit().await.unwrap();
        };
        let (settled, ()) = tokio::join!(settle, meanwhile);
        let settled = settled.unwrap().value;
        assert_eq!(
            settled,
            Settlement::Final(Released::Done),
            "row known: {known}"
        );
        assert!(owner.read("k").await.is_none());
    }
}

/// Attack 20c, 36f: a waiter that enrols while the lock is being released misses nothing, because it
/// enrols on the row of the lock.
#[tokio::test]
async fn an_enrolment_during_a_release_is_told_or_finds_the_lock_free() {
    use futures_util::{FutureExt, StreamExt};
    let fixture = fixture().await;
    let owner = Somebody::over(&fixture.store()).await;
    let waiter = Somebody::over(&fixture.store()).await;
    for round in 0..40 {
        let name = format!("k{round}");
        let claim = owner.acquire(&name).await;
        let watcher = Watcher::Waiter(waiter.process.clone());
        let (released, hints) = tokio::join!(
            owner.backend.release(&claim.owner),
            waiter.backend.watch(claim.key(), &watcher)
        );
        assert_eq!(released.unwrap().value, Released::Done);
        let mut hints = hints.unwrap();
        if waiter.read(&name).await.is_some() {
            let told = tokio::time::timeout(LONG, hints.next()).await;
            assert_eq!(told.unwrap(), Some(Hint::Free { place: 0 }));
        } else {
            let _ = hints.next().now_or_never();
        }
    }
}

/// Attack 24: batches that name the same keys in any order never wait for each other in a circle.
#[tokio::test]
async fn batches_over_the_same_keys_in_any_order_do_not_deadlock() {
    let fixture = fixture().await;
    let owner = Somebody::over(&fixture.store()).await;
    let process = owner.process.as_str().to_owned();
    // Keys whose order differs between a collation and their bytes, in the order of the heap.
    let names: Vec<String> = (0..24)
        .map(|n| format!("{}{n}", ["b", "A", "a", "B", "ä", "Z"][n % 6]))
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6_usize {
        let mut raw = fixture.raw().await;
        let (process, mut names) = (process.clone(), names.clone());
        tasks.spawn(async move {
            for round in 0..40 {
                names.rotate_left(task + round % 5);
                names.reverse();
                let owners: Vec<String> = names
                    .iter()
                    .map(|name| format!("{name}@{process}.{task}"))
                    .collect();
                let many = |text: &str| vec![text.to_owned(); names.len()];
                for sql in [
                    "SELECT verdict FROM try_create($1, $2, $3, $4, $5)",
                    "SELECT verdict FROM extend($1, $2, 60000000)",
                    "SELECT verdict FROM release($1, $2)",
                ] {
                    let mut call = sqlx::query(sql).bind(&names).bind(&owners);
                    if sql.contains("$5") {
                        call = call
                            .bind(many(&process))
                            .bind(vec![60_000_000_i64; names.len()])
                            .bind(vec![i64::MAX; names.len()]);
                    }
                    let rows = call.fetch_all(&mut raw).await.expect("no deadlock");
                    assert_eq!(rows.len(), names.len());
                    for row in rows {
                        let verdict: String = row.get(0);
                        assert_ne!(verdict, "owner_dead");
                    }
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// PG-1: keys of every length and content are released, and wake who waits.
#[tokio::test]
async fn a_key_of_any_length_and_content_is_released_and_wakes() {
    use futures_util::StreamExt;
    let fixture = fixture().await;
    let owner = Somebody::over(&fixture.store()).await;
    let waiter = Somebody::over(&fixture.store()).await;
    for name in [
        "x".repeat(51),
        "x".repeat(64),
        "ü".repeat(256),
        "'; DROP TABLE locks; -- \"\\".to_owned(),
        "a b\n\u{1f512}\u{202e}%@#".to_owned(),
    ] {
        let claim = owner.acquire(&name).await;
        let watcher = Watcher::Waiter(waiter.process.clone());
        let mut hints = waiter.backend.watch(claim.key(), &watcher).await.unwrap();
        let released = owner.backend.release(&claim.owner).await.unwrap().value;
        assert_eq!(released, Released::Done, "{name:?}");
        let told = tokio::time::timeout(LONG, hints.next()).await.unwrap();
        assert_eq!(told, Some(Hint::Free { place: 0 }), "{name:?}");
    }
}

/// S10: whoever can reach the database can send on the channel, and nothing comes of it.
#[tokio::test]
async fn forged_hints_change_nothing_and_name_nobody_else() {
    use futures_util::{FutureExt, StreamExt};
    let fixture = fixture().await;
    let owner = Somebody::over(&fixture.store()).await;
    let waiter = Somebody::over(&fixture.store()).await;
    let claim = owner.acquire("k").await;
    let watcher = Watcher::Waiter(waiter.process.clone());
    let mut hints = waiter.backend.watch(claim.key(), &watcher).await.unwrap();
    let mut raw = fixture.raw().await;
    let listening: String = sqlx::query_scalar(
        "SELECT query FROM pg_stat_activity WHERE query LIKE 'LISTEN %' OR query LIKE '%enrol%' LIMIT 1",
    )
    .fetch_one(&mut raw)
    .await
    .expect("somebody listens");
    assert!(!listening.is_empty());
    for forged in ["free 0 1 2 3", "gone 1", "nonsense", "look", "free x"] {
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(fixture.channel())
            .bind(forged)
            .execute(&mut raw)
            .await
            .unwrap();
    }
    assert!(hints.next().now_or_never().is_none());
    assert!(waiter.read("k").await.is_some());
    owner.backend.release(&claim.owner).await.unwrap();
    let told = tokio::time::timeout(LONG, hints.next()).await.unwrap();
    assert_eq!(told, Some(Hint::Free { place: 0 }));
}

/// A transaction that has confirmed its lock is over before anybody else owns it.
#[tokio::test]
async fn a_confirmed_lock_cannot_be_taken_over_before_the_transaction_ends() {
    let fixture = fixture().await;
    let store = fixture.store();
    let owner = Somebody::over(&store).await;
    let taker = Somebody::over(&store).await;
    let claim = owner.acquire("k").await;
    let held = taker.read("k").await.expect("it is held");
    let token = held.data.token;
    let (mut raw, mut watch) = (fixture.raw().await, fixture.raw().await);
    let mut transaction = raw.begin().await.unwrap();
    store
        .confirm_in_tx(&mut transaction, &claim.owner, token)
        .await
        .expect("it is the owner's");
    owner.backend.retire_process(&owner.process).await.unwrap();
    let theirs = taker.claim("k");
    let take_over = taker.backend.take_over(&theirs, &held.observed);
    let meanwhile = async {
        somebody_waits(&mut watch, &fixture).await;
        transaction.commit().await.unwrap();
    };
    let (claimed, ()) = tokio::join!(take_over, meanwhile);
    assert!(matches!(claimed.unwrap().value, Claimed::Granted(_)));
    // Now it is somebody else's, and every transaction of the old owner's is refused.
    for token in [token, Token::new(token.get() + 1), Token::new(u64::MAX)] {
        let mut transaction = raw.begin().await.unwrap();
        let late = store
            .confirm_in_tx(&mut transaction, &claim.owner, token)
            .await;
        assert!(matches!(late, Err(ConfirmError::Lost(_))), "{late:?}");
    }
}

/// The right owner under another token: the grant is not the one that was asked about.
#[tokio::test]
async fn a_lock_is_confirmed_under_its_own_token_only() {
    let fixture = fixture().await;
    let store = fixture.store();
    let owner = Somebody::over(&store).await;
    let claim = owner.acquire("k").await;
    let token = owner.read("k").await.expect("it is held").data.token;
    let mut raw = fixture.raw().await;
    let mut transaction = raw.begin().await.unwrap();
    let other = Token::new(token.get() + 1);
    let refused = store
        .confirm_in_tx(&mut transaction, &claim.owner, other)
        .await;
    assert!(matches!(refused, Err(ConfirmError::Lost(_))), "{refused:?}");
    let right = store
        .confirm_in_tx(&mut transaction, &claim.owner, token)
        .await;
    right.expect("it is the owner's");
}

/// Attacks 5, 7: a birth that lands late finds its name dead. It must not keep a session for it, which
/// would put off its death once more, and take the session from a name that lives.
#[tokio::test]
async fn a_second_birth_does_not_keep_a_session_for_the_dead() {
    let fixture = fixture().await;
    let store = fixture.store().crash_detection(CrashDetection::SESSION);
    let [first, late, other] = [
        Somebody::unborn(&store).await,
        Somebody::unborn(&store).await,
        Somebody::unborn(&store).await,
    ];
    let born = first.backend.create_process(&first.process, BRIEF).await;
    assert!(matches!(born.unwrap().value, Birth::Created { .. }));
    let read = async || {
        let read = other.backend.read_process(&first.process).await;
        read.unwrap().value
    };
    tokio::time::sleep(BRIEF + BRIEF / 2).await;
    assert!(
        matches!(read().await, Liveness::Alive(_)),
        "its session stands"
    );
    let name = first.process.clone();
    drop(first.backend);
    let limit = tokio::time::Instant::now() + LONG / 10;
    while matches!(read().await, Liveness::Alive(_)) {
        assert!(tokio::time::Instant::now() < limit, "its session has ended");
        tokio::time::sleep(BRIEF / 40).await;
    }
    let again = late.backend.create_process(&name, BRIEF).await;
    assert_eq!(again.unwrap().value, Birth::Exists);
    assert_eq!(read().await, Liveness::Dead);
}
