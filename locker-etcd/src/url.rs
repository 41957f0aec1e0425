//! The address of an etcd: what one writes, and what it means. It holds secrets, so its `Debug` is
//! written by hand.

use crate::error;
use locker_core::BackendError;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;

/// Where the members are, and who asks.
#[derive(Clone, Default)]
pub(crate) struct Address {
    /// Hosts and ports; at least one.
    pub(crate) members: Vec<Member>,
    pub(crate) credentials: Option<Credentials>,
    /// TLS, and what it needs; `None` is plain text.
    pub(crate) tls: Option<Tls>,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// A name or an address; an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A user of etcd's own.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The files of TLS, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Who vouches for the members; without it, the roots of this machine do.
    pub(crate) ca: Option<PathBuf>,
    /// The client's own certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Where etcd listens unless told otherwise.
const DEFAULT_PORT: u16 = 2379;

impl Address {
    /// Reads `etcd://` or `etcds://`, then `[user:password@]host[:port][,host[:port]…]`, then
    /// `[?ca=FILE][&cert=FILE&key=FILE]`.
    ///
    /// # Errors
    ///
    /// `Config`. No error repeats the address: it may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, BackendError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| error::config("an address of etcd begins with etcd:// or etcds://"))?;
        let secure = match scheme {
            "etcd" => false,
            "etcds" => true,
            _ => {
                return Err(error::config(
                    "an address of etcd begins with etcd://, or with etcds:// for TLS",
                ));
            }
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let place = place.strip_suffix('/').unwrap_or(place);
        // A password may hold an `@` that was not escaped; a host never does.
        let (credentials, hosts) = match place.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(Credentials::parse(credentials)?), hosts),
            None => (None, place),
        };
        if hosts.contains('/') {
            return Err(error::config(
                "an address of etcd has no path; the namespace is an option of its own",
            ));
        }
        let members = hosts
            .split(',')
            .map(Member::parse)
            .collect::<Result<Vec<_>, _>>()?;
        let files = Tls::parse(query)?;
        let tls = match (secure, files) {
            (true, files) => Some(files),
            (false, files) if files == Tls::default() => None,
            (false, _) => {
                return Err(error::config(
                    "certificates are for etcds://, and this address is etcd://",
                ));
            }
        };
        Ok(Self {
            members,
            credentials,
            tls,
        })
    }
}

impl Member {
    fn parse(text: &str) -> Result<Self, BackendError> {
        let wrong = || error::config("a member of etcd is written host:port");
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) = bracketed.split_once(']').ok_or_else(wrong)?;
                match port {
                    "" => (host, None),
                    port => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(wrong());
        }
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(wrong)?,
            None => DEFAULT_PORT,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// As a socket address is written.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Credentials {
    fn parse(text: &str) -> Result<Self, BackendError> {
        let wrong = || {
            error::config(
                "user and password of etcd are written user:password@, percent-encoded where need be",
            )
        };
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        let decode = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(String::from).map_err(|_| wrong())
        };
        let credentials = Self {
            user: decode(user)?,
            password: decode(password)?,
        };
        if credentials.user.is_empty() {
            return Err(wrong());
        }
        Ok(credentials)
    }
}

impl Tls {
    fn parse(query: &str) -> Result<Self, BackendError> {
        let (mut ca, mut cert, mut key) = (None, None, None);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let place = match name {
                "ca" => &mut ca,
                "cert" => &mut cert,
                "key" => &mut key,
                _ => {
                    return Err(error::config(
                        "an address of etcd knows the options ca, cert and key",
                    ));
                }
            };
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| error::config("an option of the address of etcd is no text"))?;
            *place = Some(PathBuf::from(&*value));
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                return Err(error::config(
                    "a client certificate of etcd is two options: cert and key",
                ));
            }
        };
        Ok(Self { ca, identity })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("members", &self.members)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .finish()
    }
}

/// Who, and never by what password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use locker_core::ErrorKind;

    fn member(host: &str, port: u16) -> Member {
        Member {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn an_address_has_members_and_may_have_a_user() {
        let address = Address::parse("etcd://a:1,b,[::1]:3").unwrap();
        assert_eq!(
            address.members,
            [member("a", 1), member("b", 2379), member("::1", 3)]
        );
        assert_eq!(address.members[2].authority(), "[::1]:3");
        assert_eq!(address.credentials, None);
        assert_eq!(address.tls, None);

        let address = Address::parse("etcd://me:p%40ss%2F:@w@h/").unwrap();
        let credentials = address.credentials.unwrap();
        assert_eq!(credentials.user, "me");
        assert_eq!(credentials.password, "p@ss/:@w");
        assert_eq!(address.members, [member("h", 2379)]);
    }

    #[test]
    fn tls_is_a_scheme_and_its_files_are_options() {
        let plain = Address::parse("etcds://h").unwrap();
        assert_eq!(plain.tls, Some(Tls::default()));
        let full = Address::parse("etcds://h?ca=/a%20b/ca.pem&cert=c.pem&key=k.pem").unwrap();
        let tls = full.tls.unwrap();
        assert_eq!(tls.ca, Some(PathBuf::from("/a b/ca.pem")));
        assert_eq!(tls.identity, Some(("c.pem".into(), "k.pem".into())));
    }

    #[test]
    fn what_is_no_address_is_refused_and_no_secret_is_told() {
        for url in [
            "",
            "etcd",
            "http://h",
            "etcd://",
            "etcd://h:0",
            "etcd://h:65536",
            "etcd://h:x",
            "etcd://h/locker",
            "etcd://a,,b",
            "etcd://[::1",
            "etcd://u@h",
            "etcd://:secret@h",
            "etcd://u:secret@h?ca=x",
            "etcds://u:secret@h?cert=x",
            "etcds://u:secret@h?pasword=secret",
            "etcd://u:secret%FF@h",
            "etcd://u:secret@ho st",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(!format!("{error:?}").contains("secret"), "{url}: {error:?}");
        }
    }

    #[test]
    fn debug_tells_the_user_and_no_password() {
        let address = Address::parse("etcd://me:secret@h").unwrap();
        let shown = format!("{address:?} {:?}", address.credentials);
        assert!(shown.contains("me") && !shown.contains("secret"), "{shown}");
    }
}
