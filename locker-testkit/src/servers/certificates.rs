//! An authority that one test makes for itself, with a certificate for its server and one for its
//! clients. Nothing in the system trusts it.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use std::io;
use std::path::{Path, PathBuf};

/// The names under which a server of a test is reached.
pub const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Certificates and keys, as PEM text. Servers that belong together share one value.
#[derive(Debug, Clone)]
pub struct Certificates {
    authority: String,
    server: Pair,
    client: Pair,
}

#[derive(Debug, Clone)]
struct Pair {
    certificate: String,
    key: String,
}

/// Where they lie as files, for a server's configuration and for URLs.
#[derive(Debug, Clone)]
pub struct Files {
    /// The authority's certificate: what a client trusts.
    pub authority: PathBuf,
    /// The server's certificate.
    pub server: PathBuf,
    /// The server's key.
    pub server_key: PathBuf,
    /// The client's certificate, where the server asks for one.
    pub client: PathBuf,
    /// The client's key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// A new authority, and certificates for a server with these names and for a client with this
    /// one.
    ///
    /// # Errors
    ///
    /// When a name cannot stand in a certificate.
    pub fn new(server: &[&str], client: &str) -> io::Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of tests");
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let authority = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        Ok(Self {
            server: Pair::signed(&authority, server)?,
            client: Pair::signed(&authority, &[client])?,
            authority: authority.pem(),
        })
    }

    /// Writes them into this folder.
    pub fn write_to(&self, folder: &Path) -> io::Result<Files> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            Ok::<_, io::Error>(path)
        };
        Ok(Files {
            authority: write("ca.pem", &self.authority)?,
            server: write("server.pem", &self.server.certificate)?,
            server_key: write("server.key", &self.server.key)?,
            client: write("client.pem", &self.client.certificate)?,
            client_key: write("client.key", &self.client.key)?,
        })
    }
}

impl Pair {
    fn signed(authority: &CertifiedIssuer<'_, KeyPair>, names: &[&str]) -> io::Result<Self> {
        let texts: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(texts).map_err(io::Error::other)?;
        if let Some(&name) = names.first() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Both: the nodes of a cluster are each other's clients with the same certificate.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params
            .signed_by(&key, authority)
            .map_err(io::Error::other)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}
