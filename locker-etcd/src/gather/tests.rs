//! Batches on a real server.

use super::*;
use crate::connection::Connection;
use crate::names::Names;
use crate::shared::Shared;
use crate::url::Address;
use locker_core::backend::{Claimed, Released};
use locker_core::{Effect, Host, Key, ProcessHash};
use locker_testkit::servers::etcd::{Server, Setup, shared};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Each test has a namespace of its own, also when the server outlives the tests: a birth in it may
/// raise the base, and with it change everybody's terms.
async fn on(url: &str) -> Transactions {
    let namespace = RandomState::new().hash_one("batches");
    over(url, Names::new(&format!("batches-{namespace}"))).await
}

async fn over(url: &str, names: Names) -> Transactions {
    let address = Address::parse(url).unwrap();
    let (connection, _) = Connection::open(&address, 0, b"probe").await.unwrap();
    Transactions(Arc::new(Session {
        connection,
        names,
        shared: Arc::new(Shared::default()),
    }))
}

async fn carrier() -> Transactions {
    let server = shared::server().unwrap_or_else(|missing| panic!("no store: {missing}"));
    on(server.url()).await
}

/// A process that has been born, and its terms.
async fn born(carrier: &Transactions, nonce: u128) -> (ProcessHash, Terms) {
    let process = ProcessHash::new(&Host::new("here").unwrap(), 1, nonce);
    let long = Duration::from_secs(60);
    carrier.0.create_process(&process, long).await.unwrap();
    let terms = carrier.0.terms(&process).await.unwrap().unwrap();
    (process, terms)
}

fn owner(process: &ProcessHash, number: usize) -> OwnerHash {
    let key = Key::new(format!("k{number}")).unwrap();
    OwnerHash::new(&key, process, number as u64, None)
}

async fn claim(carrier: &Transactions, owner: OwnerHash) -> Claimed {
    let terms = carrier.0.terms(owner.process()).await.unwrap().unwrap();
    let asked = Member::Create {
        owner: owner.clone(),
        terms,
    };
    let done = carrier.carry_one(&asked).await.unwrap();
    carrier.0.created(&owner, terms, &done).unwrap()
}

/// Attack 3: as many members as there may be, each with an answer of its own, whatever becomes
/// of the others.
#[tokio::test]
async fn a_whole_batch_travels_as_one_transaction_and_is_answered_one_by_one() {
    let carrier = carrier().await;
    let session = &*carrier.0;
    let (theirs, _) = born(&carrier, 2).await;
    let (mine, terms) = born(&carrier, 1).await;
    claim(&carrier, owner(&theirs, 7)).await;
    claim(&carrier, owner(&mine, 8)).await;
    let corrupt = session.names.owner(owner(&mine, 9).key());
    let mut kv = session.connection.kv();
    kv.put(corrupt, "{", None).await.unwrap();

    let owners: Vec<OwnerHash> = (0..BATCH).map(|number| owner(&mine, number)).collect();
    let claims = owners.iter().cloned();
    let claims = claims.map(|owner| Member::Create { owner, terms });
    let answers = carrier.carry(&claims.collect::<Vec<_>>()).await.unwrap();
    for (number, (owner, done)) in owners.iter().zip(answers).enumerate() {
        match (number, session.created(owner, terms, &done.unwrap())) {
            (7, claimed) => assert!(matches!(claimed, Ok(Claimed::Held(_))), "{claimed:?}"),
            (9, claimed) => assert!(claimed.is_err(), "{claimed:?}"),
            (_, claimed) => {
                assert!(matches!(claimed, Ok(Claimed::Granted(_))), "{claimed:?}");
            }
        }
    }
    let given_back = owners.iter().cloned();
    let given_back = given_back.map(|owner| Member::Release { owner });
    let answers = carrier
        .carry(&given_back.collect::<Vec<_>>())
        .await
        .unwrap();
    for (number, (asked, done)) in owners.iter().zip(answers).enumerate() {
        match (number, session.released(asked, &done.unwrap())) {
            (7, released) => {
                assert_eq!(released.unwrap(), Released::Held(owner(&theirs, 7)));
            }
            (9, released) => assert!(released.is_err(), "{released:?}"),
            (_, released) => assert_eq!(released.unwrap(), Released::Done),
        }
    }
}

fn creates(owners: &[OwnerHash], terms: Terms) -> Vec<Member> {
    let owners = owners.iter().cloned();
    owners
        .map(|owner| Member::Create { owner, terms })
        .collect()
}

fn releases(owners: &[OwnerHash]) -> Vec<Member> {
    let owners = owners.iter().cloned();
    owners.map(|owner| Member::Release { owner }).collect()
}

/// A transaction that does all or nothing tells nothing of its members; nested ones tell of each.
async fn went_as_a_whole(carrier: &Transactions, members: &[Member]) -> bool {
    let done = carrier.carry(members).await.unwrap();
    assert_eq!(done.len(), members.len());
    done.iter()
        .all(|done| done.as_ref().unwrap().answers.is_empty())
}

#[tokio::test]
async fn a_batch_is_done_as_a_whole_until_somebody_in_it_is_refused() {
    let carrier = carrier().await;
    let (mine, terms) = born(&carrier, 1).await;
    let owners: Vec<OwnerHash> = (0..BATCH).map(|n| owner(&mine, n)).collect();
    let (claims, given_back) = (creates(&owners, terms), releases(&owners));
    assert!(went_as_a_whole(&carrier, &claims).await);
    assert!(went_as_a_whole(&carrier, &given_back).await);
    assert!(went_as_a_whole(&carrier, &claims[1..]).await);
    // One claim and as many releases as there can be: there are no more comparisons than these.
    let mut mixed = given_back[1..].to_vec();
    mixed.push(claims[0].clone());
    assert!(went_as_a_whole(&carrier, &mixed).await);

    // All but the first have been released.
    assert!(!went_as_a_whole(&carrier, &given_back).await);
    for batch in [&claims, &given_back].repeat(4) {
        assert!(!went_as_a_whole(&carrier, batch).await, "not calm yet");
    }
    assert!(went_as_a_whole(&carrier, &claims).await);

    // As long as somebody is refused, none is sent twice.
    for _ in 0..20 {
        assert!(!went_as_a_whole(&carrier, &claims).await);
        assert!(!carrier.0.shared.trusts_batches());
    }
}

/// There are two comparisons for each release, and one transaction of its own.
#[tokio::test]
async fn a_server_that_takes_fewer_comparisons_gets_nested_transactions() {
    let setup = Setup::new().flag("max-txn-ops", "70");
    let server = Server::start(&setup).unwrap_or_else(|missing| panic!("no store: {missing}"));
    let carrier = on(server.url()).await;
    let (mine, terms) = born(&carrier, 1).await;
    let owners: Vec<OwnerHash> = (0..BATCH).map(|n| owner(&mine, n)).collect();
    assert!(went_as_a_whole(&carrier, &creates(&owners, terms)).await);
    let done = carrier.carry(&releases(&owners)).await.unwrap();
    for (owner, done) in owners.iter().zip(done) {
        let released = carrier.0.released(owner, &done.unwrap()).unwrap();
        assert_eq!(released, Released::Done);
    }
    assert!(!carrier.0.shared.trusts_batches());
}

/// S2: what is granted as a whole bears the token that its record tells.
#[tokio::test]
async fn the_tokens_of_a_batch_are_those_of_its_records() {
    let carrier = carrier().await;
    let (mine, terms) = born(&carrier, 1).await;
    let owners: Vec<OwnerHash> = (0..3).map(|n| owner(&mine, n)).collect();
    let done = carrier.carry(&creates(&owners, terms)).await.unwrap();
    assert!(carrier.0.shared.trusts_batches());
    for (owner, done) in owners.iter().zip(done) {
        let granted = carrier.0.created(owner, terms, &done.unwrap()).unwrap();
        let held = carrier.0.read_lock(owner.key()).await.unwrap().unwrap();
        assert_eq!(granted, Claimed::Granted(held.data.token));
    }
}

/// S4: what is released as a whole is the owner's.
#[tokio::test]
async fn a_batch_releases_nobody_elses_lock() {
    let carrier = carrier().await;
    let (theirs, _) = born(&carrier, 2).await;
    let (mine, terms) = born(&carrier, 1).await;
    claim(&carrier, owner(&theirs, 0)).await;
    let owners: Vec<OwnerHash> = (0..3).map(|n| owner(&mine, n)).collect();
    carrier.carry(&creates(&owners[1..], terms)).await.unwrap();
    assert!(carrier.0.shared.trusts_batches());
    let done = carrier.carry(&releases(&owners)).await.unwrap();
    let released = owners.iter().zip(done);
    let released: Vec<Released> = released
        .map(|(owner, done)| carrier.0.released(owner, &done.unwrap()).unwrap())
        .collect();
    let held = Released::Held(owner(&theirs, 0));
    assert_eq!(released, [held, Released::Done, Released::Done]);
    let found = carrier.0.read_lock(owners[0].key()).await.unwrap();
    assert_eq!(found.unwrap().data.owner, owner(&theirs, 0));
}

/// Nothing is taken under terms that have changed, in whatever form it is sent.
async fn takes_nothing(carrier: &Transactions, owners: &[OwnerHash], terms: Terms) {
    let done = carrier.carry(&creates(owners, terms)).await.unwrap();
    for (owner, done) in owners.iter().zip(done) {
        let claimed = carrier.0.created(owner, terms, &done.unwrap()).unwrap();
        assert_eq!(claimed, Claimed::TooLate);
        assert_eq!(carrier.0.read_lock(owner.key()).await.unwrap(), None);
    }
}

/// S7: claims that are gathered when their process settles.
#[tokio::test]
async fn a_batch_of_claims_that_were_settled_takes_nothing() {
    let carrier = carrier().await;
    let (mine, terms) = born(&carrier, 1).await;
    let owners: Vec<OwnerHash> = (0..3).map(|n| owner(&mine, n)).collect();
    carrier.0.settle(&owners[0]).await.unwrap();
    takes_nothing(&carrier, &owners, terms).await;
    // Under different terms they are nobody's whole.
    let now = carrier.0.terms(&mine).await.unwrap().unwrap();
    let mut claims = creates(&owners, terms);
    claims.extend(creates(&[owner(&mine, 3)], now));
    assert!(whole_txn(&carrier.0, &claims).is_none());
}

/// S2: claims that are gathered when the base is raised.
#[tokio::test]
async fn a_batch_of_claims_under_a_former_base_takes_nothing() {
    let carrier = carrier().await;
    let (mine, terms) = born(&carrier, 1).await;
    let raised = (terms.base.0 + 1).to_string();
    let mut kv = carrier.0.connection.kv();
    kv.put(carrier.0.names.base(), raised, None).await.unwrap();
    let owners: Vec<OwnerHash> = (0..3).map(|n| owner(&mine, n)).collect();
    takes_nothing(&carrier, &owners, terms).await;
}

/// F21: a batch with something new is refused in either form, and leaves a doubt.
#[tokio::test]
async fn a_full_store_refuses_a_batch_in_either_form() {
    let setup = Setup::new().flag("quota-backend-bytes", "4194304");
    let server = Server::start(&setup).unwrap_or_else(|missing| panic!("no store: {missing}"));
    let carrier = on(server.url()).await;
    let (mine, terms) = born(&carrier, 1).await;
    let mut kv = carrier.0.connection.kv();
    while kv.put("fill", vec![b'x'; 500_000], None).await.is_ok() {}
    let owners: Vec<OwnerHash> = (0..3).map(|n| owner(&mine, n)).collect();
    for trusts in [true, false] {
        assert_eq!(carrier.0.shared.trusts_batches(), trusts);
        let refused = carrier.carry(&creates(&owners, terms)).await.unwrap_err();
        let told = (refused.kind(), refused.effect());
        assert_eq!(told, (ErrorKind::Busy, Effect::Unknown), "{refused:?}");
        carrier.0.shared.batch_went(false);
    }
}

/// A way to the server that is cut when the second batch was answered, and before that answer arrives.
async fn cut_at_the_second_answer(url: &str) -> String {
    /// More than anything that is sent but several members.
    const BATCH_BYTES: usize = 1000;
    /// More than the connection's own messages.
    const ANSWER_BYTES: usize = 100;
    let to = url.strip_prefix("etcd://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = format!("etcd://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(to).await.unwrap();
        let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut batches = 0;
        loop {
            tokio::select! {
                sent = client.read(&mut up) => {
                    let sent = sent.unwrap();
                    batches += usize::from(sent >= BATCH_BYTES);
                    server.write_all(&up[..sent]).await.unwrap();
                }
                answered = server.read(&mut down) => {
                    let answered = answered.unwrap();
                    if batches == 2 && answered >= ANSWER_BYTES {
                        return;
                    }
                    client.write_all(&down[..answered]).await.unwrap();
                }
            }
        }
    });
    way
}

/// S2: nested transactions, sent because the whole did nothing, may have done what they say nothing of.
#[tokio::test]
async fn a_second_answer_that_is_lost_leaves_a_doubt() {
    let server = shared::server().unwrap_or_else(|missing| panic!("no store: {missing}"));
    let carrier = on(server.url()).await;
    let (theirs, _) = born(&carrier, 2).await;
    let (mine, terms) = born(&carrier, 1).await;
    claim(&carrier, owner(&theirs, 7)).await;
    let way = cut_at_the_second_answer(server.url()).await;
    let cut = over(&way, carrier.0.names.clone()).await;
    let owners: Vec<OwnerHash> = (0..8).map(|n| owner(&mine, n)).collect();
    let lost = cut.carry(&creates(&owners, terms)).await.unwrap_err();
    let told = (lost.kind(), lost.effect());
    assert_eq!(told, (ErrorKind::Unavailable, Effect::Unknown), "{lost:?}");
    let found = carrier.0.read_lock(owners[0].key()).await.unwrap();
    assert_eq!(found.unwrap().data.owner, owners[0], "it was done");
}
