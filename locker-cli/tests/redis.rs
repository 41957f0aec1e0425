//! The command on Redis: every command works there, and what can be wrong about a server or a URL is
//! one clear error, in time, with its exit code, without a secret, and no lock is left behind.
//!
//! The servers are started from Debian's packages; where they cannot be had, the tests fail and say
//! what to install.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::server::{SECRET, every_command_works, refused, refused_by_all};
use common::{Home, await_that};
use locker_testkit::servers::redis::{MASTER_NAME, Server, Setup, shared};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn server(setup: &Setup) -> Server {
    Server::start(setup).unwrap_or_else(|missing| panic!("{missing}"))
}

#[test]
fn every_command_works_on_a_server_alone() {
    every_command_works(&Home::redis());
}

#[test]
fn every_command_works_behind_sentinels() {
    let sentinel = shared::sentinel().unwrap_or_else(|missing| panic!("{missing}"));
    every_command_works(&Home::on(sentinel.url()).in_namespace_of_its_own());
}

#[test]
fn every_command_works_on_a_cluster() {
    let cluster = shared::cluster().unwrap_or_else(|missing| panic!("{missing}"));
    every_command_works(&Home::on(cluster.url()).in_namespace_of_its_own());
}

#[cfg(feature = "tls")]
#[test]
fn every_command_works_over_tls() {
    let server = server(&Setup::new().password(SECRET).tls().unwrap());
    let home = Home::on(server.url());
    every_command_works(&home);
    let doctor = home.run(&["doctor"]);
    assert!(!doctor.stdout.contains(SECRET), "{doctor:#?}");
    assert!(doctor.stdout.contains("rediss://***@"), "{doctor:#?}");
}

#[test]
fn a_wrong_password_is_77() {
    let server = server(&Setup::new().password("another"));
    let port = server.node().port();
    refused_by_all(
        &format!("redis://:{SECRET}@127.0.0.1:{port}"),
        77,
        "password",
    );
    refused_by_all(&format!("redis://127.0.0.1:{port}"), 77, "cannot");
}

#[test]
fn a_user_without_rights_is_77() {
    let server = server(&Setup::new().user(&format!("guest on >{SECRET} ~* &* -@all +ping")));
    let port = server.node().port();
    refused_by_all(
        &format!("redis://guest:{SECRET}@127.0.0.1:{port}"),
        77,
        "right",
    );
}

#[cfg(feature = "tls")]
#[test]
fn a_certificate_of_another_name_is_78() {
    let server = server(&Setup::new().tls_named(&["elsewhere.example"]).unwrap());
    let authority = &server.node().certificates().unwrap().authority;
    let (port, authority) = (server.node().port(), authority.display());
    refused_by_all(
        &format!("rediss://:{SECRET}@127.0.0.1:{port}?ca={authority}"),
        78,
        "certificate",
    );
}

#[test]
fn a_cluster_url_on_a_server_alone_is_78_and_the_reverse() {
    let server = server(&Setup::new());
    let port = server.node().port();
    refused_by_all(&format!("redis+cluster://127.0.0.1:{port}"), 78, "luster");
    let cluster = shared::cluster().unwrap_or_else(|missing| panic!("{missing}"));
    let url = cluster.url().replace("redis+cluster://", "");
    let node = url.split(',').next().unwrap();
    refused_by_all(&format!("redis://{node}"), 78, "luster");
}

#[test]
fn sentinels_that_do_not_know_the_name_are_told_of() {
    let sentinel = shared::sentinel().unwrap_or_else(|missing| panic!("{missing}"));
    let url = sentinel.url().replace(MASTER_NAME, "nobody");
    let outcome = Home::on(&url).run(&["list"]);
    let code = outcome.status.code().unwrap();
    assert!(code == 69 || code == 78, "{outcome:#?}");
    refused(&outcome, code, "cannot");
}

#[test]
fn a_host_that_refuses_is_69() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    refused_by_all(
        &format!("redis://u:{SECRET}@127.0.0.1:{port}"),
        69,
        "***@127.0.0.1",
    );
}

/// The kernel accepts connections for it; it says nothing.
#[test]
fn a_server_that_says_nothing_is_69_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    refused_by_all(
        &format!("redis://u:{SECRET}@127.0.0.1:{port}"),
        69,
        "cannot",
    );
    drop(listener);
}

#[test]
fn a_url_that_is_wrong_is_78() {
    for url in [
        format!("redis://u:{SECRET}@h:port"),
        format!("redis://u:{SECRET}@h/zero"),
        format!("redis+cluster://u:{SECRET}@h/7"),
        format!("redis+sentinel://u:{SECRET}@h"),
        format!("redis://u:{SECRET}@h?unknown=option"),
        format!("redis://u:{SECRET}?@h"),
    ] {
        refused(&Home::on(&url).run(&["list"]), 78, "URL");
    }
}

/// What is no record of ours is an error of its key, is left as it is, and harms no other key.
#[test]
fn a_key_of_another_type_and_a_damaged_record_are_78() {
    let server = server(&Setup::new());
    let home = Home::on(server.url());
    for damage in [
        &["SET", "locker:{k}", "another program's"][..],
        &[
            "HSET",
            "locker:{k}",
            "format",
            "99",
            "owner",
            "x",
            "token",
            "5",
        ],
        &[
            "HSET",
            "locker:{k}",
            "format",
            "1",
            "owner",
            "nobody",
            "token",
            "5",
        ],
    ] {
        server.node().command(damage).unwrap();
        let before = server.node().command(&["TYPE", "locker:{k}"]).unwrap();
        refused(
            &home.run(&["run", "k", "--", "touch", "it-ran"]),
            78,
            "cannot",
        );
        refused(&home.run(&["show", "k"]), 78, "cannot");
        assert!(!home.path("it-ran").exists(), "{damage:?}");
        home.run(&["run", "other", "--", "true"]).expect(0);
        let listed = home.run(&["list"]);
        assert!(
            listed.expect(78).stdout.contains("unreadable"),
            "{listed:#?}"
        );
        let doctor = home.run(&["doctor"]);
        assert!(
            doctor.expect(78).stdout.contains("1 unreadable"),
            "{doctor:#?}"
        );
        let after = server.node().command(&["TYPE", "locker:{k}"]).unwrap();
        assert_eq!(before, after, "{damage:?}");
        server.node().command(&["DEL", "locker:{k}"]).unwrap();
    }
}

/// L4: cut off from its store, a command is ended before anybody else can run, and `run` says 76.
#[test]
fn a_server_that_stands_still_ends_the_command_in_time() {
    let server = server(&Setup::new());
    let home = Home::on(server.url());
    let run = home.script(&["--liveness-ttl", "2"], "echo > held; exec sleep 1000");
    home.await_file("held");
    server.node().pause().unwrap();
    let stopped = Instant::now();
    let outcome = run.end();
    let ended = stopped.elapsed();
    server.node().resume().unwrap();
    outcome.expect(76);
    assert!(ended < Duration::from_secs(4), "{ended:?}");
    await_that("nobody holds it", || {
        home.run(&["show", "k"]).status.code() == Some(1)
    });
}
