//! The lock, checked and pinned inside a transaction of its owner's: what that transaction writes is
//! committed while the lock is the owner's, or not at all.

use crate::arguments;
use crate::config::Postgres;
use crate::error::{self, Stage};
use crate::row::{Answered, unexpected};
use crate::statement::Statements;
use locker_core::backend::Standing;
use locker_core::{BackendError, OwnerHash, Token};
use sqlx::PgConnection;
use std::fmt;

/// Why a transaction must not go on. Roll it back.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfirmError {
    /// The lock is not this owner's any more, or an operator has asked for it back.
    Lost(Standing),
    /// The server could not be asked. Whether the lock is the owner's is not known.
    Store(BackendError),
}

impl fmt::Display for ConfirmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost(Standing::Mine | Standing::Absent) => {
                "the lock is not held under this token any more"
            }
            Self::Lost(Standing::Marked) => "an operator has asked for the lock back",
            Self::Lost(Standing::Held(_)) => "somebody else holds the lock",
            Self::Store(_) => "the lock could not be confirmed",
        })
    }
}

impl std::error::Error for ConfirmError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lost(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}

impl Postgres {
    /// Confirms inside a transaction that a lock is held by this owner under this token (of a guard,
    /// `guard.owner_hash()` and `guard.token()`), and pins it there: until the transaction ends,
    /// nobody is granted the lock, so the guarded writes and this check are committed together.
    /// With it a job that was paused between its last check and its write does no harm.
    ///
    /// The transaction must be one on the database of this store, begun with `BEGIN`; any isolation
    /// will do. Keep it short: as long as it is open the lock is not extended or released either,
    /// and those requests are repeated until it ends.
    ///
    /// ```no_run
    /// # use locker_postgres::Postgres;
    /// # use locker_core::{OwnerHash, Token};
    /// # async fn example(
    /// #     store: Postgres, pool: sqlx::PgPool, owner: &OwnerHash, token: Token,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut transaction = pool.begin().await?;
    /// store.confirm_in_tx(&mut transaction, owner, token).await?;
    /// sqlx::query("UPDATE reports SET done = true").execute(&mut *transaction).await?;
    /// transaction.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfirmError`]: roll the transaction back.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the lock may be pinned until the transaction ends.
    pub async fn confirm_in_tx(
        &self,
        transaction: &mut PgConnection,
        owner: &OwnerHash,
        token: Token,
    ) -> Result<(), ConfirmError> {
        match self.confirm(transaction, owner, token).await {
            Ok(Standing::Mine) => Ok(()),
            Ok(lost) => Err(ConfirmError::Lost(lost)),
            Err(error) => Err(ConfirmError::Store(error)),
        }
    }

    async fn confirm(
        &self,
        transaction: &mut PgConnection,
        owner: &OwnerHash,
        token: Token,
    ) -> Result<Standing, BackendError> {
        let statements = Statements::of(&self.schema()?);
        // A token that the server has no number for is nobody's.
        let token = i64::try_from(token.get()).unwrap_or(-1);
        let arguments = vec![
            owner.key().as_str().into(),
            owner.as_str().into(),
            token.into(),
        ];
        // Inside a transaction even a pooler keeps to one session; but a statement that stays
        // prepared would be somebody else's afterwards.
        let rows = sqlx::query_with(statements.confirm.bound(), arguments::bind(arguments)?)
            .persistent(false)
            .fetch_all(transaction)
            .await
            .map_err(|cause| error::from_sqlx(cause, Stage::Sent))?;
        let row = rows.into_iter().next();
        Answered::new(row.ok_or_else(|| unexpected("number of answers"))?)?.standing(owner)
    }
}
