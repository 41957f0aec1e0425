//! Which store: from the arguments, the environment or the default, to something to connect to.

#[cfg(feature = "sqlite")]
mod embedded;

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use locker_core::backend::Side;
use locker_core::{Backend, BackendError, Connect};
#[cfg(feature = "redis")]
use locker_redis::Redis;
use std::env;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The environment variable that names the store.
pub(crate) const VARIABLE: &str = "LOCKER_STORE";

/// All stores there are, by the schemes of their URLs, each with its cargo features.
const STORES: [(&str, &str); 10] = [
    ("sqlite", "sqlite"),
    ("redis", "redis"),
    ("redis+sentinel", "redis"),
    ("redis+cluster", "redis"),
    ("rediss", "redis,tls"),
    ("rediss+sentinel", "redis,tls"),
    ("rediss+cluster", "redis,tls"),
    ("postgres", "postgres"),
    ("postgresql", "postgres"),
    ("etcd", "etcd"),
];

/// How long one question to the store may take, the way to it included.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store that was chosen. Nothing is opened yet.
#[derive(Debug)]
pub(crate) struct Store {
    url: String,
    connect: Arc<dyn Connect>,
    /// The embedded store's liveness descriptor, of which the keeper gets a duplicate.
    liveness: Option<OwnedFd>,
}

impl Store {
    /// The store that these options, or the environment, name.
    pub(crate) fn choose(global: &Global) -> Result<Self, Failure> {
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
        Self::of_url(&url, &global.namespace)
    }

    fn of_url(url: &str, namespace: &str) -> Result<Self, Failure> {
        let Some((scheme, rest)) = url.split_once(':') else {
            // It is not shown: it may be a password in a file that was to hold an URL.
            let what = "the store is not an URL: it has no scheme";
            let hint = format!(
                "for a file: --store sqlite:PATH; the stores are {}",
                schemes()
            );
            return Err(Failure::usage(what).hint(hint));
        };
        let Some((_, features)) = STORES.iter().find(|(known, _)| *known == scheme) else {
            let what = format!("there is no store for URLs that begin with {scheme:?}");
            return Err(Failure::usage(what).hint(format!("the stores are {}", schemes())));
        };
        #[cfg(feature = "sqlite")]
        if scheme == "sqlite" {
            let (connect, liveness) = embedded::open(rest, namespace)?;
            return Ok(Self {
                url: url.to_owned(),
                connect,
                liveness: Some(liveness),
            });
        }
        #[cfg(feature = "redis")]
        if scheme.starts_with("redis") && (cfg!(feature = "tls") || !scheme.starts_with("rediss")) {
            let refused = |error| Failure::backend("cannot use the URL of the store", &error);
            let redis = Redis::from_url(url).map_err(refused)?;
            return Ok(Self {
                url: url.to_owned(),
                connect: Arc::new(redis.namespace(namespace)),
                liveness: None,
            });
        }
        // Every store that is compiled in has returned by now.
        let _ = (rest, namespace);
        let (store, _) = features.split_once(',').unwrap_or((features, ""));
        let what = match features.split_once(',') {
            Some((_, more)) if cfg!(feature = "redis") => {
                format!("the feature {more} of the {store} store is not compiled into this binary")
            }
            _ => format!("the {store} store is not compiled into this binary"),
        };
        let hint = format!("cargo install locker-cli --features {features}");
        Err(Failure::new(Exit::CONFIG, what)
            .lock("no store was asked, and no lock is held")
            .hint(hint))
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
        bounded(&doing, self.connect.connect(Side::Caller)).await
    }

    /// The answer to a question of such a command.
    pub(crate) async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, Failure> {
        let doing = format!("cannot ask the store {}", self.shown());
        bounded(&doing, question).await
    }
}

/// A server may accept a connection and say nothing, for ever.
async fn bounded<T>(
    doing: &str,
    request: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, Failure> {
    let answer = tokio::time::timeout(PATIENCE, request).await;
    let answer = answer.unwrap_or_else(|_| Err(BackendError::timeout()));
    answer.map_err(|error| Failure::backend(doing, &error))
}

fn schemes() -> String {
    let names: Vec<_> = STORES
        .iter()
        .map(|(scheme, _)| format!("{scheme}:"))
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
