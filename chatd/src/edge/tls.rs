//! Certificates: read from files and read again while the node runs, or, with
//! `--dev`, made once under the data directory.
//!
//! One resolver serves TCP and QUIC, so both change together and no open connection
//! is touched. A new pair that does not fit leaves the old one in place.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{
    descriptors,
    folder::{Folder, FolderError},
};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);
/// A chain longer than this cannot be sent before a QUIC client's address is known
/// to be its own: three times its first packet.
const CHAIN_BYTES: usize = 3_600;
/// Bytes of one file at most.
const FILE_BYTES: u64 = 1024 * 1024;
/// The protocol of QUIC connections.
pub const ALPN: &[u8] = b"chat/1";

/// Where the certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: String,
    },
    /// The two do not belong together, or are of a type that is not supported.
    #[error("the certificate {certificate} and the key {key} cannot be used together: {error}")]
    Pair {
        /// The chain.
        certificate: String,
        /// The key.
        key: String,
        /// Why.
        error: String,
    },
    /// None could be made.
    #[error("a certificate for --dev cannot be made: {0}")]
    Make(String),
}

/// The certificate in use.
#[derive(Debug)]
pub struct Certificate {
    files: Files,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] if they cannot be read or do not belong together.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let pair = read(&files)?;
        let chain: usize = pair.cert.iter().map(|certificate| certificate.len()).sum();
        if chain > CHAIN_BYTES {
            tracing::warn!(
                bytes = chain,
                "the certificate chain is long: QUIC handshakes take a round trip more"
            );
        }
        Ok(Self {
            files,
            current: ArcSwap::from_pointee(pair),
        })
    }

    /// Reads the files again. True if the certificate changed.
    ///
    /// # Errors
    /// [`TlsError`]; the old certificate then stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let pair = read(&self.files)?;
        if pair.cert == self.current.load().cert {
            return Ok(false);
        }
        self.current.store(Arc::new(pair));
        Ok(true)
    }

    /// Looks at the files for ever.
    pub async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        let mut last_error = String::new();
        loop {
            ticks.tick().await;
            match self.reload() {
                Ok(true) => tracing::info!("a new certificate is in use"),
                Ok(false) => last_error.clear(),
                Err(error) => {
                    let error = error.to_string();
                    if error != last_error {
                        tracing::warn!(error, "the old certificate stays in use");
                        last_error = error;
                    }
                }
            }
        }
    }

    /// TLS for WebSockets.
    ///
    /// # Errors
    /// [`TlsError`] if the provider cannot serve TLS.
    pub fn tcp(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = self.config(rustls::DEFAULT_VERSIONS)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Two tickets are the default; a client opens one connection.
        config.send_tls13_tickets = 1;
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|e| TlsError::Make(e.to_string()))?;
        Ok(Arc::new(config))
    }

    /// TLS for QUIC.
    ///
    /// # Errors
    /// [`TlsError`] if the provider cannot serve QUIC.
    pub fn quic(self: &Arc<Self>) -> Result<quinn::crypto::rustls::QuicServerConfig, TlsError> {
        let mut config = self.config(&[&rustls::version::TLS13])?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No early data yet: a replay must not replace a session.
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 1;
        quinn::crypto::rustls::QuicServerConfig::try_from(config)
            .map_err(|error| TlsError::Make(error.to_string()))
    }

    fn config(
        self: &Arc<Self>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ServerConfig, TlsError> {
        Ok(ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::Make(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as _))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// The one provider of cryptography in this process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read(files: &Files) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&bytes(&files.certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| file_error(&files.certificate, error))?;
    if chain.is_empty() {
        return Err(file_error(
            &files.certificate,
            "there is no CERTIFICATE in it",
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?)
        .map_err(|error| file_error(&files.key, error))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Pair {
        certificate: files.certificate.display().to_string(),
        key: files.key.display().to_string(),
        error: error.to_string(),
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    let length = fs::metadata(path)
        .map_err(|error| file_error(path, error))?
        .len();
    if length > FILE_BYTES {
        return Err(file_error(path, "it is too long for a certificate"));
    }
    descriptors::retry(|| fs::read(path)).map_err(|error| file_error(path, error))
}

fn file_error(path: &Path, error: impl std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.display().to_string(),
        error: error.to_string(),
    }
}

/// The certificate of `--dev`: for this machine's names, signed by itself, made once.
/// Clients trust `<data>/tls/cert.pem`.
///
/// # Errors
/// [`TlsError`] if it cannot be made or written.
pub fn dev_files(data: &Folder) -> Result<Files, TlsError> {
    const CERTIFICATE: &str = "cert.pem";
    const KEY: &str = "key.pem";
    let folder = data.folder("tls").map_err(of_folder)?;
    let files = Files {
        certificate: folder.path().join(CERTIFICATE),
        key: folder.path().join(KEY),
    };
    let is_there = |name| folder.read(name, FILE_BYTES).map(|file| file.is_some());
    if is_there(CERTIFICATE).map_err(of_folder)? && is_there(KEY).map_err(of_folder)? {
        return Ok(files);
    }
    let make = |error: rcgen::Error| TlsError::Make(error.to_string());
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let key = rcgen::KeyPair::generate().map_err(make)?;
    let mut parameters = rcgen::CertificateParams::new(names).map_err(make)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "chatd --dev");
    let certificate = parameters.self_signed(&key).map_err(make)?;
    // The key first: a certificate without its key would never be replaced.
    let write = |name, text: String| folder.replace(name, text.as_bytes());
    write(KEY, key.serialize_pem()).map_err(of_folder)?;
    write(CERTIFICATE, certificate.pem()).map_err(of_folder)?;
    Ok(files)
}

fn of_folder(error: FolderError) -> TlsError {
    TlsError::Make(error.to_string())
}

#[cfg(test)]
mod tests;
