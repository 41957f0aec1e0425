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
use locker_testkit::servers::etcd::{Server, Setup, shared};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

fn server(setup: &Setup) -> Server {
    Server::start(setup).unwrap_or_else(|missing| panic!("{missing}"))
}

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
    let server = server(&Setup::new().tls().unwrap());
    every_command_works(&Home::on(server.url()));
}

/// A server with authentication: its root, and a user who may do nothing.
fn guarded() -> Server {
    let server = server(&Setup::new().flag("bcrypt-cost", "4"));
    let port = server.member().port();
    for (path, question) in [
        ("auth/role/add", r#"{"name":"root"}"#.to_owned()),
        (
            "auth/user/add",
            r#"{"name":"root","password":"another"}"#.to_owned(),
        ),
        (
            "auth/user/grant",
            r#"{"user":"root","role":"root"}"#.to_owned(),
        ),
        (
            "auth/user/add",
            format!(r#"{{"name":"guest","password":"{SECRET}"}}"#),
        ),
        ("auth/enable", "{}".to_owned()),
    ] {
        post(port, path, &question);
    }
    server
}

#[test]
fn a_wrong_password_is_77() {
    let server = guarded();
    let port = server.member().port();
    let url = format!("etcd://root:{SECRET}@127.0.0.1:{port}");
    refused_by_all(&url, 77, "password");
    refused_by_all(
        &format!("etcd://127.0.0.1:{port}"),
        77,
        "user name is empty",
    );
}

#[test]
fn a_user_without_rights_is_77() {
    let server = guarded();
    let port = server.member().port();
    let url = format!("etcd://guest:{SECRET}@127.0.0.1:{port}");
    refused_by_all(&url, 77, "permission denied");
}

#[cfg(feature = "tls")]
#[test]
fn a_certificate_that_nobody_vouches_for_is_78() {
    let server = server(&Setup::new().tls().unwrap());
    let stranger = server_of_another_authority();
    let authority = &stranger.member().certificates().unwrap().authority;
    let (port, authority) = (server.member().port(), authority.display());
    let url = format!("etcds://u:{SECRET}@localhost:{port}?ca={authority}");
    refused_by_all(&url, 78, "trusted");
}

#[cfg(feature = "tls")]
fn server_of_another_authority() -> Server {
    server(&Setup::new().tls().unwrap())
}

/// An address at which nobody listens, for as long as nobody else takes it.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_host_that_refuses_is_69() {
    let url = format!("etcd://u:{SECRET}@{}", nobody());
    refused_by_all(&url, 69, "***@127.0.0.1");
}

#[test]
fn three_members_that_are_dead_are_69_in_time() {
    let [one, two, three] = [(); 3].map(|()| nobody());
    refused_by_all(
        &format!("etcd://u:{SECRET}@{one},{two},{three}"),
        69,
        "cannot",
    );
}

#[test]
fn a_dead_member_of_three_is_passed_over() {
    let cluster = shared::cluster().unwrap_or_else(|missing| panic!("{missing}"));
    let members = cluster.url().trim_start_matches("etcd://");
    let (_, others) = members.split_once(',').unwrap();
    let url = format!("etcd://{},{others}", nobody());
    every_command_works(&Home::on(&url).in_namespace_of_its_own());
}

/// What is no record of ours is an error of its key, is left as it is, and harms no other key.
#[test]
fn a_foreign_value_under_the_key_is_78() {
    let server = server(&Setup::new());
    let port = server.member().port();
    let home = Home::on(server.url());
    let key = base64("locker/lock/k!owner");
    for damage in ["another program's", r#"{"format":99,"owner":"x"}"#] {
        let value = base64(damage);
        let put = format!(r#"{{"key":"{key}","value":"{value}"}}"#);
        post(port, "kv/put", &put);
        let run = home.run(&["run", "k", "--", "touch", "it-ran"]);
        refused(&run, 78, "cannot");
        refused(&home.run(&["show", "k"]), 78, "cannot");
        assert!(!home.path("it-ran").exists(), "{damage:?}");
        home.run(&["run", "other", "--", "true"]).expect(0);
        let listed = home.run(&["list"]);
        let told = listed.expect(78).stdout.contains("unreadable");
        assert!(told, "{listed:#?}");
        let doctor = home.run(&["doctor"]);
        let told = doctor.expect(78).stdout.contains("1 unreadable");
        assert!(told, "{doctor:#?}");
        let found = post(port, "kv/range", &format!(r#"{{"key":"{key}"}}"#));
        assert!(found.contains(&value), "{found}");
    }
}

/// A question to the server past the locker, by its gateway for HTTP and JSON.
fn post(port: u16, path: &str, question: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = question.len();
    write!(
        stream,
        "POST /v3/{path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{question}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 OK\r\n"), "{path}: {answer}");
    answer
}

/// As the gateway takes bytes.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = text.as_bytes().chunks(3).map(|group| {
        let byte = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = |place: usize| {
            if place <= group.len() {
                char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63])
            } else {
                '='
            }
        };
        [0, 1, 2, 3].map(digit)
    });
    groups.flatten().collect()
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
