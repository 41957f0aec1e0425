//! A mistake about connections: each one is taken for the process (PG-7).

use super::{Memo, Mistake, Row, locked, row};
use async_trait::async_trait;
use locker_core::backend::{Answer, Birth, Liveness};
use locker_core::{Backend, ProcessHash};
use locker_testkit::wrap::Twist;
use std::collections::HashSet;
use std::time::Duration;

/// The process of one `Connect`, once it is born, and who counts as dead.
#[derive(Debug, Clone, Default)]
struct Line {
    process: Memo<Option<ProcessHash>>,
    dead: Memo<HashSet<ProcessHash>>,
}

#[derive(Debug, Default)]
struct DiesWithAConnection {
    line: Line,
    /// Held for its drop.
    _connection: Option<Connection>,
}

/// An open connection; its end is the process's end.
#[derive(Debug)]
struct Connection(Line);

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(process) = locked(&self.0.process).clone() {
            locked(&self.0.dead).insert(process);
        }
    }
}

/// A store is cloned once for every connection.
impl Clone for DiesWithAConnection {
    fn clone(&self) -> Self {
        Self {
            line: self.line.clone(),
            _connection: Some(Connection(self.line.clone())),
        }
    }
}

impl Mistake for DiesWithAConnection {
    const SAYS: &'static str = "a process is dead when one of its connections closes (PG-7)";
    const SEEN_BY: &'static str = "process::a_closed_connection_is_not_a_death";

    fn of_another_process(&self) -> Self {
        Self {
            line: Line {
                process: Memo::default(),
                dead: self.line.dead.clone(),
            },
            _connection: None,
        }
    }
}

#[async_trait]
impl Twist for DiesWithAConnection {
    async fn create_process(
        &self,
        store: &dyn Backend,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Birth> {
        *locked(&self.line.process) = Some(process.clone());
        store.create_process(process, ttl).await
    }

    async fn read_process(&self, store: &dyn Backend, process: &ProcessHash) -> Answer<Liveness> {
        let reply = store.read_process(process).await?;
        let dead = locked(&self.line.dead).contains(process);
        Ok(reply.map(|liveness| if dead { Liveness::Dead } else { liveness }))
    }
}

pub(super) fn rows() -> Vec<Row> {
    vec![row::<DiesWithAConnection>()]
}
