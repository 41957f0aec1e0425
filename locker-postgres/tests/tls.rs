//! TLS: certificates that are accepted and those that are not, and bad input over it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fixture;

use fixture::Somebody;
use futures_util::StreamExt;
use locker_core::backend::{Hint, Side, Watcher};
use locker_core::{BackendError, Connect, Effect, ErrorKind};
use locker_postgres::{CrashDetection, Postgres};
use locker_testkit::servers::certificates::{Certificates, Files, LOCAL_NAMES};
use locker_testkit::servers::postgres::{GUARDED, Server};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server with a certificate for these names.
fn server(names: &[&str]) -> (Server, Files) {
    let server = Server::start(&[]);
    let server = server.unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let folder = server.folder();
    let files = Certificates::new(names, "somebody").unwrap();
    let files = files.write_to(folder).unwrap();
    // The server reads its key only if nobody else may.
    let owner = std::fs::metadata(folder).unwrap();
    for file in [&files.server, &files.server_key] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let (certificate, key) = (files.server.display(), files.server_key.display());
    for setting in [
        &*format!("ssl_cert_file = '{certificate}'"),
        &format!("ssl_key_file = '{key}'"),
        "ssl = on",
    ] {
        server.sql(&format!("ALTER SYSTEM SET {setting}")).unwrap();
    }
    server.sql("SELECT pg_reload_conf()").unwrap();
    let limit = std::time::Instant::now() + PATIENCE;
    while server.sql("SHOW ssl").unwrap() != "on" {
        assert!(std::time::Instant::now() < limit, "{}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    (server, files)
}

async fn refused(url: &str) -> BackendError {
    let store = Postgres::from_url(url).unwrap();
    let connecting = tokio::time::timeout(PATIENCE, store.connect(Side::Caller));
    let error = connecting.await.expect("it is refused at once").err();
    let error = error.unwrap_or_else(|| panic!("{url} should be refused"));
    assert_eq!(error.effect(), Effect::NotApplied, "{error:?}");
    error
}

#[tokio::test]
async fn a_lock_is_taken_waited_for_and_given_back_over_tls() {
    let (server, files) = server(&LOCAL_NAMES);
    Postgres::from_url(server.url())
        .unwrap()
        .migrate()
        .await
        .unwrap();
    let ca = files.authority.display();
    let url = format!("{}?sslmode=verify-full&sslrootcert={ca}", server.url());
    let store = Postgres::from_url(&url).unwrap();
    store.migrate().await.unwrap();
    let store = store.crash_detection(CrashDetection::SESSION);
    let somebody = Somebody::over(&store).await;
    let claim = somebody.acquire("k").await;
    let mut hints = somebody
        .backend
        .watch(claim.key(), &Watcher::Observer)
        .await
        .unwrap();
    somebody.backend.release(&claim.owner).await.unwrap();
    let hint = tokio::time::timeout(PATIENCE, hints.next()).await.unwrap();
    assert_eq!(hint, Some(Hint::Free { place: 0 }));
    // Every session of it.
    let plain = server.sql(
        "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
         WHERE NOT s.ssl AND a.query LIKE '%\"locker\".%' AND a.pid <> pg_backend_pid()",
    );
    assert_eq!(plain.unwrap(), "0");
}

#[tokio::test]
async fn a_stranger_s_certificate_is_refused() {
    let (server, _) = server(&LOCAL_NAMES);
    let (other, others) = self::server(&LOCAL_NAMES);
    drop(other);
    // Nothing of this machine knows the test's own authority.
    let unknown = refused(&format!("{}?sslmode=verify-full", server.url())).await;
    assert_eq!(unknown.kind(), ErrorKind::Config, "{unknown:?}");
    // The files of the other server went with it.
    let ca = others.authority.display();
    let url = format!("{}?sslmode=verify-full&sslrootcert={ca}", server.url());
    let missing = refused(&url).await;
    assert_eq!(missing.kind(), ErrorKind::Config, "{missing:?}");
}

#[tokio::test]
async fn a_server_of_another_name_is_refused() {
    let (server, files) = server(&["elsewhere.example"]);
    let ca = files.authority.display();
    let url = format!("{}?sslmode=verify-full&sslrootcert={ca}", server.url());
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_a_matter_of_configuration() {
    let server = Server::start(&[]);
    let server = server.unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let error = refused(&format!("{}?sslmode=require", server.url())).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
}

/// What is refused without TLS is refused for the same reasons over it, and shows as little.
#[tokio::test]
async fn bad_input_over_tls_is_told_as_it_is_without() {
    let (server, files) = server(&LOCAL_NAMES);
    let role = format!("CREATE ROLE {GUARDED} LOGIN PASSWORD 'right'");
    server.sql(&role).unwrap();
    let tls = format!(
        "?sslmode=verify-ca&sslrootcert={}",
        files.authority.display()
    );
    let wrong = refused(&(server.url_as(GUARDED, Some("wr0ng")) + &tls)).await;
    assert_eq!(wrong.kind(), ErrorKind::Denied, "{wrong:?}");
    assert!(!format!("{wrong:?} {wrong}").contains("wr0ng"), "{wrong:?}");
    let missing = refused(&(server.url().to_owned() + &tls)).await;
    assert_eq!(missing.kind(), ErrorKind::Config, "{missing:?}");
    assert!(missing.to_string().contains("locker migrate"), "{missing}");
    let elsewhere = server.url().strip_suffix("/postgres").unwrap();
    let none = refused(&format!("{elsewhere}/nowhere{tls}")).await;
    assert_eq!(none.kind(), ErrorKind::Config, "{none:?}");
}
