//! What several tasks ask for at the same time travels in one statement, and every one of them has
//! an answer of its own.

mod fixture;

use fixture::{Somebody, fixture};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream::FuturesUnordered};
use locker_core::backend::{Claim, Claimed, Released, Reply};
use locker_core::{BackendError, Effect, ErrorKind, Key, OwnerHash, StoreTime};
use locker_postgres::Postgres;
use locker_testkit::servers::postgres::{Server, Statements};
use locker_testkit::{Fixture, Planted};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn keys(of: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    of.map(|n| format!("k{n}"))
}

/// The tasks of one thread ask before the statement leaves: the first asks alone, unless the answers
/// of the round before have just come, and the others together.
#[tokio::test]
async fn sixty_four_releases_and_claims_are_two_statements_at_most() {
    let server = Server::start_counting(&[])
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let somebody = Somebody::over(&store).await;
    let mut seen = Statements::default();
    let mut counted = || seen.look_again(&server).unwrap().functions();
    counted();
    let first: Vec<Claim> = keys(0..64).map(|key| somebody.claim(&key)).collect();
    let asked = first.iter().map(|claim| somebody.backend.try_create(claim));
    for claimed in join_all(asked).await {
        let claimed = claimed.unwrap().value;
        assert!(matches!(claimed, Claimed::Granted(_)), "{claimed:?}");
    }
    assert_eq!(counted(), ["2 try_create"]);

    // Releases and claims of different keys together.
    let second: Vec<Claim> = keys(64..96).map(|key| somebody.claim(&key)).collect();
    let released = first[..32].iter();
    let released = released.map(|claim| somebody.backend.release(&claim.owner));
    let claimed = second
        .iter()
        .map(|claim| somebody.backend.try_create(claim));
    let (released, claimed) =
        futures_util::future::join(join_all(released), join_all(claimed)).await;
    assert!(
        released
            .into_iter()
            .all(|reply| reply.unwrap().value == Released::Done)
    );
    let granted = |claimed: &_| matches!(claimed, Claimed::Granted(_));
    assert!(
        claimed
            .into_iter()
            .all(|reply| granted(&reply.unwrap().value))
    );
    let calls = counted();
    assert!(
        calls.contains(&"1 release_and_try_create".to_owned()),
        "{calls:?}"
    );
    assert!(calls.len() <= 2, "{calls:?}");

    let released = first[32..].iter();
    let released = released.map(|claim| somebody.backend.release(&claim.owner));
    for reply in join_all(released).await {
        assert_eq!(reply.unwrap().value, Released::Done);
    }
    let calls = counted();
    assert!(
        calls == ["1 release"] || calls == ["2 release"],
        "{calls:?}"
    );
}

/// The row of one of them is locked by somebody else, and the others do not wait for it.
#[tokio::test]
async fn a_locked_row_neither_fails_nor_delays_the_others() {
    let fixture = fixture().await;
    let somebody = Somebody::over(&fixture.store()).await;
    let mut raw = fixture.raw().await;
    for key in ["k7", "k8"] {
        let claim = somebody.acquire(key).await;
        somebody.backend.release(&claim.owner).await.unwrap();
    }
    let held = somebody.acquire("k8").await;
    let mut administrator = raw.begin().await.unwrap();
    sqlx::query("SELECT FROM locks WHERE key IN ('k7', 'k8') FOR UPDATE")
        .execute(&mut *administrator)
        .await
        .unwrap();
    let backend = &somebody.backend;
    let claims: Vec<Claim> = keys(0..8).map(|key| somebody.claim(&key)).collect();
    let mut running = FuturesUnordered::new();
    running.push(Box::pin(async {
        assert_eq!(backend.release(&held.owner).await?.value, Released::Done);
        Ok(8_usize)
    }) as Answering<'_>);
    for (n, claim) in claims.iter().enumerate() {
        running.push(Box::pin(async move {
            let claimed = backend.try_create(claim).await?.value;
            assert!(matches!(claimed, Claimed::Granted(_)), "{claimed:?}");
            Ok(n)
        }));
    }
    let mut done = Vec::new();
    while done.len() < 7 {
        match running.next().await.unwrap() {
            Ok(n) => done.push(n),
            // On a slow machine the two that wait give up before the others are through.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}"),
        }
    }
    done.sort_unstable();
    assert_eq!(done, [0, 1, 2, 3, 4, 5, 6]);
    administrator.rollback().await.unwrap();
    // These two have waited for the row, for a second at most.
    while let Some(last) = running.next().await {
        match last {
            Ok(n) => assert!(n >= 7),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
                assert_eq!(error.effect(), Effect::NotApplied, "{error:?}");
            }
        }
    }
}

/// Which of several has its answer.
type Answering<'a> = Pin<Box<dyn Future<Output = Result<usize, BackendError>> + 'a>>;

/// One member is damaged, one too late, one held, and one claims for a process that is dead.
#[tokio::test]
async fn every_member_is_answered_for_itself() {
    let fixture = fixture().await;
    let store = fixture.store();
    let somebody = Somebody::over(&store).await;
    let other = Somebody::over(&store).await;
    let dead = Somebody::unborn(&store).await;
    other.acquire("held").await;
    let key = Key::new("damaged").unwrap();
    fixture.plant(&key, Planted::Garbage).await.unwrap();
    let mut late = somebody.claim("late");
    late.not_after = StoreTime::from_micros(1);
    let mut claims = vec![
        somebody.claim("free"),
        somebody.claim("damaged"),
        late,
        somebody.claim("held"),
        dead.claim("unborn"),
        somebody.claim("free too"),
    ];
    let mut mine = vec![somebody.acquire("mine").await.owner];
    mine.push(OwnerHash::new(
        &Key::new("nobody's").unwrap(),
        &somebody.process,
        9_999,
        None,
    ));
    // The first is sent alone, by whoever asks first: that is nobody's business here.
    claims.insert(0, somebody.claim("alone"));
    let claimed = join_all(
        claims
            .iter()
            .map(|claim| somebody.backend.try_create(claim)),
    );
    let released = join_all(mine.iter().map(|owner| somebody.backend.release(owner)));
    let (claimed, released) = futures_util::future::join(claimed, released).await;
    let said: Vec<String> = claimed
        .into_iter()
        .map(|reply| match reply.map(|reply| reply.value) {
            Ok(Claimed::Granted(_)) => "granted".to_owned(),
            Ok(Claimed::Held(held)) => format!("held by {}", held.data.owner),
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("{:?} {:?}", error.kind(), error.effect()),
        })
        .collect();
    let holder = somebody.read("held").await.unwrap().data.owner;
    assert_eq!(
        said,
        [
            "granted",
            "granted",
            "Corrupt NotApplied",
            "TooLate",
            &format!("held by {holder}"),
            "OwnerDead",
            "granted",
        ]
    );
    let released: Vec<Released> = released.into_iter().map(|r| r.unwrap().value).collect();
    assert_eq!(released, [Released::Done, Released::Absent]);
}

/// The rows of many locks are pinned, whose owner is dead. Whoever waits for them takes no lock from those
/// who want another one.
#[tokio::test]
async fn many_pinned_rows_leave_a_connection_to_the_others() {
    const PINNED: usize = 8;
    let fixture = fixture().await;
    let store = fixture.store();
    let (dead, taker) = (Somebody::over(&store).await, Somebody::over(&store).await);
    let mut observed = Vec::new();
    for key in keys(0..PINNED) {
        dead.acquire(&key).await;
        observed.push(dead.read(&key).await.expect("it is held").observed);
    }
    let mut raw = fixture.raw().await;
    let mut pinning = raw.begin().await.unwrap();
    sqlx::query("SELECT FROM locks FOR SHARE")
        .execute(&mut *pinning)
        .await
        .unwrap();
    dead.backend.retire_process(&dead.process).await.unwrap();
    let theirs: Vec<Claim> = keys(0..PINNED).map(|key| taker.claim(&key)).collect();
    let mut take_overs: FuturesUnordered<_> = theirs
        .iter()
        .zip(&observed)
        .map(|(claim, observed)| taker.backend.take_over(claim, observed))
        .collect();
    let mut refused = 0;
    // Who has no turn may hear of it soon; who waits for a row does so for a second.
    let mut only_refused = |answer: Result<Reply<Claimed>, BackendError>| {
        let error = answer.expect_err("the row is pinned");
        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
        assert!(error.to_string().contains("others wait already"), "{error}");
        refused += 1;
    };
    // All of them are under way, or wait for their turn, when the others come.
    let soon = tokio::time::timeout(Duration::from_millis(100), take_overs.next());
    if let Ok(Some(answer)) = soon.await {
        only_refused(answer);
    }
    let mut others = Box::pin(async {
        for key in keys(PINNED..PINNED + 5) {
            let claim = taker.acquire(&key).await;
            taker.backend.release(&claim.owner).await.unwrap();
        }
    });
    loop {
        tokio::select! {
            biased;
            () = &mut others => break,
            Some(answer) = take_overs.next() => only_refused(answer),
        }
    }
    assert!(refused < PINNED, "nobody waits for a row");
    pinning.rollback().await.unwrap();
}

/// Two processes gather the same keys in opposite orders, over and over: neither waits for the
/// other, so the server has nothing to break up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_two_processes_never_wait_for_each_other() {
    const KEYS: usize = 64;
    let server = Server::start(&["fsync = off", "deadlock_timeout = 10ms"])
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let processes = [false, true].map(|backwards| {
        let store = store.clone();
        tokio::spawn(async move {
            let somebody = Somebody::over(&store).await;
            let mut granted = 0;
            let mut held: Vec<OwnerHash> = Vec::new();
            for round in 0..60 {
                // New keys among old ones: inserts may wait for each other.
                let mut names: Vec<String> = keys(round * 16..round * 16 + KEYS).collect();
                if backwards {
                    names.reverse();
                }
                let claims: Vec<Claim> = names.iter().map(|key| somebody.claim(key)).collect();
                let releasing = std::mem::take(&mut held);
                let releasing = releasing
                    .iter()
                    .map(|owner| somebody.backend.release(owner));
                let claiming = claims
                    .iter()
                    .map(|claim| somebody.backend.try_create(claim));
                let both = futures_util::future::join(join_all(releasing), join_all(claiming));
                let (released, claimed) = both.await;
                for released in released {
                    let released = released.expect("a release waits for nobody");
                    assert_eq!(released.value, Released::Done);
                }
                for (claim, claimed) in claims.iter().zip(claimed) {
                    match claimed.map(|reply| reply.value) {
                        Ok(Claimed::Granted(_)) => {
                            granted += 1;
                            held.push(claim.owner.clone());
                        }
                        Ok(Claimed::Held(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            granted
        })
    });
    let mut granted = Vec::new();
    for process in processes {
        let done = tokio::time::timeout(LONG, process).await;
        granted.push(done.expect("they wait for each other").unwrap());
    }
    println!("granted: {granted:?}");
    assert!(granted.iter().sum::<i32>() > 1_000, "{granted:?}");
    let log = server.log();
    assert!(!log.contains("deadlock"), "{log}");
}

/// A lock changes hands as fast as the server can do it, in a session of its own; two others ask for
/// it with lone claims. None of them is sent away because it looked at the wrong moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_claim_has_an_answer_however_fast_the_lock_changes_hands() {
    const ROUNDS: usize = 3_000;
    let server = Server::start(&["fsync = off"])
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let holder = Somebody::over(&store).await;
    let claim = holder.acquire("k").await;
    let hands_over = format!(
        "DO $$ BEGIN LOOP
            UPDATE locks SET owner = NULL WHERE key = 'k'; COMMIT;
            UPDATE locks SET owner = '{}', format = 1, process = '{}', acquired_at = 0,
                extended_at = 0, expires = 1::bigint << 62 WHERE key = 'k'; COMMIT;
        END LOOP; END $$",
        claim.owner, holder.process
    );
    let session = async || {
        let mut session = PgConnection::connect(server.url()).await.unwrap();
        let sql = "SET search_path = locker; SET statement_timeout = '600s'";
        session.execute(sql).await.unwrap();
        session
    };
    let mut changing = session().await;
    let changing =
        tokio::spawn(async move { changing.execute(AssertSqlSafe(hands_over)).await.map(drop) });
    let asking = async || {
        let somebody = Somebody::over(&store).await;
        let mut session = session().await;
        let mut verdicts = BTreeMap::<String, usize>::new();
        for _ in 0..ROUNDS {
            let claim = somebody.claim("k");
            let verdict = somebody.claim_over(&mut session, &claim).await;
            *verdicts.entry(verdict).or_default() += 1;
        }
        verdicts
    };
    let verdicts = tokio::join!(asking(), asking());
    assert!(!changing.is_finished(), "nobody changes the lock any more");
    println!("{verdicts:?}");
    for verdicts in [verdicts.0, verdicts.1] {
        let seen: Vec<&str> = verdicts.keys().map(String::as_str).collect();
        assert_eq!(seen, ["granted", "held"], "{verdicts:?}");
    }
}
