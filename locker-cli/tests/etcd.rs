//! The command on etcd: every command works there, and what can be wrong is one clear error, in time,
//! with its exit code, without a secret.
//!
//! The server is started from Debian's package; where it cannot be had, the tests fail and say what to
//! install.

#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Home;
use common::server::{SECRET, every_command_works, refused, refused_by_all};
use locker_testkit::servers::etcd::shared;
use std::net::TcpListener;

#[test]
fn every_command_works_on_one_member() {
    let server = shared::server().unwrap_or_else(|missing| panic!("{missing}"));
    every_command_works(&Home::on(server.url()).in_namespace_of_its_own());
}

#[test]
fn every_command_works_on_three_members() {
    let cluster = shared::cluster().unwrap_or_else(|missing| panic!("{missing}"));
    every_command_works(&Home::on(cluster.url()).in_namespace_of_its_own());
}

#[cfg(feature = "tls")]
#[test]
fn every_command_works_over_tls() {
    use locker_testkit::servers::etcd::{Server, Setup};
    let server = Server::start(&Setup::new().tls().unwrap());
    let server = server.unwrap_or_else(|missing| panic!("{missing}"));
    every_command_works(&Home::on(server.url()));
}

#[test]
fn a_host_that_refuses_is_69() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("etcd://u:{SECRET}@127.0.0.1:{port}");
    refused_by_all(&url, 69, "***@127.0.0.1");
}

/// The kernel accepts connections for it; it says nothing.
#[test]
fn a_server_that_says_nothing_is_69_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    refused_by_all(&format!("etcd://u:{SECRET}@127.0.0.1:{port}"), 69, "cannot");
    drop(listener);
}

#[test]
fn a_url_that_is_wrong_is_78() {
    for url in [
        format!("etcd://u:{SECRET}@h:port"),
        format!("etcd://u:{SECRET}@"),
    ] {
        refused(&Home::on(&url).run(&["list"]), 78, "URL");
    }
}
