//! A cluster of nodes that say what a test has written: what they are in for a moment only, when one of
//! them has been replaced and does not know it yet.

use super::*;
use locker_core::backend::{Liveness, Observed, Settlement};
use locker_core::{Effect, ErrorKind};
use redis::cluster_routing::Slot;
use std::sync::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What they are called. The first three are the primaries of the start, of a third of the slots each.
const IDS: [&str; 4] = ["p", "q", "r", "t"];
/// Their places.
const P: usize = 0;
const Q: usize = 1;
const R: usize = 2;
const T: usize = 3;
/// Whose the thirds are at the start.
const START: [usize; 3] = [P, Q, R];
const THIRDS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// What one of them says.
#[derive(Debug, Clone)]
struct Says {
    /// Whose the thirds are.
    owners: [usize; 3],
    /// Whom it does not hear.
    unheard: Vec<usize>,
    /// The words that it answers to a script, behind the time, which is two seconds; or an error.
    script: String,
    is_silent: bool,
}

#[derive(Debug)]
struct Nodes {
    ports: [u16; 4],
    says: [Mutex<Says>; 4],
}

impl Nodes {
    async fn start() -> Arc<Self> {
        let mut listeners = Vec::new();
        for _ in IDS {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let says = Says {
            owners: START,
            unheard: Vec::new(),
            script: "absent".to_owned(),
            is_silent: false,
        };
        let nodes = Arc::new(Self {
            ports: [P, Q, R, T].map(|place| listeners[place].local_addr().unwrap().port()),
            says: [P, Q, R, T].map(|_| Mutex::new(says.clone())),
        });
        for (place, listener) in listeners.into_iter().enumerate() {
            let nodes = Arc::clone(&nodes);
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&nodes).serve(place, client));
                }
            });
        }
        nodes
    }

    /// Changes what one of them says.
    fn says(&self, place: usize, change: impl FnOnce(&mut Says)) {
        change(&mut self.says[place].lock().unwrap());
    }

    fn url(&self) -> String {
        let hosts = START.map(|place| format!("127.0.0.1:{}", self.ports[place]));
        format!("redis+cluster://{}", hosts.join(","))
    }

    async fn serve(self: Arc<Self>, place: usize, client: TcpStream) {
        let mut client = BufReader::new(client);
        while let Some(words) = command(&mut client).await {
            let Some(answer) = self.answer(place, &words) else {
                return std::future::pending().await;
            };
            if client.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, place: usize, words: &[String]) -> Option<String> {
        let says = self.says[place].lock().unwrap().clone();
        if says.is_silent {
            return None;
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Some(match words[..] {
            ["CLUSTER", "SLOTS"] => self.slots(&says),
            ["CLUSTER", "NODES"] => bulk(&self.nodes(place, &says)),
            ["INFO", ..] => bulk("redis_version:7.0.15\r\nredis_mode:cluster\r\nrole:master\r\n"),
            ["EVALSHA", ..] if says.script.starts_with('-') => format!("{}\r\n", says.script),
            ["EVALSHA", ..] => {
                let words: Vec<_> = says.script.split(' ').map(bulk).collect();
                format!("*{}\r\n:2\r\n:0\r\n{}", 2 + words.len(), words.concat())
            }
            _ => "+OK\r\n".to_owned(),
        })
    }

    fn slots(&self, says: &Says) -> String {
        let row = |((first, last), owner): ((u16, u16), usize)| {
            let (port, id) = (self.ports[owner], bulk(IDS[owner]));
            let host = bulk("127.0.0.1");
            format!("*3\r\n:{first}\r\n:{last}\r\n*3\r\n{host}:{port}\r\n{id}")
        };
        let rows: String = THIRDS.into_iter().zip(says.owners).map(row).collect();
        format!("*3\r\n{rows}")
    }

    fn nodes(&self, place: usize, says: &Says) -> String {
        let line = |node: usize| {
            let owned = THIRDS.into_iter().zip(says.owners);
            let owned = owned.filter(|(_, owner)| *owner == node);
            let owned = owned.map(|((first, last), _)| format!(" {first}-{last}"));
            let owned = owned.collect::<Vec<_>>().concat();
            let myself = if node == place { "myself," } else { "" };
            let role = if owned.is_empty() { "slave" } else { "master" };
            let fail = if says.unheard.contains(&node) {
                ",fail?"
            } else {
                ""
            };
            let (id, port) = (IDS[node], self.ports[node]);
            format!("{id} 127.0.0.1:{port}@1 {myself}{role}{fail} - 0 0 1 connected{owned}\n")
        };
        [P, Q, R, T].map(line).concat()
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// The words of the next command.
async fn command(client: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let number = async |client: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        client.read_line(&mut line).await.ok()?;
        line.trim_end().get(1..)?.parse::<usize>().ok()
    };
    let mut words = Vec::new();
    for _ in 0..number(client).await? {
        let mut word = vec![0; number(client).await? + 2];
        client.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8(word).ok()?);
    }
    Some(words)
}

/// Whether this key lies in that third of the slots.
fn lies_in(third: usize, name: &str) -> bool {
    let (first, last) = THIRDS[third];
    let slot = Some(Slot::for_key(name));
    (first..=last).any(|number| Slot::new(number) == slot)
}

/// A process whose record lies at p.
fn process_at_p() -> ProcessHash {
    let mut hashes = (0..).map(|nonce| ProcessHash::new(&Host::new("h").unwrap(), 1, nonce));
    let lies_there = |hash: &ProcessHash| lies_in(P, &format!("ns:process:{hash}"));
    hashes.find(lies_there).unwrap()
}

/// The key of a lock in that third.
fn lock_in(third: usize) -> Key {
    let mut texts = (0..).map(|number| format!("k{number}"));
    let text = texts.find(|text| lies_in(third, &format!("ns:{{{text}}}")));
    key(&text.unwrap())
}

/// Somebody who wants to know of this process, and has heard what the nodes say now.
async fn looker(nodes: &Nodes) -> Arc<dyn Backend> {
    let store = Redis::from_url(&nodes.url()).unwrap().namespace("ns");
    store.connect(Side::Caller).await.unwrap()
}

/// S1, S3: q stood still and was replaced, then p, and both go on. p has voted against q, and q knows of nothing.
#[tokio::test]
async fn one_that_was_replaced_as_well_confirms_no_death() {
    let nodes = Nodes::start().await;
    let looker = looker(&nodes).await;
    nodes.says(P, |says| {
        says.owners = [P, T, R];
        says.script = "gone 1".to_owned();
    });
    nodes.says(R, |says| says.is_silent = true);
    let process = process_at_p();
    let said = tokio::time::timeout(Duration::from_secs(1), looker.read_process(&process));
    let said = said.await;
    assert!(!matches!(said, Ok(Ok(_))), "{said:?}");
}

/// L2: one that the others do not reach, and clients do, does not know how the slots came to p.
#[tokio::test]
async fn one_that_is_cut_off_keeps_nobody_alive() {
    let nodes = Nodes::start().await;
    let looker = looker(&nodes).await;
    nodes.says(P, |says| says.script = "gone 1".to_owned());
    nodes.says(R, |says| {
        says.owners = [T, Q, R];
        says.unheard = vec![Q, T];
    });
    let process = process_at_p();
    let said = looker.read_process(&process).await.unwrap().value;
    assert_eq!(said, Liveness::Dead);
    // Once it hears the others its word counts.
    nodes.says(R, |says| says.unheard = vec![T]);
    let error = looker.read_process(&process).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Busy, Effect::NotApplied)
    );
}

/// L2: death is final, so the lock is taken over without another question.
#[tokio::test]
async fn who_was_found_dead_is_not_asked_about_again() {
    let nodes = Nodes::start().await;
    let looker = looker(&nodes).await;
    let process = process_at_p();
    nodes.says(P, |says| says.script = "gone 1".to_owned());
    nodes.says(Q, |says| says.script = "granted".to_owned());
    let said = looker.read_process(&process).await.unwrap().value;
    assert_eq!(said, Liveness::Dead);
    nodes.says(P, |says| says.is_silent = true);
    let lock = lock_in(Q);
    let former = OwnerHash::new(&lock, &process, 1, None);
    let observed = Observed::new(format!("1 {former}"));
    let heir = claim(&OwnerHash::new(&lock, &process, 2, None));
    let taken = looker.take_over(&heir, &observed);
    let taken = tokio::time::timeout(Duration::from_secs(1), taken).await;
    token(&taken.expect("in time").unwrap().value);
}

/// An owner of a lock at p, and a moment that has passed there.
fn attempt_at_p() -> (OwnerHash, StoreTime) {
    let owner = OwnerHash::new(&lock_in(P), &process_at_p(), 1, None);
    (owner, StoreTime::from_micros(1_000_000))
}

/// S7: the claim may lie at t, which has taken the place of p.
#[tokio::test]
async fn a_claim_is_settled_for_good_only_by_a_confirmed_primary() {
    let nodes = Nodes::start().await;
    let looker = looker(&nodes).await;
    let (owner, not_after) = attempt_at_p();
    let settled = async || looker.settle(&owner, not_after).await.unwrap().value;
    for place in [Q, R] {
        nodes.says(place, |says| says.owners = [T, Q, R]);
    }
    let open = settled().await;
    assert!(matches!(open, Settlement::Open(_)), "{open:?}");
    for place in [Q, R] {
        nodes.says(place, |says| says.owners = START);
    }
    let end = settled().await;
    assert!(matches!(end, Settlement::Final(_)), "{end:?}");
}

/// S7: p refuses for a moment, and the client of the cluster is answered by somebody else.
#[tokio::test]
async fn a_claim_is_not_settled_for_good_by_whom_the_client_of_the_cluster_has_asked() {
    let nodes = Nodes::start().await;
    let looker = looker(&nodes).await;
    let (owner, not_after) = attempt_at_p();
    let moved = format!("-MOVED 0 127.0.0.1:{}", nodes.ports[T]);
    nodes.says(P, |says| says.script = moved);
    let open = looker.settle(&owner, not_after).await.unwrap().value;
    assert!(matches!(open, Settlement::Open(_)), "{open:?}");
}
