//! The URL of a store: where it is, what kind of deployment it is, and who we are there.
//!
//! The forms with several hosts are not URLs to a general parser, so the text is taken apart here.
//! No error repeats any part of a URL that may be a secret.

use crate::error;
use locker_core::BackendError;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;

/// A host and a port.
pub(crate) type Address = (String, u16);

/// An address as a server writes it: the last colon stands before the port.
pub(crate) fn address(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

/// A store, as a URL names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) deployment: Deployment,
    pub(crate) nodes: Vec<Address>,
    pub(crate) login: Login,
    pub(crate) db: i64,
    pub(crate) tls: Option<Tls>,
}

/// How the servers stand to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deployment {
    Standalone,
    /// The nodes are sentinels, who know where the server of this name is.
    Sentinel {
        master: String,
        login: Login,
    },
    Cluster,
}

/// Who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
}

/// A password, which is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Certificates, as files in PEM. What is not given is the system's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl Place {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// Of kind `Config`, with what is wrong.
    pub(crate) fn parse(url: &str) -> Result<Self, BackendError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| error::config("the URL of a Redis store has the form redis://HOST"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The rest of a password with a `/` that nobody escaped would be taken for a name, and shown.
        if path.contains('@') {
            return Err(error::config(
                "an `@` stands behind the hosts of the URL: what is special in a password is \
                 percent-encoded (`/` is %2F), and so is an `@` (%40)",
            ));
        }
        // A password may contain `@`; a host cannot.
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Login::parse(login)?, hosts),
            None => (Login::default(), authority),
        };
        let (tls, kind) = Kind::of(scheme)?;
        let options = Options::parse(query, tls, kind)?;
        let port = match kind {
            Kind::Sentinel => SENTINEL_PORT,
            Kind::Standalone | Kind::Cluster => SERVER_PORT,
        };
        let nodes = nodes(hosts, port)?;
        let (deployment, db) = match kind {
            Kind::Standalone if nodes.len() > 1 => {
                return Err(error::config(
                    "several hosts are a cluster (redis+cluster://) or sentinels \
                     (redis+sentinel://)",
                ));
            }
            Kind::Standalone => (Deployment::Standalone, db(path)?),
            Kind::Sentinel => {
                let (master, path) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(error::config(
                        "the sentinels are asked for a server by its name: \
                         redis+sentinel://HOST,HOST/NAME",
                    ));
                }
                let master = decoded(master, "the name of the server")?;
                let login = options.sentinel;
                (Deployment::Sentinel { master, login }, db(path)?)
            }
            Kind::Cluster if db(path)? != 0 => {
                return Err(error::config("a Redis Cluster has the database 0 only"));
            }
            Kind::Cluster => (Deployment::Cluster, 0),
        };
        Ok(Self {
            deployment,
            nodes,
            login,
            db,
            tls: options.tls,
        })
    }
}

/// The kind of a deployment, as a scheme names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Standalone,
    Sentinel,
    Cluster,
}

impl Kind {
    /// Also whether it is spoken to by TLS.
    fn of(scheme: &str) -> Result<(bool, Self), BackendError> {
        let (protocol, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let kind = match kind {
            "" if !scheme.contains('+') => Self::Standalone,
            "sentinel" => Self::Sentinel,
            "cluster" => Self::Cluster,
            _ => return Err(unknown_scheme(scheme)),
        };
        match protocol {
            "redis" => Ok((false, kind)),
            "rediss" => Ok((true, kind)),
            _ => Err(unknown_scheme(scheme)),
        }
    }
}

/// What stands behind the `?`.
struct Options {
    tls: Option<Tls>,
    sentinel: Login,
}

impl Options {
    fn parse(query: &str, tls: bool, kind: Kind) -> Result<Self, BackendError> {
        let mut tls = tls.then(Tls::default);
        let mut sentinel = Login::default();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = decoded(value, "an option")?;
            match (name, &mut tls) {
                ("ca", Some(tls)) => tls.ca = Some(value.into()),
                ("cert", Some(tls)) => tls.cert = Some(value.into()),
                ("key", Some(tls)) => tls.key = Some(value.into()),
                ("ca" | "cert" | "key", None) if !query.contains('@') => {
                    return Err(error::config(format!(
                        "the option `{name}` belongs to TLS; the scheme of TLS is `rediss`"
                    )));
                }
                ("sentinel_user", _) if kind == Kind::Sentinel => sentinel.user = Some(value),
                ("sentinel_password", _) if kind == Kind::Sentinel => {
                    sentinel.password = Some(Secret(value));
                }
                _ => return Err(unknown_option(name, query)),
            }
        }
        check(tls.as_ref())?;
        Ok(Self { tls, sentinel })
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, BackendError> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (text, None),
        };
        let user = decoded(user, "the user name")?;
        let password = password.map(|password| decoded(password, "the password"));
        Ok(Self {
            user: (!user.is_empty()).then_some(user),
            password: password.transpose()?.map(Secret),
        })
    }
}

fn decoded(text: &str, what: &str) -> Result<String, BackendError> {
    let text = percent_decode_str(text).decode_utf8();
    let text = text.map_err(|_| error::config(format!("{what} in the URL is not UTF-8")))?;
    Ok(text.into_owned())
}

fn nodes(hosts: &str, port: u16) -> Result<Vec<Address>, BackendError> {
    hosts.split(',').map(|host| node(host, port)).collect()
}

fn node(text: &str, default: u16) -> Result<Address, BackendError> {
    let (host, port) = match text.strip_prefix('[') {
        // An IPv6 address has colons of its own.
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| error::config("an IPv6 address in the URL ends with `]`"))?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(error::config("the host in the URL is malformed")),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(error::config("a host is missing in the URL"));
    }
    let port = match port {
        None => default,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            // Not repeated: a password with an `@` that nobody escaped may have led here.
            _ => {
                return Err(error::config(
                    "a port in the URL is not a number up to 65535",
                ));
            }
        },
    };
    Ok((host.to_owned(), port))
}

fn db(path: &str) -> Result<i64, BackendError> {
    match path.trim_end_matches('/') {
        "" => Ok(0),
        number => match number.parse() {
            Ok(number) if number >= 0 => Ok(number),
            _ => Err(error::config("the database in the URL is not a number")),
        },
    }
}

fn check(tls: Option<&Tls>) -> Result<(), BackendError> {
    let Some(tls) = tls else {
        return Ok(());
    };
    if !cfg!(feature = "tls") {
        return Err(error::config(
            "TLS is not compiled in; enable the cargo feature `tls`",
        ));
    }
    if tls.cert.is_some() != tls.key.is_some() {
        return Err(error::config(
            "a client certificate needs both options, `cert` and `key`",
        ));
    }
    Ok(())
}

fn unknown_scheme(scheme: &str) -> BackendError {
    let scheme: String = scheme.chars().take(20).collect();
    error::config(format!(
        "{scheme:?} is not a scheme of this store; these are: redis, rediss, redis+sentinel, \
         rediss+sentinel, redis+cluster, rediss+cluster"
    ))
}

fn unknown_option(name: &str, query: &str) -> BackendError {
    // A password with a `?` that nobody escaped leads here as well. It has an `@` and the host behind
    // it, and any name before that may be a piece of it.
    let is_plain = name.len() <= 20 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let name = if is_plain && !query.contains('@') {
        name
    } else {
        "this"
    };
    error::config(format!(
        "`{name}` is not an option of this URL; these are: ca, cert, key (with TLS), \
         sentinel_user, sentinel_password (with sentinels)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use locker_core::ErrorKind;

    fn place(url: &str) -> Place {
        Place::parse(url).unwrap()
    }

    #[test]
    fn every_form_is_read() {
        let plain = place("redis://db.example");
        assert_eq!(plain.deployment, Deployment::Standalone);
        assert_eq!(plain.nodes, [("db.example".to_owned(), 6379)]);
        assert_eq!((plain.db, plain.tls), (0, None));

        let full = place("redis://app:p%40ss:w%2Frd@[::1]:7000/5");
        assert_eq!(full.nodes, [("::1".to_owned(), 7000)]);
        assert_eq!(full.login.user.as_deref(), Some("app"));
        assert_eq!(full.login.password.unwrap().reveal(), "p@ss:w/rd");
        assert_eq!(full.db, 5);
        assert_eq!(place("redis://:secret@h/").login.user, None);

        let sentinel = place(
            "redis+sentinel://u:p@a,b:1,c:2/mymaster/3?sentinel_user=s&sentinel_password=t%20t",
        );
        assert_eq!(
            sentinel.nodes,
            [
                ("a".to_owned(), 26379),
                ("b".to_owned(), 1),
                ("c".to_owned(), 2)
            ]
        );
        let Deployment::Sentinel { master, login } = sentinel.deployment else {
            panic!("it is sentinels");
        };
        assert_eq!((master.as_str(), sentinel.db), ("mymaster", 3));
        assert_eq!(login.user.as_deref(), Some("s"));
        assert_eq!(login.password.unwrap().reveal(), "t t");

        let cluster = place("redis+cluster://a:7000,b:7001");
        assert_eq!(cluster.deployment, Deployment::Cluster);
        assert_eq!(cluster.nodes.len(), 2);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn certificates_are_read() {
        let tls = place("rediss://h?ca=/etc/ca.pem&cert=/c&key=/k")
            .tls
            .unwrap();
        assert_eq!(tls.ca, Some("/etc/ca.pem".into()));
        assert_eq!((tls.cert, tls.key), (Some("/c".into()), Some("/k".into())));
        assert!(place("rediss+cluster://h").tls.is_some());
        assert!(place("rediss+sentinel://h/m").tls.is_some());
        assert!(Place::parse("rediss://h?cert=/c").is_err());
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_that_is_not_compiled_in_names_its_feature() {
        for url in ["rediss://h", "rediss+cluster://h", "rediss+sentinel://h/m"] {
            let error = Place::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("feature `tls`"), "{error}");
        }
    }

    #[test]
    fn nonsense_is_a_configuration_error_that_shows_no_secret() {
        for url in [
            "",
            "redis",
            "redis:h",
            "redis://",
            "redis://:hunter2@",
            "redis://u:hunter2@h:port",
            "redis://u:hunter2@h:70000",
            "redis://u:hunter2@h:0",
            "redis://u:hunter2@h/db",
            "redis://u:hunter2@h/-1",
            "redis://u:hunter2@a,b",
            "redis://u:hunter2@[::1",
            "redis://u:hunter2@[::1]x",
            "redis://u:%ff@h",
            "redis://u:hunter2@h?protocol=3",
            "redis://u:hunter2@h?ca=/x",
            "redis://u:hunter2@h?sentinel_user=x",
            "redis+sentinel://u:hunter2@h",
            "redis+sentinel://u:hunter2@h/?sentinel_password=hunter2",
            "redis+cluster://u:hunter2@h/1",
            "redis+unknown://u:hunter2@h",
            "http://u:hunter2@h",
            "redis://u:hunter2@h:hunter2@",
            "redis://u:x/hunter2@h",
            "redis://u:1?hunter2@h",
        ] {
            let error = Place::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{url}: {shown}");
        }
    }

    /// The piece before the `@` is a name of its own when the password contains a `&` or a `=`.
    #[test]
    fn no_piece_of_a_password_that_was_not_escaped_is_taken_for_an_option_and_shown() {
        for url in [
            "redis://u:1?hunter&x@h",
            "redis://u:1?hunter=x@h",
            "redis://u:1?ca=&hunter@h",
            "rediss://u:1?hunter&x@h",
            "redis+sentinel://u:1?hunter&x@h/m",
        ] {
            let shown = format!("{:?}", Place::parse(url).unwrap_err());
            assert!(!shown.contains("hunter"), "{url}: {shown}");
        }
        let shown = Place::parse("redis://h?hunter=x").unwrap_err().to_string();
        assert!(shown.contains("`hunter`"), "without an `@` it is: {shown}");
    }

    #[test]
    fn a_place_shows_no_secret() {
        let url = "redis+sentinel://u:hunter2@h/m?sentinel_password=hunter2";
        let shown = format!("{:?}", place(url));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
