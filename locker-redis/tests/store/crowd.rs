//! A cluster with many tasks that ask at once, and what its nodes and its callers tell of their pipelines.

use super::*;
use futures_util::future::join_all;
use locker_core::backend::Released;
use locker_testkit::servers::redis::Node;
use locker_testkit::wrap::{Around, Call, Method, Request, WrappedConnect};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// How many tasks ask at once.
pub(super) const MANY: usize = 64;

/// A cluster of three masters that nobody else uses, and a process.
pub(super) struct Crowd {
    pub(super) servers: Cluster,
    pub(super) process: Arc<Process>,
}

impl Crowd {
    pub(super) async fn new() -> Self {
        Self::with_replicas(0).await
    }

    pub(super) async fn with_replicas(replicas_each: usize) -> Self {
        let servers = Cluster::start(&Setup::new(), 3, replicas_each).unwrap();
        let process = Arc::new(Process::born(servers.url(), "ns").await);
        Self { servers, process }
    }

    /// The same, when there is a pipeline to each primary.
    pub(super) async fn with_pipelines() -> Self {
        let crowd = Self::new().await;
        crowd.has_pipelines().await;
        crowd
    }

    pub(super) async fn has_pipelines(&self) {
        until("a connection to each primary", async || {
            self.acquires_and_releases("crowd").await;
            self.lines().iter().all(|lines| lines.len() == 1)
        })
        .await;
    }

    /// Waits until nobody is about to draw the chart: who was asked to at the beginning has had its pause.
    pub(super) async fn chart_is_drawn(&self) {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }

    /// Each of many acquires a key of its own, and gives it back, and is told that both were done.
    pub(super) async fn acquires_and_releases(&self, what: &str) {
        let texts: Vec<_> = (0..MANY).map(|place| format!("{what}{place}")).collect();
        for released in pairs(&self.process, &texts).await {
            assert_eq!(released.unwrap(), Released::Done);
        }
    }

    /// The pipelines to each master of the start.
    pub(super) fn lines(&self) -> [Vec<Line>; 3] {
        let nodes = self.servers.nodes();
        [0, 1, 2].map(|place: usize| lines(&nodes[place]))
    }

    pub(super) fn place_of(&self, text: &str) -> usize {
        place_of(&self.servers, &format!("ns:{{{text}}}"))
    }

    /// So many names of locks that lie on one node now.
    pub(super) fn texts_at(&self, place: usize, what: &str, many: usize) -> Vec<String> {
        let texts = (0..).map(|number| format!("{what}{number}"));
        let texts = texts.filter(|text| self.place_of(text) == place);
        texts.take(many).collect()
    }
}

/// Each acquires its key, and gives it back.
pub(super) async fn pairs(
    process: &Process,
    texts: &[String],
) -> Vec<Result<Released, BackendError>> {
    let pair = |text| async move {
        let owner = process.owner(text);
        process.create(&owner).await?;
        Ok(process.backend.release(&owner).await?.value)
    };
    join_all(texts.iter().map(|text| pair(text))).await
}

/// A connection for the pipelines of somebody, as its server sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) number: String,
    pub(super) address: String,
}

/// The connections of a node, a line each.
pub(super) fn clients(node: &Node) -> String {
    node.command(&["CLIENT", "LIST", "TYPE", "NORMAL"]).unwrap()
}

/// The connections of a node that carry pipelines: they have run scripts, in the newer protocol,
/// which the client of the cluster has for subscriptions only.
pub(super) fn lines(node: &Node) -> Vec<Line> {
    let clients = clients(node);
    let lines = clients.lines().filter_map(|client| {
        let fields: Vec<&str> = client.split(' ').collect();
        let field = |name: &str| fields.iter().find_map(|field| field.strip_prefix(name));
        let carries = field("resp=")? == "3" && field("cmd=")? == "evalsha";
        carries.then_some(Line {
            number: field("id=")?.to_owned(),
            address: field("addr=")?.to_owned(),
        })
    });
    lines.collect()
}

/// How often a node has refused something by this word.
pub(super) fn refusals(node: &Node, word: &str) -> u64 {
    let count = node.info("errorstats", &format!("errorstat_{word}"));
    let count = count.unwrap_or_default();
    let digits = count.trim_start_matches("count=");
    digits.parse().unwrap_or_default()
}

/// Waits until there is something that a node has not read, and for a while there is not more of it.
pub(super) async fn everything_is_sent(node: &Node) {
    let mut before = 0;
    until("something that is not read", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = unread(node);
        now > 0 && now == std::mem::replace(&mut before, now)
    })
    .await;
}

/// How many bytes lie unread in the sockets of a node, as the kernel says.
pub(super) fn unread(node: &Node) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", node.port());
    let of_node = sockets.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let ours = words.next()?.ends_with(&port);
        let (_, unread) = words.nth(2)?.split_once(':')?;
        ours.then(|| u64::from_str_radix(unread, 16).ok())?
    });
    of_node.sum()
}

/// While the node stands still, it is sent what the callers ask, and then told to close
/// connections: in one turn it does what it was sent, and closes before it answers.
pub(super) async fn cut_while_asking<T>(
    node: &Node,
    asking: impl Future<Output = T>,
    kill: &[&str],
) -> T {
    let mut admin = node.admin().unwrap();
    // A connection that was served in a turn is first in the next one, if it has something to say then:
    // the kernel finds out only in that turn that it had nothing. The order to close would come first.
    node.command(&["PING"]).unwrap();
    node.pause().unwrap();
    let mut asking = Box::pin(asking);
    tokio::select! {
        _ = &mut asking => panic!("a stalled server has answered"),
        () = everything_is_sent(node) => (),
    }
    let mut command = redis::cmd("CLIENT");
    command.arg("KILL").arg(kill);
    admin
        .send_packed_command(&command.get_packed_command())
        .unwrap();
    node.resume().unwrap();
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.expect("everybody is told something")
}

/// Hears what every client of a node sends.
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    pub(super) fn of(node: &Node) -> Self {
        let mut socket = UnixStream::connect(node.folder().join("socket")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"MONITOR\r\n").unwrap();
        let mut this = Self(BufReader::new(socket));
        assert_eq!(this.next(), "+OK");
        this
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// What was sent until now.
    pub(super) fn heard(mut self, node: &Node) -> Vec<String> {
        node.command(&["ECHO", "the end"]).unwrap();
        let mut heard = Vec::new();
        loop {
            let line = self.next();
            if line.contains("\"the end\"") {
                return heard;
            }
            heard.push(line);
        }
    }
}

/// How often the store was opened for the callers of a locker, and which errors were told to
/// anybody.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    opened: Arc<AtomicU64>,
    errors: Arc<Mutex<Vec<BackendError>>>,
}

impl Told {
    pub(super) fn errors(&self) -> Vec<BackendError> {
        let errors = self.errors.lock();
        errors.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Around for Told {
    async fn around<T: Send + 'static>(
        &self,
        call: Call,
        request: Request<T>,
    ) -> Result<T, BackendError> {
        if (call.side, call.method) == (Side::Caller, Method::Connect) {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        let answer = request.await;
        if let Err(error) = &answer {
            let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
            errors.push(error.clone());
        }
        answer
    }
}

/// A locker of this cluster.
pub(super) async fn locker(servers: &Cluster) -> (Locker, Told) {
    let store = Redis::from_url(servers.url()).unwrap().namespace("ns");
    let told = Told::default();
    let store = WrappedConnect::new(Arc::new(store), told.clone());
    let locker = Locker::builder(Arc::new(store)).start().await.unwrap();
    (locker, told)
}

/// Each of so many tasks acquires a lock and releases it, all at once.
pub(super) async fn hold_many(locker: &Locker, what: &str) {
    let texts: Vec<_> = (0..MANY).map(|place| format!("{what}{place}")).collect();
    let hold = |text| async move { acquire(locker, text).await.release().await.unwrap() };
    join_all(texts.iter().map(|text| hold(text))).await;
}

/// Until all of them travel in pipelines.
pub(super) async fn holds_in_pipelines(servers: &Cluster, locker: &Locker) {
    until("a connection to each primary", async || {
        hold_many(locker, "crowd").await;
        servers.nodes().iter().all(|node| !lines(node).is_empty())
    })
    .await;
}
