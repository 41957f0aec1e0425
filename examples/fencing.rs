//! The last line of defence: a table that refuses a writer who was paused for too long.
//!
//! No lock can protect a write that leaves a process after it slept between its last check and that
//! write. The table can, because every grant bears a token that only grows. Here the paused writer
//! is played: it writes once more after its lock has gone to another.

use distributed_locker::{Locker, Token, connect};
use sqlx::SqlitePool;
use std::error::Error;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let locks = format!("sqlite:{}", folder.path().join("locks.db").display());
    let data = format!(
        "sqlite:{}?mode=rwc",
        folder.path().join("data.db").display()
    );

    let pool = SqlitePool::connect(&data).await?;
    sqlx::query("CREATE TABLE fence (resource TEXT PRIMARY KEY, token INTEGER NOT NULL)")
        .execute(&pool)
        .await?;
    sqlx::query("CREATE TABLE report (text TEXT NOT NULL)")
        .execute(&pool)
        .await?;

    let locker = Locker::builder(connect(&locks)?).start().await?;
    let first = locker.try_acquire("report").await?.ok_or("it is held")?;
    let paused = first.token();
    assert!(write(&pool, paused, "by the first").await?);
    assert!(
        write(&pool, paused, "by the first again").await?,
        "a job may write more than once"
    );
    first.release().await?;

    let second = locker.try_acquire("report").await?.ok_or("it is held")?;
    assert!(write(&pool, second.token(), "by the second").await?);
    assert!(
        !write(&pool, paused, "by the first, much later").await?,
        "fenced"
    );
    println!(
        "a write under token {paused} was refused after one under {}",
        second.token()
    );

    second.release().await?;
    locker.terminate(Duration::from_secs(5)).await?;
    pool.close().await;
    Ok(())
}

/// Writes under a token, in one transaction with the check. Answers whether it was let in.
async fn write(pool: &SqlitePool, token: Token, text: &str) -> Result<bool, Box<dyn Error>> {
    let mut transaction = pool.begin().await?;
    let let_in = sqlx::query(
        "INSERT INTO fence AS f (resource, token) VALUES ('report', ?)
         ON CONFLICT (resource) DO UPDATE SET token = excluded.token
         WHERE f.token <= excluded.token",
    )
    .bind(token.as_i64())
    .execute(&mut *transaction)
    .await?
    .rows_affected()
        == 1;
    if !let_in {
        transaction.rollback().await?;
        return Ok(false);
    }
    sqlx::query("INSERT INTO report (text) VALUES (?)")
        .bind(text)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(true)
}
