//! Whose boot clock the times of the file are, and what happens when it is another's: after a reboot
//! every lock is free, and under two kernels or two time namespaces the store is refused.

use crate::boot::Boot;
use crate::error;
use crate::liveness::Liveness;
use crate::open::{finish, opening, transaction};
use crate::place::FileId;
use locker_core::BackendError;
use sqlx::{Row, SqliteConnection};

/// Makes the file's clock this boot's. After a reboot every lock is free and every process dead;
/// but a foreign boot id is only believed to be a *former* one if nobody holds a liveness byte: two
/// kernels over one file would each take the other for a previous boot (attack 13a).
pub(crate) async fn adopt_boot(
    connection: &mut SqliteConnection,
    liveness: &Liveness,
    boot: &Boot,
) -> Result<(), BackendError> {
    if clock_of(connection).await.map_err(opening)? == *boot {
        return Ok(());
    }
    transaction(connection).await?;
    let adopted = reset(connection, liveness, boot).await;
    finish(connection, adopted).await
}

async fn reset(
    connection: &mut SqliteConnection,
    liveness: &Liveness,
    boot: &Boot,
) -> Result<(), BackendError> {
    let written = clock_of(connection).await.map_err(opening)?;
    if written == *boot {
        return Ok(());
    }
    let shown = liveness.database().display().to_string();
    let anybody = liveness.anybody().map_err(|cause| {
        error::config(format!(
            "the file system of {shown} keeps no byte locks; put the store on a local disk"
        ))
        .with_source(cause)
    })?;
    if written.id != boot.id && anybody {
        return Err(error::config(format!(
            "{shown} is in use under another kernel (a virtual machine or container shares the \
             file): this store keeps the processes of one machine apart; use a store with a server"
        )));
    }
    if written.id == boot.id && (anybody || anybody_unknown(connection, liveness).await?) {
        return Err(error::config(format!(
            "{shown} is in use in another time namespace, whose clock differs; run the processes \
             of one store in one time namespace, or wait until the others have ended"
        )));
    }
    // Nobody lives whose locks these were. The rows of processes need no tombstone: what could
    // bring one of them back ended with its boot. Tokens stay (S2).
    for statement in [
        "DELETE FROM processes",
        "DELETE FROM waiters",
        "UPDATE locks SET format = NULL, owner = NULL, process = NULL, acquired_at = NULL, \
         extended_at = NULL, expires = NULL, marked = NULL WHERE owner IS NOT NULL",
    ] {
        sqlx::query(statement)
            .execute(&mut *connection)
            .await
            .map_err(opening)?;
    }
    sqlx::query("UPDATE clock SET boot = ?1, time_namespace = ?2")
        .bind(&boot.id)
        .bind(&boot.time_namespace)
        .execute(&mut *connection)
        .await
        .map_err(opening)?;
    Ok(())
}

/// Whether there are processes, never retired, of whom the kernel cannot say that they are dead.
async fn anybody_unknown(
    connection: &mut SqliteConnection,
    liveness: &Liveness,
) -> Result<bool, BackendError> {
    let rows = sqlx::query("SELECT device, inode, byte FROM processes WHERE byte >= 0")
        .fetch_all(connection)
        .await
        .map_err(opening)?;
    for row in rows {
        let column = |index| row.try_get::<i64, _>(index).map_err(opening);
        let file = FileId::from_columns(column(0)?, column(1)?);
        if !liveness.surely_dead(file, column(2)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Under which boot the times of the file were written.
pub(crate) async fn clock_of(connection: &mut SqliteConnection) -> Result<Boot, sqlx::Error> {
    let row = sqlx::query("SELECT boot, time_namespace FROM clock")
        .fetch_one(connection)
        .await?;
    Ok(Boot {
        id: row.try_get(0)?,
        time_namespace: row.try_get(1)?,
    })
}
