//! The URL of a store: what [`PgConnectOptions`] reads, and what is the locker's own.
//!
//! No error and no log repeats any part of a URL that may be a secret.

use crate::error;
use locker_core::BackendError;
use percent_encoding::percent_decode_str;
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;

/// A URL, taken apart.
pub(crate) struct Parsed<'u> {
    pub(crate) options: PgConnectOptions,
    own: Vec<(&'u str, &'u str)>,
}

impl Parsed<'_> {
    /// What one of the locker's own parameters says.
    pub(crate) fn own(&self, name: &str) -> Option<&str> {
        self.own
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, word)| *word)
    }
}

/// # Errors
///
/// `Config`, with what is wrong.
pub(crate) fn parse(url: &str) -> Result<Parsed<'_>, BackendError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(error::config("the URL does not begin with postgres://"));
    }
    if has_misplaced_at(url) {
        return Err(error::config(
            "an `@` stands behind the host of the URL: what is special in a password is \
                 percent-encoded (`/` is %2F, `?` is %3F, `#` is %23), and so is an `@` (%40)",
        ));
    }
    refuse_unknown_parameters(url)?;
    let (theirs, own) = parameters(url);
    // The cause is not kept: it may quote the URL, and with it a password.
    let options = PgConnectOptions::from_str(&theirs)
        .map_err(|_| error::config("the text is no URL of a Postgres server"))?;
    Ok(Parsed { options, own })
}

/// Whether an `@` stands where none belongs. Then a character of the password was not escaped, and the
/// rest of it would be taken for a database or for a parameter, and be shown as such.
fn has_misplaced_at(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let behind = rest.find(['/', '?', '#']).map_or("", |end| &rest[end..]);
    let (path, query) = behind.split_once('?').unwrap_or((behind, ""));
    let mut names = query.split('&').filter_map(|word| word.split('=').next());
    path.contains('@') || names.any(|name| name.contains('@'))
}

/// The parameters of [`PgConnectOptions`] besides `options[…]`.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// The locker's own.
const OWN: &[&str] = &["crash_detection", "grace", "between"];

/// The client writes a parameter that it does not know to the log, *with its value*, and goes on. A
/// password under a wrong name would be there for all to read.
fn refuse_unknown_parameters(url: &str) -> Result<(), BackendError> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let raw = pair.split_once('=').map_or(pair, |(name, _)| name);
        let name = percent_decode_str(raw).decode_utf8_lossy();
        let is_option = name.starts_with("options[") && name.ends_with(']');
        if is_option || PARAMETERS.contains(&&*name) {
            continue;
        }
        if OWN.contains(&&*name) {
            // The client would get it, and not know it.
            if raw != name || !pair.contains('=') {
                return Err(error::config(format!(
                    "the parameter `{name}` of the URL is written as `{name}=` and its value"
                )));
            }
            continue;
        }
        // With an `@` behind it, or a password before it, it may be a piece of one.
        if query.contains('@') || query.contains("password=") || !pair.contains('=') {
            return Err(error::config(
                "the URL has a parameter that is not known; if it is a piece of the password: what \
                 is special there is percent-encoded (`?` is %3F, `&` is %26), and so is an `@` (%40)",
            ));
        }
        let shown: String = name.chars().take(40).collect();
        return Err(error::config(format!(
            "the parameter `{}` of the URL is not known",
            shown.escape_debug()
        )));
    }
    Ok(())
}

/// The URL without the locker's own parameters, and these.
fn parameters(url: &str) -> (String, Vec<(&str, &str)>) {
    let Some((before, after)) = url.split_once('?') else {
        return (url.to_owned(), Vec::new());
    };
    let pairs = after.split('&').map(|pair| (pair, pair.split_once('=')));
    let is_own = |name: &str| OWN.contains(&name);
    let (own, others): (Vec<_>, Vec<_>) =
        pairs.partition(|(_, pair)| pair.is_some_and(|(name, _)| is_own(name)));
    let others: Vec<&str> = others.into_iter().map(|(text, _)| text).collect();
    let own = own.into_iter().filter_map(|(_, pair)| pair).collect();
    (format!("{before}?{}", others.join("&")), own)
}
