//! Addresses, users, certificates, members that do not answer, and connections that are closed.
// Tests may unwrap, also in what they share.
#![allow(clippy::unwrap_used)]

mod common;
mod fixture;

use common::{acquire, born, connect, key, owner, raw, server, server_as, store};
use etcd_client::Client;
use fixture::{PASSWORD, USER, guarded};
use locker_core::backend::{Released, Side};
use locker_core::{BackendError, Connect, ErrorKind};
use locker_etcd::Etcd;
use locker_testkit::servers::etcd::Setup;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Within the driver's request time-out.
const SOON: Duration = Duration::from_millis(1500);

async fn refused(url: &str, namespace: &str) -> BackendError {
    let store = Etcd::from_url(url).unwrap().namespace(namespace);
    store.connect(Side::Caller).await.unwrap_err()
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_told_to_nobody() {
    let (server, names) = guarded().await.unwrap();
    let address = server.url().trim_start_matches("etcd://");
    for credentials in ["locker:wr%40ng", "nobody:wr%40ng"] {
        let error = refused(&format!("etcd://{credentials}@{address}"), &names[0]).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        assert!(!format!("{error:?}").contains("wr@ng"), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_asks_who_comes_refuses_nobody_in_particular() {
    let (server, names) = guarded().await.unwrap();
    let error = refused(server.url(), &names[0]).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
}

#[tokio::test]
async fn a_user_is_denied_every_namespace_but_its_own() {
    let mine = fixture::user().await.unwrap();
    mine.store().connect(Side::Caller).await.unwrap();
    // Its name begins like the one that was granted.
    for name in [
        "locker",
        &*format!("{}0", mine.name),
        &*format!("{}x", mine.name),
    ] {
        let error = refused(&mine.url, name).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{name}: {error:?}");
    }
}

/// A server without authentication does not mind a user, whatever its password.
#[tokio::test]
async fn a_user_is_welcome_where_nobody_asks() {
    let server = server();
    let url = server.url().replace("etcd://", "etcd://some:body@");
    let store = Etcd::from_url(&url).unwrap();
    born(&connect(&store).await, 1).await;
}

#[tokio::test]
async fn nothing_that_is_shown_tells_the_password() {
    let mine = fixture::user().await.unwrap();
    let store = mine.store();
    let backend = store.connect(Side::Caller).await.unwrap();
    let shown = format!("{store:?} {backend:?}");
    assert!(shown.contains(USER), "{shown}");
    assert!(
        !shown.contains(PASSWORD) && !shown.contains("p%40ss"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_client_of_the_application_serves_the_callers() {
    let server = server();
    let store = store(&server).client(raw(&server).await);
    let caller = store.connect(Side::Caller).await.unwrap();
    let reports = store.connect(Side::Reports).await.unwrap();
    let process = born(&reports, 1).await;
    let mine = owner("k", &process, 1);
    acquire(&caller, &mine).await;
    assert_eq!(reports.release(&mine).await.unwrap().value, Released::Done);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let setup = Setup::new().tls().unwrap().ask_for_client_certificates();
    let server = server_as(&setup);
    let store = store(&server);
    let backend = connect(&store).await;
    let process = born(&backend, 1).await;
    acquire(&backend, &owner("k", &process, 1)).await;

    let stranger = server_as(&Setup::new().tls().unwrap());
    let (place, own) = server.url().split_once('?').unwrap();
    let (_, foreign) = stranger.url().split_once('?').unwrap();
    // A server that nobody vouches for, and a client that this server does not know.
    for files in [foreign, "", &own[..own.find('&').unwrap()]] {
        let error = refused(&format!("{place}?{files}"), "locker").await;
        assert!(
            matches!(error.kind(), ErrorKind::Config | ErrorKind::Unavailable),
            "{files}: {error:?}"
        );
    }
    let error = refused(&format!("{place}?{foreign}"), "locker").await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    let missing = refused(&format!("{place}?ca=/nowhere/ca.pem"), "locker").await;
    assert_eq!(missing.kind(), ErrorKind::Config, "{missing:?}");
    let plain = place.replace("etcds://", "etcd://");
    let error = refused(&plain, "locker").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn tls_that_is_not_compiled_in_is_named() {
    let error = refused("etcds://127.0.0.1:1", "locker").await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("feature `tls`"), "{error}");
}

/// A port that nobody listens on, for as long as nobody else takes it.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_dead_member_and_a_hung_one_are_passed_over() {
    let server = server();
    let address = server.url().trim_start_matches("etcd://");
    // The kernel accepts, and nobody ever answers.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let hung = (hung.local_addr().unwrap(), hung);
    let url = format!("etcd://{},{},{address}", nobody(), hung.0);
    let store = Etcd::from_url(&url).unwrap();
    for _ in 0..6 {
        let began = Instant::now();
        store.connect(Side::Caller).await.unwrap();
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn without_a_living_member_the_answer_comes_soon() {
    let began = Instant::now();
    let url = format!("etcd://{},{}", nobody(), nobody());
    let error = refused(&url, "locker").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_no_etcd_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.try_write(answer);
        }
    });
    let error = refused(&format!("etcd://{address}"), "locker").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[tokio::test]
async fn a_namespace_obeys_the_rule_of_keys() {
    let server = server();
    for name in ["", "a\0b", &"x".repeat(513)] {
        let error = refused(server.url(), name).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{name:?}");
    }
}

/// Two namespaces never meet, whatever they are called.
#[tokio::test]
async fn namespaces_do_not_meet() {
    let server = server();
    let mut owners = Vec::new();
    for (nonce, (name, lock)) in [("a", "lock/b"), ("a/lock", "b"), ("a/", "lock/b")]
        .into_iter()
        .enumerate()
    {
        let backend = connect(&store(&server).namespace(name)).await;
        let process = born(&backend, nonce as u128).await;
        let mine = owner(lock, &process, 1);
        acquire(&backend, &mine).await;
        owners.push((backend, mine, key(lock)));
    }
    for (backend, mine, lock) in owners {
        let held = backend.read_lock(&lock).await.unwrap().value.unwrap();
        assert_eq!(held.data.owner, mine);
    }
}

/// How many sockets this process has to this port.
fn sockets(port: u16) -> usize {
    let wanted = format!("{port:04X}");
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let mine: std::collections::HashSet<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.to_owned()))
        .collect();
    table
        .lines()
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let inode = fields.get(9).map(|inode| format!("{inode}]"));
            fields
                .get(2)
                .is_some_and(|remote| remote.ends_with(&wanted))
                && inode.is_some_and(|inode| mine.contains(&inode))
        })
        .count()
}

/// The driver closes a connection before it opens the next one, and a server that has stopped does
/// not keep it from that.
#[tokio::test]
async fn a_dropped_connection_is_closed_although_its_server_has_stopped() {
    let server = server();
    let port = server.member().port();
    let store = store(&server);
    let backend = connect(&store).await;
    let process = born(&backend, 1).await;
    let hints = backend
        .watch(
            &key("k"),
            &locker_core::backend::Watcher::Waiter(process.clone()),
        )
        .await
        .unwrap();
    assert_eq!(sockets(port), 1, "one connection is one socket");
    server.member().pause().unwrap();
    // The withdrawal waits for an answer as well, and belongs to nobody who could give it up.
    drop(hints);
    let mine = owner("k", &process, 1);
    let hung = tokio::time::timeout(Duration::from_millis(300), async {
        acquire(&backend, &mine).await
    });
    hung.await.unwrap_err();
    drop(backend);
    let took = common::until(async || sockets(port) == 0).await;
    server.member().resume().unwrap();
    assert!(took < SOON, "{took:?}");
}

/// A lost connection stays lost: the driver opens the next one.
#[tokio::test]
async fn a_lost_connection_fails_at_once_and_does_not_come_back() {
    let mut server = server();
    let store = store(&server);
    let backend = connect(&store).await;
    let process = born(&backend, 1).await;
    server.member_mut().kill().unwrap();
    let began = Instant::now();
    let error = backend.read_process(&process).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    server.member_mut().start_again().unwrap();
    let error = backend.read_process(&process).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // Nothing of a write has left either.
    let claim = common::claim(&owner("k", &process, 1));
    let error = backend.try_create(&claim).await.unwrap_err();
    assert_eq!(error.effect(), locker_core::Effect::NotApplied, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
    acquire(&connect(&store).await, &owner("k", &process, 1)).await;
}

#[tokio::test]
async fn a_token_that_ran_out_is_an_error_of_one_connection() {
    let setup = Setup::new()
        .flag("auth-token", "simple")
        .flag("auth-token-ttl", "2");
    let server = server_as(&setup.flag("bcrypt-cost", "4"));
    let mut root: Client = raw(&server).await;
    root.user_add("root", "secret", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    let url = server.url().replace("etcd://", "etcd://root:secret@");
    let store = Etcd::from_url(&url).unwrap();
    let backend = connect(&store).await;
    let process = born(&backend, 1).await;
    // Idle for longer than the token lives; every look makes it live on.
    let limit = Instant::now() + Duration::from_secs(20);
    let error = loop {
        tokio::time::sleep(Duration::from_secs(4)).await;
        match backend
            .try_create(&common::claim(&owner("k", &process, 1)))
            .await
        {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < limit, "the token never ran out"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.effect(), locker_core::Effect::NotApplied, "{error:?}");
    acquire(&connect(&store).await, &owner("k", &process, 1)).await;
}
