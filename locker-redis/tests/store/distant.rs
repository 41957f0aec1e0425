//! A cluster that is far away: what is sent arrives late, and so does the opening of a connection.

use super::*;
use locker_core::Timing;
use locker_core::backend::Released;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A request is answered in a fifth of the time that a locker gives to it.
const ROUND_TRIP: Duration = Duration::from_millis(300);

/// Passes on what comes, each piece half a round trip later.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let (sender, mut pieces) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    let read = async move {
        let mut piece = vec![0; 65_536];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let arrives = tokio::time::Instant::now() + ROUND_TRIP / 2;
            sender.send((arrives, piece[..length].to_vec())).unwrap();
        }
    };
    let write = async {
        while let Some((arrives, piece)) = pieces.recv().await {
            tokio::time::sleep_until(arrives).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = read => (),
        () = write => (),
    }
}

/// The way to a server: a connection is there after a round trip.
async fn way(client: TcpStream, port: u16) {
    tokio::time::sleep(ROUND_TRIP).await;
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        () = carry(from_client, to_server) => (),
        () = carry(from_server, to_client) => (),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_far_away_can_be_opened() {
    let mut ways = Vec::new();
    for _ in 0..3 {
        ways.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let ports = [0, 1, 2].map(|place: usize| ways[place].local_addr().unwrap().port());
    let servers = Cluster::start(&Setup::new().announced(&ports), 3, 0).unwrap();
    for (listener, node) in ways.into_iter().zip(servers.nodes()) {
        let port = node.port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(way(client, port));
            }
        });
    }
    let hosts = ports.map(|port| format!("127.0.0.1:{port}"));
    let url = format!("redis+cluster://{}", hosts.join(","));
    let began = Instant::now();
    let opening = tokio::time::timeout(
        4 * Timing::default().request_timeout,
        Process::unborn(&url, "ns"),
    );
    let process = opening.await.expect("it is opened in time");
    println!("opened after {:?}", began.elapsed());
    for text in ["a", "b", "c"] {
        let owner = process.acquire(text).await;
        let released = process.backend.release(&owner).await.unwrap().value;
        assert_eq!(released, Released::Done);
    }
}

/// Answers as a node that was reset does: it knows of no slots.
async fn knows_nothing(mut client: TcpStream) {
    let mut piece = vec![0; 65_536];
    while let Ok(length @ 1..) = client.read(&mut piece).await {
        let asked = String::from_utf8_lossy(&piece[..length]);
        let commands = asked.lines().filter(|line| line.starts_with('*')).count();
        let answer = if asked.contains("SLOTS") {
            "*0\r\n"
        } else {
            "+OK\r\n"
        };
        let answers = answer.repeat(commands);
        if client.write_all(answers.as_bytes()).await.is_err() {
            break;
        }
    }
}

/// L6: the nearest address of the URL is that of a node which is none of the cluster any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_behind_a_node_that_knows_of_no_slots_can_be_opened() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let [first, second] = [&near, &far].map(|it| it.local_addr().unwrap());
    let port = servers.nodes()[0].port();
    tokio::spawn(async move {
        while let Ok((client, _)) = near.accept().await {
            tokio::spawn(knows_nothing(client));
        }
    });
    tokio::spawn(async move {
        while let Ok((client, _)) = far.accept().await {
            tokio::spawn(way(client, port));
        }
    });
    let url = format!("redis+cluster://{first},{second}");
    let limit = 4 * Timing::default().request_timeout;
    let opening = tokio::time::timeout(limit, Process::unborn(&url, "ns"));
    let process = opening.await.expect("it is opened in time");
    process.acquire("a").await;
}
