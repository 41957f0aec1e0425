//! A TCP proxy that does to bytes what networks do.
//!
//! It stands between a client and a server of a store. What it does is set at any time by whoever
//! holds it, and counts from then on, also for connections that are already there:
//!
//! | trouble | what it does |
//! | --- | --- |
//! | [`delay`](Proxy::delay) | every piece waits so long and a random bit longer, in order |
//! | [`stall`](Proxy::stall) | one direction stands still; bytes arrive when it goes on |
//! | [`swallow`](Proxy::swallow) | one direction's bytes vanish, while the other works on (F08) |
//! | [`cut_after`](Proxy::cut_after) | the connection closes in good order after so many bytes |
//! | [`reset`](Proxy::reset) | both ends of every connection get a reset (F10) |
//! | [`half_open`](Proxy::half_open) | the server's end is closed, and the client is not told (F11) |
//! | [`mute`](Proxy::mute) | new connections are accepted, and nothing is ever said |
//! | [`refuse`](Proxy::refuse) | new connections are reset at once |
//! | [`hold`](Proxy::hold) | requests are kept, and outlive their client; see [`deliver`](Proxy::deliver) (F09, F29) |
//!
//! A cluster or a sentinel tells its clients the addresses of servers, and they would go there past
//! the proxy. So replies can be [translated](Proxy::translate).

use super::rng::Rng;
use crate::servers::port::Port;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Replies,
}

/// A running proxy; its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    /// No server of the kit that is down for a moment finds it taken.
    _port: Port,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<SocketAddr>,
    troubles: watch::Sender<Troubles>,
    rng: Mutex<Rng>,
    counts: Mutex<Counts>,
    /// What is written in replies, and what is to be read there.
    ports: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// What the proxy has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were accepted.
    pub connections: u64,
    /// Bytes from clients.
    pub requests: u64,
    /// Bytes from the server.
    pub replies: u64,
    /// Bytes that were swallowed.
    pub swallowed: u64,
    /// Held bytes that reached the server after their client had gone.
    pub delivered_late: u64,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, Default)]
struct Troubles {
    delay: Duration,
    jitter: Duration,
    stalled: [bool; 2],
    swallowing: [bool; 2],
    cut_after: Option<u64>,
    mute: bool,
    refuse: bool,
    /// Connections up to this one are held.
    held_up_to: u64,
    /// Bumped to reset, or to half-open, every connection of before.
    resets: u64,
    half_opens: u64,
}

impl Troubles {
    /// Whether bytes of this direction of this connection must wait.
    fn holds(&self, direction: Direction, connection: u64) -> bool {
        let held = connection <= self.held_up_to && direction == Direction::Requests;
        held || self.stalled[direction.index()]
    }
}

impl Direction {
    fn index(self) -> usize {
        match self {
            Self::Requests => 0,
            Self::Replies => 1,
        }
    }
}

impl Proxy {
    /// A proxy on a free port of the loopback interface, in front of this server.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub async fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            troubles: watch::Sender::default(),
            rng: Mutex::new(Rng::new(seed)),
            counts: Mutex::default(),
            ports: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            accepting,
            _port: port,
        })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the server is this one, as when a name is given to another machine. Connections
    /// that are there stay with the old one.
    pub fn leads_to(&self, server: SocketAddr) {
        *lock(&self.shared.server) = server;
    }

    /// What it has seen so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts()
    }

    /// Every piece waits for `base` and up to `jitter` more, each way. Order is kept.
    pub fn delay(&self, base: Duration, jitter: Duration) {
        self.set(|now| (now.delay, now.jitter) = (base, jitter));
    }

    /// One direction stands still.
    pub fn stall(&self, direction: Direction) {
        self.set(|now| now.stalled[direction.index()] = true);
    }

    /// Bytes of one direction vanish.
    pub fn swallow(&self, direction: Direction) {
        self.set(|now| now.swallowing[direction.index()] = true);
    }

    /// Each connection closes when its client has sent so many bytes.
    pub fn cut_after(&self, bytes: u64) {
        self.set(|now| now.cut_after = Some(bytes));
    }

    /// Resets every connection there is.
    pub fn reset(&self) {
        self.set(|now| now.resets += 1);
    }

    /// Closes the server's end of every connection there is; clients are not told, and what they
    /// send goes nowhere.
    pub fn half_open(&self) {
        self.set(|now| now.half_opens += 1);
    }

    /// New connections are accepted, and nothing is ever said.
    pub fn mute(&self) {
        self.set(|now| now.mute = true);
    }

    /// New connections are reset at once.
    pub fn refuse(&self) {
        self.set(|now| now.refuse = true);
    }

    /// Requests of the connections there are so far are kept, also beyond the end of these
    /// connections, until they are [delivered](Self::deliver). New connections are not held.
    pub fn hold(&self) {
        let connections = self.counts().connections;
        self.set(|now| now.held_up_to = connections);
    }

    /// Sends the server everything that was held, and holds no more.
    pub fn deliver(&self) {
        self.set(|now| now.held_up_to = 0);
    }

    /// From now on replies that name one of these ports name another one in its place: the first of
    /// a pair becomes the second. Both have five digits, so that no length in a reply changes; a port
    /// is known by what stands around it in the protocol of Redis, as a number, a line or a part of
    /// an address.
    pub fn translate(&self, ports: &[(u16, u16)]) {
        let digits = |port: &u16| port.to_string().into_bytes();
        let pairs = ports.iter().map(|(from, to)| (digits(from), digits(to)));
        let pairs = pairs.filter(|(from, to)| from.len() == 5 && to.len() == 5);
        *lock(&self.shared.ports) = pairs.collect();
    }

    /// Ends all troubles. What stood still goes on; what was swallowed is gone.
    pub fn heal(&self) {
        self.set(|now| {
            *now = Troubles {
                resets: now.resets,
                half_opens: now.half_opens,
                ..Troubles::default()
            };
        });
    }

    fn set(&self, change: impl FnOnce(&mut Troubles)) {
        self.shared.troubles.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }

    /// Counts a piece; answers how much of it is to be passed on.
    fn saw(&self, direction: Direction, now: Troubles, length: usize, seen: &mut u64) -> usize {
        let mut counts = self.counts();
        let mut passed = length as u64;
        match direction {
            Direction::Requests => counts.requests += passed,
            Direction::Replies => counts.replies += passed,
        }
        if now.swallowing[direction.index()] {
            counts.swallowed += passed;
        }
        if direction == Direction::Requests
            && let Some(limit) = now.cut_after
        {
            passed = passed.min(limit.saturating_sub(*seen));
        }
        *seen += passed;
        usize::try_from(passed).unwrap_or(length)
    }

    fn wait(&self, troubles: Troubles) -> Duration {
        let jitter = u64::try_from(troubles.jitter.as_micros()).unwrap_or(u64::MAX);
        let mut rng = lock(&self.rng);
        troubles.delay + Duration::from_micros(rng.below(jitter))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the second of a pair wherever the first stands alone between the signs of the protocol.
fn translate(piece: &mut [u8], ports: &[(Vec<u8>, Vec<u8>)]) {
    for (from, to) in ports {
        let mut at = 1;
        while let Some(found) = piece.get(at..).and_then(|rest| find(rest, from)) {
            let place = at + found;
            let end = place + from.len();
            let before = piece
                .get(place - 1)
                .is_some_and(|sign| b":\n".contains(sign));
            let after = piece.get(end).is_none_or(|sign| b"\r\n@ ,".contains(sign));
            if before
                && after
                && let Some(digits) = piece.get_mut(place..end)
            {
                digits.copy_from_slice(to);
            }
            at = end;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, or a client that has gone again.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let connection = {
            let mut counts = shared.counts();
            counts.connections += 1;
            counts.connections
        };
        tokio::spawn(serve(client, connection, Arc::clone(&shared)));
    }
}

/// How a connection ended.
enum Ended {
    /// By itself.
    Well,
    /// By a reset.
    Reset,
    /// The server's end alone.
    HalfOpen,
}

async fn serve(mut client: TcpStream, connection: u64, shared: Arc<Shared>) {
    let mut troubles = shared.troubles.subscribe();
    let begun = *troubles.borrow_and_update();
    if begun.refuse {
        return abort(client);
    }
    if begun.mute {
        // The client may wait as long as it likes; a reset ends it.
        let _ = troubles.wait_for(|now| now.resets > begun.resets).await;
        return abort(client);
    }
    let server = *lock(&shared.server);
    let Ok(mut server) = TcpStream::connect(server).await else {
        return abort(client);
    };
    // A piece is passed on as it is: the delays are ours alone.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let cut = Notify::new();
        let requests = Way {
            direction: Direction::Requests,
            connection,
            shared: &shared,
            cut: &cut,
        };
        let replies = Way {
            direction: Direction::Replies,
            ..requests
        };
        let requests = requests.carry(from_client, to_server);
        let replies = replies.carry(from_server, to_client);
        let struck = async {
            let changed =
                |now: &Troubles| now.resets > begun.resets || now.half_opens > begun.half_opens;
            match troubles.wait_for(changed).await {
                Ok(now) if now.resets == begun.resets => Ended::HalfOpen,
                Ok(_) | Err(_) => Ended::Reset,
            }
        };
        tokio::select! {
            ended = struck => ended,
            () = cut.notified() => Ended::Well,
            _ = async { tokio::join!(requests, replies) } => Ended::Well,
        }
    };
    match ended {
        Ended::Well => {}
        Ended::Reset => {
            abort(client);
            abort(server);
        }
        Ended::HalfOpen => {
            abort(server);
            let nothing = async { while matches!(client.read(&mut [0; 4096]).await, Ok(1..)) {} };
            tokio::select! {
                () = nothing => {}
                _ = troubles.wait_for(|now| now.resets > begun.resets) => abort(client),
            }
        }
    }
}

/// Closes this socket with a reset.
fn abort(stream: TcpStream) {
    let _ = stream.set_zero_linger();
    drop(stream);
}

/// One direction of one connection.
#[derive(Clone, Copy)]
struct Way<'w> {
    direction: Direction,
    connection: u64,
    shared: &'w Shared,
    cut: &'w Notify,
}

impl Way<'_> {
    /// Carries until the source has closed and everything has been passed on.
    async fn carry(self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let Self {
            direction,
            connection,
            shared,
            cut,
        } = self;
        let (sender, mut queue) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
        let closed = AtomicBool::new(false);
        let reading = async {
            // Moved in, so that its end is the end of the queue.
            let sender = sender;
            let mut seen = 0;
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                let now = *shared.troubles.borrow();
                let length = shared.saw(direction, now, length, &mut seen);
                if now.swallowing[direction.index()] {
                    continue;
                }
                let mut piece = buffer.get(..length).unwrap_or_default().to_vec();
                if direction == Direction::Replies {
                    translate(&mut piece, &lock(&shared.ports));
                }
                let _ = sender.send((Instant::now() + shared.wait(now), piece));
                if direction == Direction::Requests && now.cut_after.is_some_and(|at| seen >= at) {
                    return true;
                }
            }
            closed.store(true, Ordering::Relaxed);
            false
        };
        let writing = async {
            let mut troubles = shared.troubles.subscribe();
            while let Some((at, piece)) = queue.recv().await {
                tokio::time::sleep_until(at).await;
                let held = troubles.borrow().holds(direction, connection);
                if troubles
                    .wait_for(|now| !now.holds(direction, connection))
                    .await
                    .is_err()
                {
                    return;
                }
                if held && direction == Direction::Requests && closed.load(Ordering::Relaxed) {
                    shared.counts().delivered_late += piece.len() as u64;
                }
                // Whoever has closed gets nothing more; the rest is read all the same, and forgotten.
                let _ = to.write_all(&piece).await;
            }
            let _ = to.shutdown().await;
        };
        let (is_cut, ()) = tokio::join!(reading, writing);
        if is_cut {
            cut.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_translated_where_it_stands_alone() {
        let ports = [(b"17001".to_vec(), b"25001".to_vec())];
        let translated = |text: &str| {
            let mut piece = text.as_bytes().to_vec();
            translate(&mut piece, &ports);
            String::from_utf8(piece).unwrap()
        };
        let slots = translated("*2\r\n$9\r\n127.0.0.1\r\n:17001\r\n");
        assert_eq!(slots, "*2\r\n$9\r\n127.0.0.1\r\n:25001\r\n");
        let moved = translated("-MOVED 3999 127.0.0.1:17001\r\n");
        assert_eq!(moved, "-MOVED 3999 127.0.0.1:25001\r\n");
        let master = translated("$5\r\n17001\r\n");
        assert_eq!(master, "$5\r\n25001\r\n");
        let nodes = translated("id 127.0.0.1:17001@27001 master");
        assert_eq!(nodes, "id 127.0.0.1:25001@27001 master");
        let number = translated(":1700123\r\n:217001\r\n");
        assert_eq!(number, ":1700123\r\n:217001\r\n");
    }
}
