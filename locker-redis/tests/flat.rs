//! L8: neither a locker nor its server grows, over cycles of acquire, release, wait, drop and cancel.
//!
//! A clone runs a short version. A million cycles are asked for by
//!
//! ```console
//! LOCKER_FLAT=full cargo test --release -p locker-redis --test flat -- --nocapture
//! ```

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "the figures are what one runs it for")]

use locker_core::Connect;
use locker_redis::Redis;
use locker_testkit::servers::redis::{Server, Setup};
use locker_testkit::soak::{cycles, flat};
use std::sync::Arc;

/// What the server needs.
#[derive(Debug)]
struct Needs {
    memory: u64,
    connections: u64,
    channels: u64,
    keys: u64,
}

impl Needs {
    fn of(server: &Server) -> Self {
        let node = server.node();
        let info = |section, field| node.info(section, field).unwrap().parse().unwrap();
        Self {
            memory: info("memory", "used_memory"),
            connections: info("clients", "connected_clients"),
            channels: info("stats", "pubsub_channels"),
            keys: node.query(&["DBSIZE"]).unwrap(),
        }
    }
}

/// What a server may need more at the end than at one tenth: buffers of its connections come and go.
const SLACK: u64 = 256 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_the_locker_nor_the_server_grows_over_many_cycles() {
    let server = Server::start(&Setup::new()).unwrap();
    let store = || Arc::new(Redis::from_url(server.url()).unwrap()) as Arc<dyn Connect>;
    let cycles = cycles(20_000, 1_000_000);
    let mut needs = Vec::new();
    let report = flat([store(), store()], cycles, || {
        needs.push(Needs::of(&server));
    })
    .await
    .unwrap();
    println!("{report}\nthe server: {needs:?}");
    assert_eq!(report.cycles, cycles);
    assert_eq!(report.errors, 0, "a healthy store refuses nothing");
    assert_eq!(report.findings(), Vec::<String>::new());
    let [early, late] = &needs[..] else {
        panic!("looked at twice");
    };
    assert!(late.memory <= early.memory + SLACK, "{needs:?}");
    assert!(late.connections <= early.connections, "{needs:?}");
    assert!(late.channels <= early.channels, "{needs:?}");
    assert!(late.keys <= early.keys, "{needs:?}");
}
