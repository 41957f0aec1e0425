//! The Postgres servers of one case, and the network of each worker to them.

use super::Pg;
use super::admin::Admin;
use crate::harness::deployment::{Data, Site};
use crate::harness::network::Network;
use crate::harness::scene::{Scene, WORKERS};
use crate::harness::times::Times;
use crate::servers::postgres::{Bouncer, Server};
use locker_postgres::Postgres;
use std::any::Any;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The namespace, which is the schema.
const SCHEMA: &str = "locker";

/// How many sessions of the server the pooler gives to all workers together.
const SESSIONS: u32 = 20;

/// What every server is started with. Processes are killed here and no machine loses its power, so
/// nothing is worth a disk's work; the log bears the code of each error.
const CONFIGURATION: &[&str] = &[
    "fsync = off",
    "max_connections = 200",
    "shared_buffers = 32MB",
    "log_line_prefix = 'code %e '",
    // What is written is acknowledged when this server has it. Who wants a replica to have it as
    // well is asked for by role, in the cases about that.
    "synchronous_commit = local",
];

/// The servers of a case.
#[derive(Debug)]
pub struct Servers {
    kind: Pg,
    server: Server,
    standby: Option<Server>,
    bouncer: Option<Bouncer>,
    /// The standby is the primary now.
    promoted: bool,
    networks: Vec<Network>,
    stopped: bool,
}

impl Servers {
    /// Starts the servers of a deployment, with the schema in them.
    pub(super) fn start(kind: Pg, times: Times) -> Result<Self, Box<dyn Error>> {
        let mut server = Server::start(CONFIGURATION)?;
        prepare(&server, times)?;
        // Whoever restarts with what it had at the beginning has a schema, and nothing in it.
        server.back_up()?;
        let standby = (kind == Pg::Standby).then(|| Server::standby_of(&server));
        let bouncer = (kind == Pg::Pooled).then(|| Bouncer::start(&server, SESSIONS));
        let mut servers = Self {
            kind,
            server,
            standby: standby.transpose()?,
            bouncer: bouncer.transpose()?,
            promoted: false,
            networks: Vec::new(),
            stopped: false,
        };
        let reached = [servers.reached()];
        for seed in 0..WORKERS as u64 {
            servers.networks.push(Network::before(&reached, seed)?);
        }
        Ok(servers)
    }

    /// The servers of this case.
    ///
    /// # Errors
    ///
    /// When its store is another one.
    pub fn of(scene: &mut Scene) -> Result<&mut Self, String> {
        let site: &mut dyn Any = &mut *scene.site;
        site.downcast_mut()
            .ok_or_else(|| "this case is for Postgres".to_owned())
    }

    /// Past network and pooler, as the role that may do everything.
    ///
    /// # Errors
    ///
    /// When the server does not admit anybody.
    pub fn admin(&self) -> Result<Admin, String> {
        Admin::of(self.primary().url())
    }

    /// The server that takes writes.
    pub fn primary(&self) -> &Server {
        match &self.standby {
            Some(standby) if self.promoted => standby,
            _ => &self.server,
        }
    }

    /// The server that was the primary at the start.
    pub fn first(&mut self) -> &mut Server {
        &mut self.server
    }

    /// The standby.
    ///
    /// # Errors
    ///
    /// When the deployment has none.
    pub fn standby(&self) -> Result<&Server, String> {
        let standby = self.standby.as_ref();
        standby.ok_or_else(|| "there is no standby".to_owned())
    }

    /// Promotes the standby, and gives it the name by which clients know the primary.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn promote(&mut self) -> io::Result<()> {
        if let Some(standby) = &self.standby {
            standby.promote()?;
        }
        self.promoted = true;
        for network in &self.networks {
            network.leads_to(&[self.reached()]);
            network.reset();
        }
        Ok(())
    }

    /// The role of a worker.
    pub fn role(&self, worker: usize) -> String {
        match self.kind {
            // A pooler has sessions of its own for each role; here they share them all.
            Pg::Pooled => "postgres".to_owned(),
            Pg::Alone | Pg::Standby => format!("worker{worker}"),
        }
    }

    /// How often the server has refused something with this code.
    pub fn refusals(&self, code: &str) -> usize {
        let errors = [format!("code {code} ERROR"), format!("code {code} FATAL")];
        let log = self.primary().log();
        let said = |line: &&str| errors.iter().any(|error| line.starts_with(error));
        log.lines().filter(said).count()
    }

    fn reached(&self) -> SocketAddr {
        let port = match &self.bouncer {
            Some(bouncer) => bouncer.port(),
            None => self.primary().port(),
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

/// Migrates, and makes a role for each worker that has exactly the rights it needs. In proportion to
/// the other times of a case, a request waits for a row for less than its client waits for it.
fn prepare(server: &Server, times: Times) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let store = Postgres::from_url(server.url())?.namespace(SCHEMA);
    runtime.block_on(store.migrate())?;
    let mut admin = Admin::of(server.url())?;
    for worker in 0..WORKERS {
        admin.run(&format!(
            "CREATE ROLE worker{worker} LOGIN;
             GRANT USAGE ON SCHEMA {SCHEMA} TO worker{worker};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {SCHEMA} TO worker{worker};"
        ))?;
    }
    let wait = (times.timing().request_timeout * 2 / 3).as_millis();
    let waits = "SELECT p.oid::regprocedure::text FROM pg_proc p
                 WHERE array_to_string(p.proconfig, ' ') LIKE '%lock_timeout%'";
    for function in admin.texts(waits)? {
        let sql = format!("ALTER FUNCTION {function} SET lock_timeout = '{wait}ms'");
        admin.run(&sql)?;
    }
    Ok(())
}

impl Site for Servers {
    fn url(&self) -> String {
        match &self.bouncer {
            Some(bouncer) => bouncer.url(),
            None => self.primary().url().to_owned(),
        }
    }

    fn url_for(&self, worker: usize) -> String {
        let Some(network) = self.networks.get(worker) else {
            return self.url();
        };
        let role = self.role(worker);
        let address = network.addresses()[0];
        format!("postgres://{role}@{address}/postgres")
    }

    fn network(&self, worker: usize) -> Option<&Network> {
        self.networks.get(worker)
    }

    fn processes(&self) -> Vec<u32> {
        let servers = [Some(&self.server), self.standby.as_ref()];
        let bouncer = self.bouncer.as_ref().and_then(Bouncer::pid);
        let servers = servers.into_iter().flatten().filter_map(Server::pid);
        servers.chain(bouncer).map(i32::unsigned_abs).collect()
    }

    fn logs(&self) -> Vec<(String, String)> {
        let servers = [
            ("primary", Some(&self.server)),
            ("standby", self.standby.as_ref()),
        ];
        let servers = servers
            .into_iter()
            .filter_map(|(name, server)| Some((name.to_owned(), server?.log())));
        let bouncer = self.bouncer.as_ref();
        let bouncer = bouncer.map(|bouncer| ("pgbouncer".to_owned(), bouncer.log()));
        servers.chain(bouncer).collect()
    }

    fn restart(&mut self, down: Duration, data: Data) -> Result<(), Box<dyn Error>> {
        self.server.kill()?;
        std::thread::sleep(down);
        match data {
            Data::Kept => self.server.start_again()?,
            Data::Gone => self.server.restore()?,
        }
        Ok(())
    }

    fn stand_still(&mut self) -> Result<(), Box<dyn Error>> {
        self.primary().pause()?;
        self.stopped = true;
        Ok(())
    }

    fn go_on(&mut self) {
        if std::mem::take(&mut self.stopped) {
            // One that was killed meanwhile has nothing to go on with.
            let _ = self.primary().resume();
        }
    }

    fn empty(&mut self) -> Result<(), Box<dyn Error>> {
        let tables = ["locks", "processes", "waiters"].map(|table| format!("{SCHEMA}.{table}"));
        let sql = format!("TRUNCATE {}", tables.join(", "));
        Ok(self.admin()?.run(&sql)?)
    }
}
