//! What the three connections of one locker share: where the store is, and the one open file
//! description that says they are alive.

use crate::actor;
use crate::backend::SqliteBackend;
use crate::error;
use crate::liveness::{Liveness, absolute};
use crate::open;
use crate::place;
use async_trait::async_trait;
use locker_core::backend::Side;
use locker_core::{Backend, BackendError, Connect, Key};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The embedded store: one SQLite file, used by many processes of one machine.
///
/// Nothing is opened before [`connect`](Connect::connect), which creates the file if there is none.
/// Every connection that is made through one value (or a clone of it) belongs to one locker: they
/// share the descriptor by which the kernel knows that this process lives. Two lockers in one
/// process take two values.
///
/// ```no_run
/// # use locker_sqlite::Sqlite;
/// # use locker_core::{Connect, backend::Side};
/// # async fn example() -> Result<(), locker_core::BackendError> {
/// let store = Sqlite::new("/var/lib/app/locks.db").namespace("billing");
/// let backend = store.connect(Side::Caller).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sqlite {
    config: Config,
    liveness: Arc<Mutex<Option<Liveness>>>,
}

/// What its connections share lies behind a lock, which must not be held while somebody's writer stands
/// still.
impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Where the store is, and how long to wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) path: PathBuf,
    pub(crate) namespace: String,
    pub(crate) busy_timeout: Duration,
}

impl Sqlite {
    /// The store in the file at `path`. A relative path means the directory that is current now.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            config: Config {
                path: absolute(&path.into()),
                namespace: "locker".to_owned(),
                busy_timeout: Duration::from_secs(1),
            },
            liveness: Arc::default(),
        }
    }

    /// The namespace within the file; the locks of two namespaces never meet. The default is
    /// `locker`.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.config.namespace);
        self
    }

    /// How long one step waits for another process's write, one second by default. It must be
    /// shorter than the locker's request timeout, with room for the step itself: a step that
    /// outlives its caller's patience would be reported as unknown instead of not applied.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.config.busy_timeout = timeout;
        self
    }

    /// Uses a liveness file that is already open, so that somebody else, who holds a duplicate of
    /// its descriptor, keeps this locker's processes alive until its own end. It must have been
    /// opened for the same path.
    #[must_use]
    pub fn liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = Arc::new(Mutex::new(Some(liveness)));
        self
    }

    /// The path of the database.
    pub fn path(&self) -> &Path {
        &self.config.path
    }

    /// The shared liveness file, opened by whoever comes first.
    fn open_liveness(&self) -> Result<Liveness, BackendError> {
        let mut shared = self.liveness.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(liveness) = &*shared {
            return Ok(liveness.clone());
        }
        Ok(shared.insert(Liveness::beside(&self.config.path)?).clone())
    }

    fn check(&self) -> Result<(), BackendError> {
        // A namespace obeys the rule of keys, because it is kept like one.
        Key::new(&self.config.namespace).map_err(|cause| {
            error::config("the namespace is not a name the store can keep".to_owned())
                .with_source(cause)
        })?;
        // SQLite takes whole milliseconds, in 31 bits.
        if i32::try_from(self.config.busy_timeout.as_millis()).is_err() {
            return Err(error::config(format!(
                "a busy timeout of {:?} is too long",
                self.config.busy_timeout
            )));
        }
        let liveness = self.liveness.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(liveness) = &*liveness
            && liveness.database() != self.config.path
        {
            return Err(error::config(format!(
                "the liveness file that was handed in belongs to {}, not to {}",
                liveness.database().display(),
                self.config.path.display()
            )));
        }
        drop(liveness);
        place::check(&self.config.path)
    }
}

#[async_trait]
impl Connect for Sqlite {
    /// Opens a connection, which has a thread of its own: a runtime that is blocked, or gone, never
    /// leaves a transaction open. It ends when the backend is dropped.
    ///
    /// # Errors
    ///
    /// Nothing was changed in a file that is refused.
    /// * `Config`: the folder is missing; the path is a link; the file is no SQLite database, belongs to another
    ///   application or to a newer release; it lies on a network file system; another kernel, or
    ///   another time namespace, is using it.
    /// * `Denied`: the folder or the file is read-only for this user.
    /// * `Busy`: another process is writing. Ask again.
    /// * `Unavailable`: the system has no thread left. Ask again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves at most a store that nobody uses yet: what it had open is closed, and a
    /// transaction that it had begun is rolled back.
    async fn connect(&self, _side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        self.check()?;
        let opened = open::database(&self.config).await?;
        // The liveness file comes after the database: nothing is put beside a file that is refused.
        let liveness = self.open_liveness()?;
        let mut session = crate::session::Session::new(self.config.clone(), liveness);
        session.adopt(opened).await?;
        crate::mailbox::remove_stale(&self.config.path);
        Ok(Arc::new(SqliteBackend::new(actor::spawn(session)?)))
    }
}
