//! S11: a record that lacks what every record has is an error for its own key, to whoever asks, and stays as
//! it was found.

mod fixture;

use fixture::{Somebody, fixture};
use futures_util::future::join_all;
use locker_core::backend::Reply;
use locker_core::{BackendError, Effect, ErrorKind};
use locker_postgres::ConfirmError;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::fmt::Debug;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// The record of the lock loses this field; the key is its name.
async fn damage(raw: &mut PgConnection, field: &str) {
    let damage = format!("UPDATE locks SET {field} = NULL WHERE key = '{field}'");
    let done = sqlx::query(AssertSqlSafe(damage)).execute(raw).await;
    assert_eq!(done.expect("the table is there").rows_affected(), 1);
}

#[track_caller]
fn is_corrupt<T: Debug>(reply: Result<T, BackendError>, what: &str) {
    let error = reply.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    assert_eq!(error.effect(), Effect::NotApplied, "{what}: {error}");
}

/// It is nobody's to take; nor is that the answer to a row that is just changing hands.
#[tokio::test]
async fn a_record_that_lacks_a_field_is_corrupt_for_whoever_claims_it() {
    let fixture = fixture().await;
    let store = fixture.store();
    let (somebody, holder) = (Somebody::over(&store).await, Somebody::over(&store).await);
    let fields = ["process", "acquired_at", "extended_at", "expires"];
    let mut raw = fixture.raw().await;
    for field in fields {
        holder.acquire(field).await;
        damage(&mut raw, field).await;
    }
    for field in fields {
        let claimed = somebody.backend.try_create(&somebody.claim(field)).await;
        is_corrupt(claimed, field);
    }
    // Together, as a batch claims.
    let claims = fields.map(|field| somebody.claim(field));
    let replies = claims
        .iter()
        .map(|claim| somebody.backend.try_create(claim));
    for (reply, field) in join_all(replies).await.into_iter().zip(fields) {
        is_corrupt(reply, field);
    }
}

/// Whether a lock without an end is still held, nobody can say; its owner is not told that somebody else was
/// just at it.
#[tokio::test]
async fn a_record_that_lacks_its_end_is_corrupt_for_its_owner() {
    let fixture = fixture().await;
    let store = fixture.store();
    let owner = Somebody::over(&store).await;
    let mut raw = fixture.raw().await;
    let claim = owner.acquire("expires").await;
    let token = owner.read("expires").await.expect("it is held").data.token;
    damage(&mut raw, "expires").await;
    let owners = [claim.owner.clone(), owner.acquire("sound").await.owner];
    for said in [
        owner.backend.extend(&owners, LONG).await.unwrap().value,
        owner.backend.check(&owners).await.unwrap().value,
    ] {
        let [of_damaged, of_sound]: [_; 2] = said.try_into().unwrap();
        is_corrupt(of_damaged, "of the damaged one");
        of_sound.unwrap();
    }
    let mut transaction = raw.begin().await.unwrap();
    match store
        .confirm_in_tx(&mut transaction, &claim.owner, token)
        .await
    {
        Err(ConfirmError::Store(error)) => is_corrupt::<()>(Err(error), "confirmed"),
        other => panic!("{other:?}"),
    }
    transaction.rollback().await.unwrap();
    is_corrupt(owner.backend.release(&claim.owner).await, "released");
    // In the company of a sound one.
    let together = owners.iter().map(|one| owner.backend.release(one));
    let [of_damaged, of_sound]: [Result<Reply<_>, _>; 2] =
        join_all(together).await.try_into().unwrap();
    is_corrupt(of_damaged, "released together");
    of_sound.unwrap();
}
