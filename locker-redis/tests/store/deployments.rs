//! Bad input: each is one clear typed error, at once, and shows no secret.

use super::*;
use locker_core::ErrorKind;
use locker_testkit::servers::redis::{MASTER_NAME, Replicated};

async fn refused(url: &str) -> BackendError {
    let store = Redis::from_url(url).unwrap();
    let connecting = tokio::time::timeout(Duration::from_secs(10), store.connect(Side::Caller));
    let error = connecting.await.expect("it is refused at once").err();
    let error = error.unwrap_or_else(|| panic!("{url} should be refused"));
    let mut shown = format!("{error} {error:?} {store:?}");
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(error) = cause {
        shown.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(!shown.contains("hunter2"), "{shown}");
    error
}

#[tokio::test]
async fn a_url_of_another_deployment_says_which_one_to_use() {
    let server = shared::server()
        .unwrap()
        .url()
        .strip_prefix("redis://")
        .unwrap();
    let nodes = shared::cluster()
        .unwrap()
        .url()
        .strip_prefix("redis+cluster://")
        .unwrap();
    let node = nodes.split(',').next().unwrap();
    let sentinels = shared::sentinel()
        .unwrap()
        .url()
        .strip_prefix("redis+sentinel://")
        .unwrap();
    let sentinel = sentinels.split(',').next().unwrap();
    for (url, says) in [
        (format!("redis://{node}"), "redis+cluster://"),
        (format!("redis+cluster://{server}"), "redis://"),
        (format!("redis://{sentinel}"), "redis+sentinel://"),
    ] {
        let error = refused(&url).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{url}: {error:?}");
        assert!(error.to_string().contains(says), "{url}: {error}");
    }
    let error = refused(&format!("redis+sentinel://{server}/{MASTER_NAME}")).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    // The name may be there in a moment.
    let error = refused(&format!("redis+sentinel://{sentinel}/nobody")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let error = refused(&format!("redis://{server}/9999")).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable() {
    for url in [
        "redis://u:hunter2@127.0.0.1:1",
        "redis+cluster://u:hunter2@127.0.0.1:1",
        "redis+sentinel://u:hunter2@127.0.0.1:1/m?sentinel_password=hunter2",
        "redis://u:hunter2@host.invalid",
    ] {
        let error = refused(url).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{url}: {error:?}");
    }
}

#[tokio::test]
async fn a_login_that_is_not_accepted_is_denied() {
    let setup = Setup::new()
        .password("secret")
        .user("poor on >hunter2 ~* &* +info +ping");
    let server = Server::start(&setup).unwrap();
    let at = format!("127.0.0.1:{}", server.node().port());
    for login in ["", "default:hunter2@", "nobody:hunter2@", ":hunter2@"] {
        let error = refused(&format!("redis://{login}{at}")).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{login:?}: {error:?}");
    }
    // Admitted, and not allowed to do anything.
    let store = Redis::from_url(&format!("redis://poor:hunter2@{at}")).unwrap();
    let backend = store.connect(Side::Caller).await.unwrap();
    let process = ProcessHash::new(&Host::new("h").unwrap(), 1, 1);
    let error = backend.create_process(&process, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
}

/// A server that does not know a command repeats its arguments, and a login is one of `HELLO`.
#[tokio::test]
async fn a_server_that_repeats_the_password_is_not_quoted() {
    let setup = Setup::new()
        .user("locker on >hunter2 ~* &* +@all")
        .line("rename-command HELLO \"\"");
    let server = Server::start(&setup).unwrap();
    let url = format!("redis://locker:hunter2@127.0.0.1:{}", server.node().port());
    let a = Process::born(&url, "ns").await;
    let watched = a.watch("k").await;
    let error = watched.err().expect("there is no subscription");
    let mut shown = format!("{error} {error:?}");
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(error) = cause {
        shown.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_replica_is_not_the_store() {
    let servers = Replicated::start(&Setup::new(), 1).unwrap();
    let replica = &servers.replicas()[0];
    let error = refused(&format!("redis://127.0.0.1:{}", replica.port())).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("replica"), "{error}");
}

/// A master that was demoted refuses writes: nothing was done, and the connection is given up.
#[tokio::test]
async fn a_demoted_master_is_unavailable() {
    let servers = Replicated::start(&Setup::new(), 1).unwrap();
    let a = Process::born(servers.url(), "ns").await;
    let owner = a.acquire("k").await;
    let port = servers.replicas()[0].port().to_string();
    servers
        .master()
        .command(&["REPLICAOF", "127.0.0.1", &port])
        .unwrap();
    for answer in [
        a.create(&a.owner("j")).await.map(|_| ()),
        a.backend.release(&owner).await.map(|_| ()),
        a.backend.renew_process(&a.hash, LONG).await.map(|_| ()),
    ] {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert_eq!(error.effect(), locker_core::Effect::NotApplied, "{error:?}");
    }
}

#[tokio::test]
async fn a_namespace_that_cannot_be_used_is_a_configuration_error() {
    let url = shared::server().unwrap().url();
    for namespace in ["", "{", "}", "\0"] {
        let store = Redis::from_url(url).unwrap().namespace(namespace);
        let error = store.connect(Side::Caller).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{namespace:?}");
    }
}

/// A client that is handed in is opened again for every side.
#[tokio::test]
async fn a_client_that_is_handed_in_serves_all_sides() {
    let client = redis::Client::open(shared::server().unwrap().url()).unwrap();
    let store = Redis::client(client).namespace(&fresh("client"));
    let process = ProcessHash::new(&Host::new("h").unwrap(), 1, 1);
    let reports = store.connect(Side::Reports).await.unwrap();
    reports.create_process(&process, LONG).await.unwrap();
    let caller = store.connect(Side::Caller).await.unwrap();
    let owner = OwnerHash::new(&key("k"), &process, 1, None);
    token(&caller.try_create(&claim(&owner)).await.unwrap().value);
    drop(caller.watch(&key("k"), &Watcher::Observer).await.unwrap());
    let upkeep = store.connect(Side::Upkeep).await.unwrap();
    upkeep.release(&owner).await.unwrap();
}
