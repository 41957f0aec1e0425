//! From a URL to a store.

use locker_core::{BackendError, Connect};
use std::sync::Arc;
use thiserror::Error;

/// A URL that names no store that this program can open. Nothing was opened.
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
        "stores of the kind `{scheme}:` are not compiled in; enable the cargo feature `{feature}`"
    )]
    NotCompiledIn {
        /// The scheme of the URL.
        scheme: &'static str,
        /// The cargo feature that makes it available.
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

/// The forms of URLs, and the cargo feature that each of them needs.
const FORMS: &[(&str, &str)] = &[("sqlite", "sqlite")];

fn known() -> Vec<String> {
    FORMS
        .iter()
        .map(|(scheme, _)| format!("{scheme}:…"))
        .collect()
}

/// The store that a URL names, in the namespace `locker`. Nothing is opened yet.
///
/// | URL | store | cargo feature |
/// | --- | --- | --- |
/// | `sqlite:PATH` | one SQLite file, many processes of one machine | `sqlite` |
///
/// # Errors
///
/// [`ConnectError`] when the URL names no store that is compiled in.
pub fn connect(url: &str) -> Result<Arc<dyn Connect>, ConnectError> {
    connect_in(url, "locker")
}

/// The store that a URL names, in another namespace: the locks of two namespaces never meet.
///
/// # Errors
///
/// As [`connect`].
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
    open(scheme, rest, namespace).ok_or(ConnectError::NotCompiledIn { scheme, feature })?
}

/// `None` if the store is not compiled in.
#[cfg_attr(
    not(feature = "sqlite"),
    expect(unused_variables, reason = "no store is compiled in")
)]
fn open(
    scheme: &str,
    rest: &str,
    namespace: &str,
) -> Option<Result<Arc<dyn Connect>, ConnectError>> {
    match scheme {
        #[cfg(feature = "sqlite")]
        "sqlite" => {
            // Both the plain form and the one with an empty authority are in use.
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                let text = "`sqlite:` wants the path of a file";
                return Some(Err(ConnectError::Store(BackendError::new(
                    locker_core::ErrorKind::Config,
                    locker_core::Effect::NotApplied,
                    text,
                ))));
            }
            Some(Ok(Arc::new(
                locker_sqlite::Sqlite::new(path).namespace(namespace),
            )))
        }
        _ => None,
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

    #[cfg(not(feature = "sqlite"))]
    #[test]
    fn a_store_that_is_not_compiled_in_names_its_feature() {
        let error = connect("sqlite:/tmp/x.db").unwrap_err().to_string();
        assert!(error.contains("cargo feature `sqlite`"), "{error}");
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
