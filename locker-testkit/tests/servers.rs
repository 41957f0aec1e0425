//! The servers of the kit do what tests ask of them, and leave nothing behind.

use locker_testkit::servers::redis::{Cluster, Node, Replicated, Sentinel, Server, Setup, shared};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

/// How long anything may take here, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(20);

/// Set in the process that is killed by [`a_killed_test_leaves_nothing`].
const VICTIM: &str = "LOCKER_TEST_SERVERS_VICTIM";

#[test]
fn a_server_answers_and_is_gone_with_its_value() {
    let server = Server::start(&Setup::new()).unwrap();
    assert!(server.node().port() < 32_768);
    assert_eq!(server.node().command(&["SET", "a", "b"]).unwrap(), "OK");
    let (pid, folder) = whereabouts(server.node());
    drop(server);
    assert!(!lives(pid));
    assert!(!Path::new(&folder).exists());
}

#[test]
fn a_killed_test_leaves_nothing() {
    if env::var_os(VICTIM).is_some() {
        let server = Server::start(&Setup::new()).unwrap();
        let (pid, folder) = whereabouts(server.node());
        println!("victim {pid} {folder}");
        thread::sleep(10 * LIMIT);
        return;
    }
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_nothing", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let line = output
        .lines()
        .map(Result::unwrap)
        .find_map(|line| line.split_once("victim ").map(|(_, said)| said.to_owned()))
        .unwrap();
    let (pid, folder) = line.split_once(' ').unwrap();
    let pid = pid.parse().unwrap();
    assert!(lives(pid) && Path::new(folder).exists());

    victim.kill().unwrap();
    victim.wait().unwrap();
    until("the server and its folder are gone", || {
        !lives(pid) && !Path::new(folder).exists()
    });
}

/// Also of its shared memory, of which the system has room for some thousands of servers.
#[test]
fn a_postgres_server_leaves_no_memory_however_it_ends() {
    use locker_testkit::servers::postgres;
    let mut server = postgres::Server::start(&[]).unwrap();
    let segment = |server: &postgres::Server| {
        let file = server.folder().join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        let line = text.lines().nth(6).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let exists = |id: &str| {
        let all = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        all.lines()
            .any(|line| line.split_whitespace().nth(1) == Some(id))
    };
    let first = segment(&server);
    assert!(exists(&first));
    let pid = server.pid().unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(maps.contains("/data/pg_dynshmem/") && !maps.contains("/dev/shm/"));

    server.kill().unwrap();
    // The kernel keeps it until the last killed session has run once more.
    until("a killed server has left its memory", || !exists(&first));
    server.start_again().unwrap();
    let second = segment(&server);
    assert!(exists(&second));
    drop(server);
    until("a server has left its memory", || !exists(&second));
}

/// A session that was killed is gone when the kernel lets it run once more, which takes longer where much
/// else runs. Until then the next server finds it in the memory, and refuses to start.
#[test]
fn a_postgres_server_starts_again_when_the_last_session_of_the_one_before_is_gone() {
    use locker_testkit::servers::postgres;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let mut server = postgres::Server::start(&[]).unwrap();
    let pids: Vec<Pid> = server
        .processes()
        .into_iter()
        .map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect();
    // One that stands still lets go of nothing when its parent is killed.
    kill(pids[1], Signal::SIGSTOP).unwrap();
    kill(pids[0], Signal::SIGKILL).unwrap();
    let file = format!("/proc/{first}/task/{first}/children", first = pids[0]);
    let children = || std::fs::read_to_string(&file).unwrap_or_default();
    until("the first process has ended", || children().is_empty());
    let lingers = pids[1];
    let lets_go = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        kill(lingers, Signal::SIGKILL)
    });
    server.start_again().unwrap();
    lets_go.join().unwrap().unwrap();
    assert_eq!(server.sql("SELECT 1").unwrap().trim(), "1");
}

#[test]
fn a_killed_server_keeps_what_it_acknowledged_and_an_emptied_one_nothing() {
    let mut server = Server::start(&Setup::new()).unwrap();
    let node = server.node_mut();
    for number in 0..500 {
        node.command(&["SET", &format!("key {number}"), "value"])
            .unwrap();
    }
    let port = node.port();
    node.kill().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    node.start_again().unwrap();
    assert_eq!(node.port(), port);
    assert_eq!(node.command(&["DBSIZE"]).unwrap(), "500");
    node.start_empty().unwrap();
    assert_eq!(node.command(&["DBSIZE"]).unwrap(), "0");
    node.command(&["SET", "a", "b"]).unwrap();
    node.empty().unwrap();
    assert_eq!(node.command(&["DBSIZE"]).unwrap(), "0");
}

#[test]
fn a_paused_server_stands_still_until_it_goes_on() {
    let server = Server::start(&Setup::new()).unwrap();
    let mut admin = server.node().admin().unwrap();
    admin
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    server.node().pause().unwrap();
    assert!(redis::cmd("PING").query::<String>(&mut admin).is_err());
    server.node().resume().unwrap();
    assert_eq!(server.node().command(&["PING"]).unwrap(), "PONG");
}

#[test]
fn a_setup_gives_lines_users_and_a_password() {
    let setup = Setup::new()
        .line("maxmemory 10mb")
        .user("guest on >word ~guest:* +get +set")
        .password("secret");
    let server = Server::start(&setup).unwrap();
    let limit: Vec<String> = server
        .node()
        .query(&["CONFIG", "GET", "maxmemory"])
        .unwrap();
    assert_eq!(limit[1], "10485760");
    let say = |url: &str| {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_connection()?;
        redis::cmd("SET")
            .arg("guest:a")
            .arg("b")
            .query::<String>(&mut connection)
    };
    let port = server.node().port();
    assert_eq!(say(server.url()).unwrap(), "OK");
    assert_eq!(
        say(&format!("redis://guest:word@127.0.0.1:{port}")).unwrap(),
        "OK"
    );
    let refused = say(&format!("redis://127.0.0.1:{port}")).unwrap_err();
    assert_eq!(refused.code(), Some("NOAUTH"), "{refused}");
}

#[test]
fn a_server_speaks_tls_and_nothing_else() {
    let setup = Setup::new().tls().unwrap();
    let server = Server::start(&setup).unwrap();
    let node = server.node();
    assert!(server.url().starts_with("rediss://localhost:"));
    assert!(server.url().contains("?ca="));
    let port: Vec<String> = node.query(&["CONFIG", "GET", "port"]).unwrap();
    assert_eq!(port[1], "0");
    let plain = redis::Client::open(format!("redis://127.0.0.1:{}", node.port())).unwrap();
    assert!(plain.get_connection_with_timeout(LIMIT).is_err());
    // The whole handshake is the business of the store's own tests; here, that the server offers
    // the certificate of this authority.
    let files = node.certificates().unwrap();
    assert!(files.authority.is_file() && files.client_key.is_file());
}

#[test]
fn a_replica_follows_until_it_is_cut_off() {
    let deployment = Replicated::start(&Setup::new(), 1).unwrap();
    let (master, replica) = (deployment.master(), &deployment.replicas()[0]);
    master.command(&["SET", "a", "1"]).unwrap();
    until("the replica has the write", || {
        replica.command(&["GET", "a"]).unwrap() == "1"
    });
    deployment.cut_off(replica).unwrap();
    master.command(&["SET", "a", "2"]).unwrap();
    assert_eq!(replica.command(&["GET", "a"]).unwrap(), "1");
    replica.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    assert_eq!(replica.command(&["GET", "a"]).unwrap(), "1");
}

#[test]
fn sentinels_promote_a_replica_even_one_that_missed_writes() {
    let began = Instant::now();
    let mut deployment = Sentinel::start(&Setup::new(), 1).unwrap();
    println!("started in {:?}", began.elapsed());
    assert_eq!(deployment.master().unwrap(), 0);
    let master = &deployment.nodes()[0];
    master.command(&["SET", "a", "1"]).unwrap();
    master.command(&["WAIT", "1", "5000"]).unwrap();
    deployment.cut_off(1).unwrap();
    let master = &deployment.nodes()[0];
    master.command(&["SET", "a", "2"]).unwrap();
    let began = Instant::now();
    assert_eq!(deployment.fail_over().unwrap(), 1);
    println!("promoted in {:?}", began.elapsed());
    assert_eq!(deployment.nodes()[1].command(&["GET", "a"]).unwrap(), "1");
}

#[test]
fn a_cluster_moves_slots_and_promotes_replicas() {
    let began = Instant::now();
    let mut cluster = Cluster::start(&Setup::new(), 3, 1).unwrap();
    println!("started in {:?}", began.elapsed());
    let slot = cluster.slot_of("{a}").unwrap();
    let from = cluster.node_of(slot).unwrap();
    let to = (from + 1) % 3;
    cluster.nodes()[from].command(&["SET", "{a}", "1"]).unwrap();
    cluster.begin_move(slot, to).unwrap();
    let asked = cluster.nodes()[from].command(&["GET", "{a}b"]).unwrap_err();
    assert!(asked.to_string().starts_with("Ask"), "{asked}");
    cluster.move_keys(slot, from, to).unwrap();
    cluster.end_move(slot, to).unwrap();
    assert_eq!(cluster.node_of(slot).unwrap(), to);
    assert_eq!(cluster.nodes()[to].command(&["GET", "{a}"]).unwrap(), "1");
    let moved = cluster.nodes()[from].command(&["GET", "{a}"]).unwrap_err();
    assert!(moved.to_string().starts_with("Moved"), "{moved}");

    cluster.nodes()[to].command(&["WAIT", "1", "5000"]).unwrap();
    cluster.nodes_mut()[to].kill().unwrap();
    let began = Instant::now();
    let new = cluster.promoted_after(slot, to).unwrap();
    println!("promoted in {:?}", began.elapsed());
    assert_eq!(new, 3 + to);
    assert_eq!(cluster.nodes()[new].command(&["GET", "{a}"]).unwrap(), "1");
}

#[test]
fn tests_share_one_server_of_each_kind() {
    let server = shared::server().unwrap();
    assert_eq!(server.url(), shared::server().unwrap().url());
    assert!(shared::cluster().unwrap().url().starts_with("redis"));
    assert!(shared::sentinel().unwrap().url().ends_with("/locker"));
}

fn whereabouts(node: &Node) -> (i32, String) {
    let folder = node.folder().to_string_lossy().into_owned();
    (node.pid().expect("it runs"), folder)
}

fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
