//! One server of each kind for all tests of a process, for those that keep to a namespace of their
//! own. It ends with the process.
//!
//! Where a variable of the environment names a server, that one is used, and nothing is started.

use crate::Missing;
use std::env;
use std::sync::OnceLock;

/// A server that tests share: one that this process has started, or somebody else's.
#[derive(Debug)]
pub struct Shared<S> {
    url: String,
    own: Option<S>,
}

/// Where it is kept.
pub(super) type Cell<S> = OnceLock<Result<Shared<S>, Missing>>;

impl<S> Shared<S> {
    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The servers, unless they are somebody else's. Whoever uses them shares them.
    pub fn own(&self) -> Option<&S> {
        self.own.as_ref()
    }

    /// The one that the variable names, or else one that is started by whoever comes first.
    ///
    /// # Errors
    ///
    /// [`Missing`] when it cannot be had, to everybody.
    pub(super) fn of(
        cell: &'static Cell<S>,
        variable: &str,
        url: impl Fn(&S) -> &str,
        start: impl Fn() -> Result<S, Missing>,
    ) -> Result<&'static Self, Missing> {
        let made = cell.get_or_init(|| {
            if let Some(url) = env::var(variable).ok().filter(|url| !url.is_empty()) {
                return Ok(Self { url, own: None });
            }
            let own = start()?;
            Ok(Self {
                url: url(&own).to_owned(),
                own: Some(own),
            })
        });
        made.as_ref().map_err(Clone::clone)
    }
}
