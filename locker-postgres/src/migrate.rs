//! The migrations: plain SQL, in order, in one transaction, by one process at a time.

use crate::error::{self, Stage};
use crate::statement::Schema;
use locker_core::BackendError;
use sqlx::{Connection, Executor, PgConnection, Row};

/// What brings the schema from each version to the next. Two releases that are neighbours work side
/// by side: a migration adds, and only the one after it removes what the release before no longer
/// asks for.
const MIGRATIONS: &[&str] = &[concat!(
    include_str!("../migrations/0001/01_records.sql"),
    "\n",
    include_str!("../migrations/0001/02_ground.sql"),
    "\n",
    include_str!("../migrations/0001/03_claims.sql"),
    "\n",
    include_str!("../migrations/0001/04_holding.sql"),
    "\n",
    include_str!("../migrations/0001/05_releases.sql"),
    "\n",
    include_str!("../migrations/0001/06_processes.sql"),
    "\n",
    include_str!("../migrations/0001/07_waiting.sql"),
    "\n",
    include_str!("../migrations/0001/08_reading.sql"),
    "\n",
    include_str!("../migrations/0001/09_forgetting.sql"),
    "\n",
    include_str!("../migrations/0001/10_rights.sql"),
)];

/// The version that this release was written for.
const VERSION: i32 = 1;

/// Whether this release can use a schema.
pub(crate) fn judge(version: i32, oldest_client: i32) -> Result<(), BackendError> {
    if version < VERSION {
        return Err(error::config(format!(
            "the schema has version {version}, this release wants {VERSION}; `locker migrate` \
             updates it"
        )));
    }
    if oldest_client > VERSION {
        return Err(error::config(format!(
            "the schema has version {version} and takes releases that were written for {oldest_client} \
             or later; this one was written for {VERSION}"
        )));
    }
    Ok(())
}

/// Brings the schema up to date.
pub(crate) async fn run(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<(), BackendError> {
    let failed = |cause| error::from_sqlx(cause, Stage::Sent);
    let mut transaction = connection
        .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
        .await
        .map_err(failed)?;
    // Twenty processes that start at once: one migrates, and the others wait and find it done.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('locker migrate ' || $1, 0))")
        .persistent(false)
        .bind(schema.name())
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let mut version = 0;
    if present(&mut transaction, schema, "schema_version").await? {
        let sql = schema.sql("SELECT version, oldest_client FROM {schema}.schema_version ORDER BY version DESC LIMIT 1");
        let rows = sqlx::query(sql)
            .persistent(false)
            .fetch_all(&mut *transaction)
            .await;
        if let Some(row) = rows.map_err(failed)?.first() {
            version = row.try_get("version").map_err(failed)?;
            if version >= VERSION {
                return judge(version, row.try_get("oldest_client").map_err(failed)?);
            }
        }
    }
    for text in prelude(schema, &mut transaction).await? {
        transaction
            .execute(schema.sql(text))
            .await
            .map_err(failed)?;
    }
    let done = usize::try_from(version).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        sqlx::raw_sql(*migration)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

/// All of it as text.
pub(crate) fn text(schema: &Schema) -> String {
    let mut text =
        format!("BEGIN;\nCREATE SCHEMA {schema};\nSET LOCAL search_path = {schema}, pg_temp;\n");
    for migration in MIGRATIONS {
        text.push('\n');
        text.push_str(migration);
    }
    text.push_str("COMMIT;\n");
    text
}

/// What comes before the migrations. A schema that is there is not created: even `IF NOT EXISTS`
/// wants the right to.
async fn prelude(
    schema: &Schema,
    connection: &mut PgConnection,
) -> Result<Vec<&'static str>, BackendError> {
    let mut statements = Vec::new();
    let found = sqlx::query("SELECT FROM pg_namespace WHERE nspname = $1")
        .persistent(false)
        .bind(schema.name())
        .fetch_all(connection)
        .await
        .map_err(|cause| error::from_sqlx(cause, Stage::Sent))?;
    if found.is_empty() {
        statements.push("CREATE SCHEMA {schema}");
    }
    // Names in the migrations bear no schema, and functions keep this path.
    statements.push("SET LOCAL search_path = {schema}, pg_temp");
    Ok(statements)
}

async fn present(
    connection: &mut PgConnection,
    schema: &Schema,
    table: &str,
) -> Result<bool, BackendError> {
    let found = sqlx::query(
        "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2",
    )
    .persistent(false)
    .bind(schema.name())
    .bind(table)
    .fetch_all(connection)
    .await
    .map_err(|cause| error::from_sqlx(cause, Stage::Sent))?;
    Ok(!found.is_empty())
}
