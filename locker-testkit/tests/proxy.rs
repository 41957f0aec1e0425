//! The TCP proxy does what it says, in front of a server that answers every byte with the same byte.

use locker_testkit::harness::proxy::{Direction, Proxy};
use locker_testkit::servers::port::Port;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// Long enough for a byte to come through on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// Long enough to say that nothing comes.
const NEVER: Duration = Duration::from_millis(200);

struct Echo {
    address: SocketAddr,
    got: Arc<Mutex<Vec<u8>>>,
    _port: Port,
}

impl Echo {
    /// Needs a runtime.
    fn start() -> Self {
        let port = Port::free().expect("a free port");
        let listener = std::net::TcpListener::bind(("127.0.0.1", port.number())).expect("works");
        listener.set_nonblocking(true).expect("works");
        let listener = TcpListener::from_std(listener).expect("works");
        let address = listener.local_addr().expect("works");
        let got = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = client.read(&mut buffer).await {
                        seen.lock()
                            .expect("works")
                            .extend_from_slice(&buffer[..length]);
                        if client.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            got,
            _port: port,
        }
    }

    fn got(&self) -> Vec<u8> {
        self.got.lock().expect("works").clone()
    }

    async fn gets(&self, bytes: &[u8]) {
        let end = Instant::now() + SOON;
        while self.got() != bytes {
            assert!(Instant::now() < end, "the server got {:?}", self.got());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn set_up() -> (Echo, Proxy, TcpStream) {
    let echo = Echo::start();
    let proxy = Proxy::start(echo.address, 1).await.expect("works");
    assert!(proxy.address().port() < 32_768);
    let mut client = TcpStream::connect(proxy.address()).await.expect("works");
    say(&mut client, b"hello").await;
    hears(&mut client, b"hello").await;
    echo.got.lock().expect("works").clear();
    (echo, proxy, client)
}

async fn say(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).await.expect("works");
}

async fn hears(client: &mut TcpStream, bytes: &[u8]) {
    let mut buffer = vec![0; bytes.len()];
    let read = timeout(SOON, client.read_exact(&mut buffer)).await;
    read.expect("in time").expect("bytes");
    assert_eq!(buffer, bytes);
}

async fn hears_nothing(client: &mut TcpStream) {
    let read = timeout(NEVER, client.read(&mut [0; 16])).await;
    assert!(read.is_err(), "it heard {read:?}");
}

#[tokio::test]
async fn bytes_pass_in_both_directions_and_are_counted() {
    let (echo, proxy, mut client) = set_up().await;
    say(&mut client, b"one").await;
    hears(&mut client, b"one").await;
    assert_eq!(echo.got(), b"one");
    let counts = proxy.counts();
    assert_eq!(
        (counts.connections, counts.requests, counts.replies),
        (1, 8, 8)
    );
}

#[tokio::test]
async fn a_delay_counts_each_way_and_keeps_the_order() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.delay(Duration::from_millis(50), Duration::from_millis(40));
    let sent = Instant::now();
    for byte in b"abcdefgh" {
        say(&mut client, &[*byte]).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    hears(&mut client, b"abcdefgh").await;
    assert!(
        sent.elapsed() >= Duration::from_millis(100),
        "{:?}",
        sent.elapsed()
    );
}

#[tokio::test]
async fn a_stalled_direction_goes_on_where_it_stood() {
    for direction in [Direction::Requests, Direction::Replies] {
        let (echo, proxy, mut client) = set_up().await;
        proxy.stall(direction);
        say(&mut client, b"late").await;
        hears_nothing(&mut client).await;
        let arrived: &[u8] = if direction == Direction::Replies {
            b"late"
        } else {
            b""
        };
        assert_eq!(echo.got(), arrived);
        proxy.heal();
        hears(&mut client, b"late").await;
    }
}

#[tokio::test]
async fn swallowed_replies_never_come_though_the_requests_arrive() {
    let (echo, proxy, mut client) = set_up().await;
    proxy.swallow(Direction::Replies);
    say(&mut client, b"gone").await;
    echo.gets(b"gone").await;
    hears_nothing(&mut client).await;
    proxy.heal();
    say(&mut client, b"back").await;
    hears(&mut client, b"back").await;
    assert_eq!(proxy.counts().swallowed, 4);
}

#[tokio::test]
async fn a_cut_lets_so_many_bytes_through() {
    let (echo, proxy, _) = set_up().await;
    proxy.cut_after(3);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut client, b"abcdef").await;
    echo.gets(b"abc").await;
    let end = timeout(SOON, client.read_to_end(&mut Vec::new())).await;
    // Closed with unread bytes on the way, or in good order: closed all the same.
    assert!(end.is_ok(), "it stayed open");
    assert_eq!(echo.got(), b"abc");
}

#[tokio::test]
async fn a_reset_is_one_and_the_next_connection_works() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.reset();
    let read = timeout(SOON, client.read(&mut [0; 16]))
        .await
        .expect("in time");
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut client, b"again").await;
    hears(&mut client, b"again").await;
}

#[tokio::test]
async fn a_half_open_connection_takes_everything_and_says_nothing() {
    let (echo, proxy, mut client) = set_up().await;
    proxy.half_open();
    tokio::time::sleep(Duration::from_millis(50)).await;
    say(&mut client, b"anybody?").await;
    hears_nothing(&mut client).await;
    assert!(echo.got().is_empty());
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut other, b"yes").await;
    hears(&mut other, b"yes").await;
}

#[tokio::test]
async fn a_mute_server_accepts_and_a_refusing_one_resets() {
    let (echo, proxy, _) = set_up().await;
    proxy.mute();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut client, b"hello?").await;
    hears_nothing(&mut client).await;
    assert!(echo.got().is_empty());
    proxy.heal();
    proxy.refuse();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let read = timeout(SOON, client.read(&mut [0; 16]))
        .await
        .expect("in time");
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn held_bytes_arrive_after_their_client_has_closed() {
    let (echo, proxy, mut client) = set_up().await;
    proxy.hold();
    say(&mut client, b"from beyond").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(client);
    tokio::time::sleep(NEVER).await;
    assert!(echo.got().is_empty());
    // Whoever connects meanwhile is not held.
    let mut next = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut next, b"me first, ").await;
    hears(&mut next, b"me first, ").await;
    proxy.deliver();
    echo.gets(b"me first, from beyond").await;
    assert_eq!(proxy.counts().delivered_late, 11);
}
