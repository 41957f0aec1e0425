//! Which store: from the arguments, the environment or the default, to something to connect to.

#[cfg(feature = "sqlite")]
mod embedded;
#[cfg(feature = "postgres")]
mod schema;

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use distributed_locker::ConnectError;
use locker_core::backend::Side;
use locker_core::{Backend, BackendError, Connect};
use std::env;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The environment variable that names the store.
pub(crate) const VARIABLE: &str = "LOCKER_STORE";

/// How long one question to the store may take, the way to it included.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store that was chosen. Nothing is opened yet.
#[derive(Debug)]
pub(crate) struct Store {
    url: String,
    #[cfg(feature = "postgres")]
    namespace: String,
    connect: Arc<dyn Connect>,
    /// The embedded store's liveness descriptor, of which the keeper gets a duplicate.
    liveness: Option<OwnedFd>,
}

impl Store {
    /// The store that these options, or the environment, name.
    pub(crate) fn choose(global: &Global) -> Result<Self, Failure> {
        Self::chosen(global, None)
    }

    /// The same for a process with this request timeout. A request that waits for a file's lock ends before:
    /// it is then known not to have been executed.
    pub(crate) fn choose_for(global: &Global, request_timeout: Duration) -> Result<Self, Failure> {
        Self::chosen(global, Some(request_timeout * 2 / 3))
    }

    fn chosen(global: &Global, busy_timeout: Option<Duration>) -> Result<Self, Failure> {
        let url = match (&global.store, &global.store_file) {
            (Some(url), _) => url.clone(),
            (None, Some(path)) => read_url(path)?,
            (None, None) => match env::var(VARIABLE) {
                Ok(url) => url,
                Err(env::VarError::NotPresent) => default_url()?,
                Err(env::VarError::NotUnicode(_)) => {
                    return Err(Failure::usage(format!("{VARIABLE} is not UTF-8")));
                }
            },
        };
        Self::of_url(&url, &global.namespace, busy_timeout)
    }

    fn of_url(url: &str, namespace: &str, busy_timeout: Option<Duration>) -> Result<Self, Failure> {
        let Some((scheme, rest)) = url.split_once(':') else {
            // It is not shown: it may be a password in a file that was to hold a URL.
            let what = "the store is not a URL: it has no scheme";
            let hint = format!(
                "for a file: --store sqlite:PATH; the stores are {}",
                schemes()
            );
            return Err(Failure::usage(what).hint(hint));
        };
        #[cfg(feature = "sqlite")]
        if scheme == "sqlite" {
            let (connect, liveness) = embedded::open(rest, namespace, busy_timeout)?;
            return Ok(Self {
                url: url.to_owned(),
                #[cfg(feature = "postgres")]
                namespace: namespace.to_owned(),
                connect,
                liveness: Some(liveness),
            });
        }
        let _ = (rest, busy_timeout);
        let connect = distributed_locker::connect_in(url, namespace);
        Ok(Self {
            url: url.to_owned(),
            #[cfg(feature = "postgres")]
            namespace: namespace.to_owned(),
            connect: connect.map_err(|error| not_opened(scheme, error))?,
            liveness: None,
        })
    }

    /// Its URL, secrets included: for the command that asked for it, never for people.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its URL without secrets.
    pub(crate) fn shown(&self) -> String {
        redact(&self.url)
    }

    /// What makes connections to it.
    pub(crate) fn connect(&self) -> Arc<dyn Connect> {
        Arc::clone(&self.connect)
    }

    /// The embedded store's liveness descriptor.
    pub(crate) fn liveness(&self) -> Option<BorrowedFd<'_>> {
        self.liveness.as_ref().map(AsFd::as_fd)
    }

    /// A connection for commands that hold no lock.
    pub(crate) async fn open(&self) -> Result<Arc<dyn Backend>, Failure> {
        let doing = format!("cannot open the store {}", self.shown());
        let opening = self.connect.connect(Side::Caller);
        bounded(&doing, PATIENCE, Failure::of_a_look, opening).await
    }

    /// Fails if it is a file that is not there: opening it would make one.
    pub(crate) fn exists(&self) -> Result<(), Failure> {
        match self.url.strip_prefix("sqlite:") {
            Some(path) if !Path::new(path).exists() => {
                let what = format!("the store {} does not exist", self.shown());
                Err(Failure::new(Exit::CONFIG, what)
                    .lock("no store was asked, and no lock is held")
                    .hint("`locker migrate` makes it, and so does whoever uses it first"))
            }
            _ => Ok(()),
        }
    }

    /// Prepares it, where that is a step of its own.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(clippy::unused_async, reason = "no store is compiled in that needs it")
    )]
    pub(crate) async fn migrate(&self) -> Result<(), Failure> {
        #[cfg(feature = "postgres")]
        if schema::is_meant(&self.url) {
            return schema::migrate(self).await;
        }
        Ok(())
    }

    /// What prepares it, as text, where that is a step of its own.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(
            clippy::unnecessary_wraps,
            clippy::unused_self,
            reason = "no store is compiled in that needs it"
        )
    )]
    pub(crate) fn migrations(&self) -> Result<Option<String>, Failure> {
        #[cfg(feature = "postgres")]
        if schema::is_meant(&self.url) {
            return schema::text(self).map(Some);
        }
        Ok(None)
    }

    /// The answer to a question of such a command.
    pub(crate) async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, Failure> {
        let doing = format!("cannot ask the store {}", self.shown());
        bounded(&doing, PATIENCE, Failure::of_a_look, question).await
    }

    /// The answer to what takes a lock from its owner.
    pub(crate) async fn release<T>(
        &self,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, Failure> {
        let doing = format!("the store {} has not confirmed it", self.shown());
        bounded(&doing, PATIENCE, Failure::of_a_release, request).await
    }
}

/// A server may accept a connection and say nothing, for ever.
async fn bounded<T>(
    doing: &str,
    patience: Duration,
    told: fn(&str, &BackendError) -> Failure,
    request: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, Failure> {
    let answer = tokio::time::timeout(patience, request).await;
    let answer = answer.unwrap_or_else(|_| Err(BackendError::timeout()));
    answer.map_err(|error| told(doing, &error))
}

/// Why a URL leads to no store.
fn not_opened(scheme: &str, error: ConnectError) -> Failure {
    match error {
        ConnectError::UnknownScheme { .. } => {
            let what = format!("there is no store for URLs that begin with {scheme:?}");
            Failure::usage(what).hint(format!("the stores are {}", schemes()))
        }
        ConnectError::NotCompiledIn { feature, .. } => {
            let what = format!("URLs that begin with {scheme}: need a feature of this binary");
            Failure::new(Exit::CONFIG, what)
                .lock("no store was asked, and no lock is held")
                .hint(format!(
                    "install it with `--features {feature}`, beside those that it has now"
                ))
        }
        ConnectError::Store(error) => Failure::backend("cannot use the URL of the store", &error),
        error => Failure::usage(error.to_string()),
    }
}

fn schemes() -> String {
    let names: Vec<_> = distributed_locker::schemes()
        .map(|scheme| format!("{scheme}:"))
        .collect();
    names.join(" ")
}

fn read_url(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        let what = format!(
            "cannot read the store's URL from {}: {error}",
            path.display()
        );
        Failure::new(Exit::CONFIG, what)
            .lock("no store was asked, and no lock is held")
            .hint("--store-file names a file whose first line is the URL")
    })?;
    let url = text.lines().next().unwrap_or_default().trim();
    if url.is_empty() {
        let what = format!("{} holds no URL in its first line", path.display());
        return Err(Failure::new(Exit::CONFIG, what)
            .lock("no store was asked, and no lock is held")
            .hint("--store-file names a file whose first line is the URL"));
    }
    Ok(url.to_owned())
}

/// The file in the user's state directory, whose folder is made if need be, for this user alone.
fn default_url() -> Result<String, Failure> {
    let absolute = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .ok_or_else(|| {
            Failure::new(Exit::CONFIG, "there is no state directory: HOME is not set")
                .lock("no store was asked, and no lock is held")
                .hint("name the store: --store sqlite:PATH, or LOCKER_STORE")
        })?;
    let folder = state.join("locker");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    made.map_err(|error| {
        let what = format!("cannot make the folder {}: {error}", folder.display());
        unusable_folder(what).hint("name the store: --store sqlite:PATH, or LOCKER_STORE")
    })?;
    let path = folder.join("locker.db");
    let path = path.to_str().ok_or_else(|| {
        Failure::new(Exit::CONFIG, "the path of the state directory is not UTF-8")
            .lock("no store was asked, and no lock is held")
            .hint("name the store: --store sqlite:PATH, or LOCKER_STORE")
    })?;
    Ok(format!("sqlite:{path}"))
}

fn unusable_folder(what: String) -> Failure {
    Failure::new(Exit::UNAVAILABLE, what)
        .lock("no store was asked, and no lock is held")
        .hint("create the folder (or mount what belongs there), or choose another store")
}

/// An URL without its password and without its query, which may hold one as well.
fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let shown = rest.split(['?', '#']).next().unwrap_or_default();
    if rest.len() > shown.len() && rest[shown.len()..].contains('@') {
        // A password in the query, or one that has cut itself off: nothing here is sure.
        return format!("{scheme}://***");
    }
    let (authority, path) = shown.split_at(shown.find('/').unwrap_or(shown.len()));
    // A password may contain anything unescaped, an `/` too: then the last `@` is further right.
    match shown.rfind('@') {
        Some(at) if at < authority.len() => {
            format!("{scheme}://***@{}{path}", &authority[at + 1..])
        }
        Some(at) => format!("{scheme}://***@{}", &shown[at + 1..]),
        None => format!("{scheme}://{authority}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        for (url, shown) in [
            ("sqlite:/var/lib/x.db", "sqlite:/var/lib/x.db"),
            ("redis://h:1/0", "redis://h:1/0"),
            ("redis://u:s3cret@h:1/0", "redis://***@h:1/0"),
            ("redis://:s3/cr@et@h/0", "redis://***@h/0"),
            ("postgres://h/db?password=s3cret", "postgres://h/db"),
            (
                "redis+cluster://:s3cret@a:1,b:2",
                "redis+cluster://***@a:1,b:2",
            ),
            (
                "redis+sentinel://u:s3cret@a,b:2/m/1?sentinel_user=s&sentinel_password=s3cret",
                "redis+sentinel://***@a,b:2/m/1",
            ),
            ("redis://u:s3?cr@h", "redis://***"),
            ("redis://u:#s3cret@h", "redis://***"),
            ("rediss://h?sentinel_password=s3@cret", "rediss://***"),
        ] {
            assert_eq!(redact(url), shown);
        }
    }
}
