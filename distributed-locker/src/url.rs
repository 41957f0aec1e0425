//! From a URL to a store.

use locker_core::{BackendError, Connect};
use std::sync::Arc;
use thiserror::Error;

/// A URL that does not name a store which this program can open. Nothing was opened, and no store was
/// asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is no URL of a store.
    #[error(
        "{shown:?} names no store; a store is one of: {}", known().join(", ")
    )]
    UnknownScheme {
        /// The scheme, or the beginning of the text; never more, because a URL may bear a secret.
        shown: String,
    },
    /// The store exists, but is not compiled in.
    #[error(
        "stores of the kind `{scheme}:` are not compiled in; build with `--features {feature}`"
    )]
    NotCompiledIn {
        /// The scheme of the URL.
        scheme: &'static str,
        /// The cargo features that make it available.
        feature: &'static str,
    },
    /// The namespace cannot be used.
    #[error("the namespace {namespace:?} cannot be used: {why}")]
    Namespace {
        /// The namespace.
        namespace: String,
        /// Why not.
        why: &'static str,
    },
    /// The store refuses the URL.
    #[error("the URL of the store cannot be used")]
    Store(#[source] BackendError),
}

/// The forms of URLs, and the cargo features that each of them needs.
const FORMS: &[(&str, &str)] = &[
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
    ("etcds", "etcd,tls"),
];

/// The schemes of the URLs of all stores, whether or not they are compiled in.
pub fn schemes() -> impl Iterator<Item = &'static str> {
    FORMS.iter().map(|(scheme, _)| *scheme)
}

fn known() -> Vec<String> {
    schemes().map(|scheme| format!("{scheme}:…")).collect()
}

/// Names a store by its URL, in the namespace `locker`. [`LockerBuilder::start`] opens it.
///
/// ```
/// # use distributed_locker::connect;
/// let error = connect("mysql://db/locks").unwrap_err();
/// assert!(error.to_string().contains("names no store"));
/// # #[cfg(feature = "sqlite")]
/// let store = connect("sqlite:/var/lib/worker/locks.db")?;
/// # Ok::<_, distributed_locker::ConnectError>(())
/// ```
///
/// [`LockerBuilder::start`]: crate::LockerBuilder::start
///
/// | URL | store | cargo feature |
/// | --- | --- | --- |
/// | `sqlite:PATH` | one SQLite file, many processes of one machine | `sqlite` |
/// | `redis://[USER:PASSWORD@]HOST[:PORT][/DB]` | one Redis server | `redis` |
/// | `redis+sentinel://[USER:PASSWORD@]HOST,HOST/NAME[/DB]` | the Redis server that these sentinels call by this name | `redis` |
/// | `redis+cluster://[USER:PASSWORD@]HOST,HOST` | a Redis Cluster | `redis` |
/// | `rediss://…`, `rediss+sentinel://…`, `rediss+cluster://…` | the same over TLS | `redis`, `tls` |
/// | `postgres://[USER:PASSWORD@]HOST[:PORT]/DATABASE` | a schema of a Postgres database; `?sslmode=verify-full` encrypts, `?crash_detection=session` sees a crash sooner | `postgres`, (`tls`) |
/// | `etcd://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]` | an etcd cluster | `etcd` |
/// | `etcds://…` | the same over TLS | `etcd`, `tls` |
///
/// User and password are percent-encoded. The page of a store's own crate names all options.
///
/// Postgres is prepared once by `locker migrate`, or by `locker_postgres::Postgres::migrate`: whoever needs more
/// of a store than a connection takes the store's own crate, and gives the builder its value.
///
/// # Errors
///
/// [`ConnectError`] when the URL names no store that is compiled in, or when the store cannot use it: a missing
/// host, an unknown option, a password that is not percent-encoded. Nothing is opened yet.
pub fn connect(url: &str) -> Result<Arc<dyn Connect>, ConnectError> {
    connect_in(url, "locker")
}

/// Names a store by its URL, in a namespace: the locks of two namespaces never meet.
///
/// ```
/// # use distributed_locker::connect_in;
/// let error = connect_in("sqlite:/var/lib/worker/locks.db", "").unwrap_err();
/// assert!(error.to_string().contains("namespace"));
/// ```
///
/// # Errors
///
/// As [`connect`]; and if the namespace is not 1 to 64 bytes without NUL, `{` and `}`. On Postgres it is the name
/// of a schema, at most 63 bytes.
pub fn connect_in(url: &str, namespace: &str) -> Result<Arc<dyn Connect>, ConnectError> {
    if namespace.is_empty() || namespace.len() > 64 || namespace.contains(['\0', '{', '}']) {
        return Err(ConnectError::Namespace {
            namespace: namespace.chars().take(80).collect(),
            why: "it must have 1 to 64 bytes, without NUL and braces",
        });
    }
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    let Some((scheme, feature)) = FORMS.iter().find(|(known, _)| *known == scheme) else {
        let shown = scheme.chars().take(20).collect();
        return Err(ConnectError::UnknownScheme { shown });
    };
    let form = Form {
        scheme,
        url,
        rest,
        namespace,
    };
    match form.open() {
        Some(opened) => opened.map_err(ConnectError::Store),
        None => Err(ConnectError::NotCompiledIn { scheme, feature }),
    }
}

/// A URL of a known form.
#[cfg_attr(
    not(all(
        feature = "sqlite",
        any(feature = "redis", feature = "postgres", feature = "etcd")
    )),
    expect(dead_code, reason = "each store reads what it needs")
)]
struct Form<'u> {
    scheme: &'static str,
    url: &'u str,
    /// What stands behind the scheme and its colon.
    rest: &'u str,
    namespace: &'u str,
}

/// A store, or what is wrong with its URL.
type Opened = Result<Arc<dyn Connect>, BackendError>;

impl Form<'_> {
    /// `None` if the store is not compiled in.
    fn open(&self) -> Option<Opened> {
        // A secure form is not there without its feature, whatever else is.
        let secure = ["rediss", "etcds"];
        if !cfg!(feature = "tls") && secure.iter().any(|form| self.scheme.starts_with(form)) {
            return None;
        }
        match self.scheme {
            #[cfg(feature = "sqlite")]
            "sqlite" => Some(self.sqlite()),
            #[cfg(feature = "redis")]
            scheme if scheme.starts_with("redis") => Some(self.redis()),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Some(self.postgres()),
            #[cfg(feature = "etcd")]
            "etcd" | "etcds" => Some(self.etcd()),
            _ => None,
        }
    }

    #[cfg(feature = "sqlite")]
    fn sqlite(&self) -> Opened {
        // Both the plain form and the one with an empty authority are in use.
        let path = self.rest.strip_prefix("//").unwrap_or(self.rest);
        if path.is_empty() {
            let text = "`sqlite:` wants the path of a file";
            return Err(BackendError::new(
                locker_core::ErrorKind::Config,
                locker_core::Effect::NotApplied,
                text,
            ));
        }
        let store = locker_sqlite::Sqlite::new(path).namespace(self.namespace);
        Ok(Arc::new(store))
    }

    #[cfg(feature = "redis")]
    fn redis(&self) -> Opened {
        let store = locker_redis::Redis::from_url(self.url)?;
        Ok(Arc::new(store.namespace(self.namespace)))
    }

    #[cfg(feature = "postgres")]
    fn postgres(&self) -> Opened {
        let store = locker_postgres::Postgres::from_url(self.url)?;
        Ok(Arc::new(store.namespace(self.namespace)))
    }

    #[cfg(feature = "etcd")]
    fn etcd(&self) -> Opened {
        let store = locker_etcd::Etcd::from_url(self.url)?;
        Ok(Arc::new(store.namespace(self.namespace)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scheme_is_named_and_nothing_else_of_the_url() {
        let error = connect("mysql://user:secret@host/db")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("mysql") && error.contains("sqlite:"),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn a_sqlite_url_wants_a_path() {
        assert!(connect("sqlite:").is_err());
        assert!(connect("sqlite:/tmp/x.db").is_ok());
        assert!(connect("sqlite:///tmp/x.db").is_ok());
    }

    /// One URL of every form.
    const ALL: [(&str, bool); 11] = [
        ("sqlite:/tmp/x.db", cfg!(feature = "sqlite")),
        ("redis://u:s3cret@h/1", cfg!(feature = "redis")),
        (
            "redis+sentinel://u:s3cret@h,i/name",
            cfg!(feature = "redis"),
        ),
        ("redis+cluster://u:s3cret@h,i:1", cfg!(feature = "redis")),
        ("rediss://u:s3cret@h", TLS),
        ("rediss+sentinel://u:s3cret@h/name", TLS),
        ("rediss+cluster://u:s3cret@h", TLS),
        ("postgres://u:s3cret@h/d", cfg!(feature = "postgres")),
        ("postgresql://u:s3cret@h/d", cfg!(feature = "postgres")),
        ("etcd://u:s3cret@h,i:1", cfg!(feature = "etcd")),
        (
            "etcds://u:s3cret@h",
            cfg!(all(feature = "etcd", feature = "tls")),
        ),
    ];
    const TLS: bool = cfg!(all(feature = "redis", feature = "tls"));

    #[test]
    fn every_form_opens_or_names_the_features_that_it_lacks() {
        assert_eq!(ALL.len(), FORMS.len());
        for ((url, available), (scheme, features)) in ALL.iter().zip(FORMS) {
            match (connect(url), available) {
                (Ok(store), true) => {
                    let shown = format!("{store:?}");
                    assert!(!shown.contains("s3cret"), "{shown}");
                }
                (Err(error), false) => {
                    let error = error.to_string();
                    assert!(error.contains(&format!("`{scheme}:`")), "{error}");
                    let wanted = format!("--features {features}`");
                    assert!(error.contains(&wanted), "{error}");
                    assert!(!error.contains("s3cret"), "{error}");
                }
                (Ok(_), false) => panic!("{scheme} opened"),
                (Err(error), true) => panic!("{error}"),
            }
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn what_is_wrong_with_a_url_is_told_without_its_password() {
        for url in [
            "redis://u:s3cret@h:port",
            "redis://u:s3cret@h/zero",
            "redis+sentinel://u:s3cret@h",
            "redis+cluster://u:s3cret@h/7",
            "redis://h?sentinel_password=s3cret",
            "redis://u:s3cret?@h",
        ] {
            let ConnectError::Store(error) = connect(url).unwrap_err() else {
                panic!("{url} is of a known form");
            };
            assert_eq!(error.kind(), locker_core::ErrorKind::Config);
            assert!(
                !format!("{error} {error:?}").contains("s3cret"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_namespace_that_no_store_can_keep_is_refused() {
        for bad in ["", "a\0", "{a}", &"x".repeat(65)] {
            assert!(matches!(
                connect_in("sqlite:/x", bad),
                Err(ConnectError::Namespace { .. })
            ));
        }
    }
}
