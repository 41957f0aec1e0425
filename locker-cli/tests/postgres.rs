//! The command on Postgres: every command works there, `migrate` is the one step that comes before, and
//! what can be wrong is one clear error, in time, with its exit code, without a secret.
//!
//! The server is started from Debian's package; where it cannot be had, the tests fail and say what to
//! install.

#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Home;
use common::server::{SECRET, every_command_works, json, refused, refused_by_all};
use locker_testkit::servers::postgres::{GUARDED, Server, shared, shared_bouncer};
use std::net::TcpListener;

fn server(lines: &[&str]) -> Server {
    Server::start(lines).unwrap_or_else(|missing| panic!("{missing}"))
}

fn on_the_shared_server() -> Home {
    let server = shared().unwrap_or_else(|missing| panic!("{missing}"));
    Home::on(server).in_namespace_of_its_own()
}

#[test]
fn every_command_works_on_a_server() {
    every_command_works(&on_the_shared_server());
}

#[test]
fn every_command_works_through_a_pooler() {
    let (through, _) = shared_bouncer().unwrap_or_else(|missing| panic!("{missing}"));
    every_command_works(&Home::on(through).in_namespace_of_its_own());
}

#[test]
fn a_schema_that_is_missing_is_78_and_names_the_command_that_makes_it() {
    let home = on_the_shared_server();
    for command in [
        &["run", "k", "--", "touch", "it-ran"][..],
        &["list"],
        &["migrate", "--check"],
    ] {
        let outcome = home.run(command);
        refused(&outcome, 78, "schema");
        assert!(outcome.stderr.contains("locker migrate"), "{outcome:#?}");
    }
    assert!(!home.path("it-ran").exists());
    let ready = json(home.run(&["--json", "migrate"]).expect(0));
    assert_eq!(ready["ready"], true);
    home.run(&["migrate"]).expect(0);
    home.run(&["migrate", "--check"]).expect(0);
}

/// What is printed does the same when somebody else runs it.
#[test]
fn the_printed_migrations_make_a_store() {
    let server = server(&[]);
    let home = Home::on(server.url());
    let printed = home.run(&["migrate", "--print"]);
    home.run(&["migrate", "--check"]).expect(78);
    server.sql(&printed.expect(0).stdout).unwrap();
    home.run(&["migrate", "--check"]).expect(0);
    home.run(&["run", "k", "--", "true"]).expect(0);
}

#[test]
fn a_wrong_password_is_77() {
    let server = server(&[]);
    let role = format!("CREATE ROLE {GUARDED} LOGIN PASSWORD 'right'");
    server.sql(&role).unwrap();
    refused_by_all(&server.url_as(GUARDED, Some(SECRET)), 77, "password");
}

#[test]
fn a_role_without_rights_is_77() {
    let server = server(&[]);
    Home::on(server.url()).run(&["migrate"]).expect(0);
    server.sql("CREATE ROLE guest LOGIN").unwrap();
    let home = Home::on(&server.url_as("guest", None));
    refused(&home.run(&["run", "k", "--", "true"]), 77, "");
}

#[test]
fn a_host_that_refuses_is_69() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("postgres://u:{SECRET}@127.0.0.1:{port}/d");
    refused_by_all(&url, 69, "***@127.0.0.1");
}

#[test]
fn a_url_that_is_wrong_is_78() {
    for url in [
        format!("postgres://u:{SECRET}@h:port/d"),
        format!("postgres://u:{SECRET}@h/d?sslmode=perhaps"),
    ] {
        refused(&Home::on(&url).run(&["list"]), 78, "URL");
    }
}
