//! TLS: certificates that are accepted, and those that are not.
// Tests may unwrap.
#![allow(clippy::unwrap_used)]

use futures_util::StreamExt;
use locker_core::backend::{Claim, Claimed, Hint, Released, Side, Watcher};
use locker_core::{BackendError, Connect, ErrorKind, Host, Key, OwnerHash, ProcessHash, StoreTime};
use locker_redis::Redis;
use locker_testkit::servers::redis::{Cluster, Sentinel, Server, Setup};
use std::path::Path;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(15);

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A lock is taken, waited for and given back.
async fn works(url: &str) {
    let store = Redis::from_url(url).unwrap();
    let backend = store.connect(Side::Caller).await.unwrap();
    let process = ProcessHash::new(&Host::new("h").unwrap(), 1, 1);
    backend.create_process(&process, LONG).await.unwrap();
    let key = Key::new("k").unwrap();
    let claim = Claim {
        owner: OwnerHash::new(&key, &process, 1, None),
        ttl: LONG,
        not_after: StoreTime::from_micros(u64::MAX),
    };
    let claimed = backend.try_create(&claim).await.unwrap().value;
    assert!(matches!(claimed, Claimed::Granted(_)), "{claimed:?}");
    let mut hints = backend.watch(&key, &Watcher::Observer).await.unwrap();
    let released = backend.release(&claim.owner).await.unwrap().value;
    assert_eq!(released, Released::Done);
    let hint = tokio::time::timeout(PATIENCE, hints.next()).await.unwrap();
    assert_eq!(hint, Some(Hint::Free { place: 0 }));
}

async fn refused(url: &str) -> BackendError {
    let store = Redis::from_url(url).unwrap();
    let connecting = tokio::time::timeout(PATIENCE, store.connect(Side::Caller));
    let error = connecting.await.expect("it is refused at once").err();
    error.unwrap_or_else(|| panic!("{url} should be refused"))
}

#[tokio::test]
async fn a_server_of_a_known_authority_is_accepted() {
    let server = Server::start(&Setup::new().tls().unwrap()).unwrap();
    let ca = shown(&server.node().certificates().unwrap().authority);
    let at = format!("rediss://127.0.0.1:{}", server.node().port());
    works(&format!("{at}?ca={ca}")).await;

    let stranger = refused(&at).await;
    assert_eq!(stranger.kind(), ErrorKind::Config, "{stranger:?}");
    let missing = refused(&format!("{at}?ca=/nonexistent.pem")).await;
    assert_eq!(missing.kind(), ErrorKind::Config, "{missing:?}");
    let plain = refused(&at.replace("rediss", "redis")).await;
    assert_eq!(plain.kind(), ErrorKind::Unavailable, "{plain:?}");
}

#[tokio::test]
async fn a_server_of_another_name_is_refused() {
    let setup = Setup::new().tls_named(&["elsewhere.example"]).unwrap();
    let server = Server::start(&setup).unwrap();
    let ca = shown(&server.node().certificates().unwrap().authority);
    let url = format!("rediss://127.0.0.1:{}?ca={ca}", server.node().port());
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
}

/// Redis waits for the end of a line that never comes, and says nothing: nobody can tell that from a
/// server that is stalled.
#[tokio::test]
async fn a_server_that_speaks_no_tls_does_not_answer() {
    let server = Server::start(&Setup::new()).unwrap();
    let error = refused(&format!("rediss://127.0.0.1:{}", server.node().port())).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let setup = Setup::new().tls().unwrap().ask_for_client_certificates();
    let server = Server::start(&setup).unwrap();
    let files = server.node().certificates().unwrap();
    let at = format!(
        "rediss://127.0.0.1:{}?ca={}",
        server.node().port(),
        shown(&files.authority)
    );
    let (cert, key) = (shown(&files.client), shown(&files.client_key));
    works(&format!("{at}&cert={cert}&key={key}")).await;
    refused(&at).await;
}

#[tokio::test]
async fn sentinels_and_clusters_speak_tls() {
    let setup = Setup::new().tls().unwrap();
    let cluster = Cluster::start(&setup, 3, 0).unwrap();
    works(cluster.url()).await;
    let sentinel = Sentinel::start(&setup, 1).unwrap();
    works(sentinel.url()).await;
}
