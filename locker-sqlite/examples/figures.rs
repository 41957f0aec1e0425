//! Measures what a user of this store feels: acquire and release, a refusal, a report, a wake-up.
//!
//! `cargo run --release -p locker-sqlite --example figures [FOLDER]`
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A tool for people.

use futures_util::StreamExt;
use locker_core::backend::{Claim, Side, Watcher};
use locker_core::{Backend, Connect, Host, Key, OwnerHash, ProcessHash, StoreTime};
use locker_sqlite::Sqlite;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(300);

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!("{what:<34} p50 {:>9.1?}  p99 {:>9.1?}", at(50), at(99));
}

fn claim(owner: &OwnerHash) -> Claim {
    Claim {
        owner: owner.clone(),
        ttl: LONG,
        not_after: StoreTime::from_micros(u64::MAX),
    }
}

async fn open(path: &PathBuf, nonce: u128) -> (Arc<dyn Backend>, ProcessHash) {
    let store = Sqlite::new(path).connect(Side::Caller).await.unwrap();
    let process = ProcessHash::new(&Host::new("here").unwrap(), 1, nonce);
    store.create_process(&process, LONG).await.unwrap();
    (store, process)
}

#[tokio::main]
async fn main() {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let path = folder.path().join("locks.db");
    let start = Instant::now();
    let (store, me) = open(&path, 1).await;
    println!("{:<34} {:?}", "open a new store", start.elapsed());
    let start = Instant::now();
    let (other, you) = open(&path, 2).await;
    println!("{:<34} {:?}", "open it again", start.elapsed());

    let (mut acquire, mut release, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let (mut refused, mut report, mut poll) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..5000 {
        let key = Key::new(format!("k{}", n % 100)).unwrap();
        let mine = OwnerHash::new(&key, &me, n, None);
        let begin = Instant::now();
        store.try_create(&claim(&mine)).await.unwrap();
        acquire.push(begin.elapsed());
        let start = Instant::now();
        store.release(&mine).await.unwrap();
        release.push(start.elapsed());
        both.push(begin.elapsed());
    }
    let key = Key::new("k").unwrap();
    let mine = OwnerHash::new(&key, &me, 0, None);
    store.try_create(&claim(&mine)).await.unwrap();
    for n in 0..2000 {
        let yours = OwnerHash::new(&key, &you, n, None);
        let start = Instant::now();
        other.try_create(&claim(&yours)).await.unwrap();
        refused.push(start.elapsed());
        let start = Instant::now();
        store.renew_process(&me, LONG).await.unwrap();
        report.push(start.elapsed());
        let start = Instant::now();
        other.read_process(&me).await.unwrap();
        poll.push(start.elapsed());
    }
    store.release(&mine).await.unwrap();
    show("acquire a free lock", acquire);
    show("release", release);
    show("acquire and release", both);
    show("refused", refused);
    show("report (renew the process)", report);
    show("ask whether the holder lives", poll);

    let mut hints = other.watch(&key, &Watcher::Waiter(you)).await.unwrap();
    let mut woken = Vec::new();
    for n in 1..1000 {
        let mine = OwnerHash::new(&key, &me, n, None);
        store.try_create(&claim(&mine)).await.unwrap();
        let waiting = tokio::spawn(async move {
            hints.next().await;
            (Instant::now(), hints)
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        store.release(&mine).await.unwrap();
        let (at, back) = waiting.await.unwrap();
        hints = back;
        woken.push(at.duration_since(start));
    }
    show("release to wake-up of a waiter", woken);

    let owners: Vec<OwnerHash> = (0..64)
        .map(|n| OwnerHash::new(&Key::new(format!("b{n}")).unwrap(), &me, n, None))
        .collect();
    for owner in &owners {
        store.try_create(&claim(owner)).await.unwrap();
    }
    let (mut extend, mut check) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let start = Instant::now();
        store.extend(&owners, LONG).await.unwrap();
        extend.push(start.elapsed());
        let start = Instant::now();
        store.check(&owners).await.unwrap();
        check.push(start.elapsed());
    }
    show("extend 64 locks", extend);
    show("check 64 locks", check);
}
