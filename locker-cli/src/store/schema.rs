//! Postgres: its schema is created by a step of its own, for which an application has no right.

use super::{Store, bounded};
use crate::failure::Failure;
use locker_core::BackendError;
use locker_postgres::Postgres;
use std::time::Duration;

/// Others may be migrating at the same time, and a table may be in use.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn is_meant(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

pub(super) async fn migrate(store: &Store) -> Result<(), Failure> {
    let doing = format!("cannot prepare the store {}", store.shown());
    let migration = async { postgres(store)?.migrate().await };
    let migrated = bounded(&doing, PATIENCE, Failure::of_a_look, migration).await;
    migrated.map_err(|failure| {
        failure.lock("no lock was touched; `locker migrate --check` says whether it is prepared")
    })
}

pub(super) fn text(store: &Store) -> Result<String, Failure> {
    let text = postgres(store).and_then(|store| store.migrations());
    text.map_err(|error| Failure::of_a_look("cannot print the migrations", &error))
}

fn postgres(store: &Store) -> Result<Postgres, BackendError> {
    Ok(Postgres::from_url(&store.url)?.namespace(&store.namespace))
}
