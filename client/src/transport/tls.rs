//! Which certificates are trusted, as rustls wants it. One provider, aws-lc-rs.

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{ConnectError, Trust, error::TransportError};

/// Configurations for both transports, made once.
pub(super) struct Tls {
    tcp: Result<Arc<ClientConfig>, String>,
    quic: Result<quinn::ClientConfig, String>,
}

impl Tls {
    /// Certificates of the operating system that are missing are an error only when TLS is used.
    pub(super) fn new(trust: &Trust) -> Result<Self, ConnectError> {
        let roots = match trust {
            Trust::System => system_roots(),
            Trust::CaFile(path) => Ok(file_roots(path).map_err(ConnectError::Trust)?),
        };
        let tcp = roots.and_then(|roots| {
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())
                .map(|builder| builder.with_root_certificates(roots).with_no_client_auth())
        });
        let quic = tcp.clone().and_then(|mut config| {
            config.alpn_protocols = vec![b"chat/1".to_vec()];
            let crypto = QuicClientConfig::try_from(config).map_err(|error| error.to_string())?;
            let mut config = quinn::ClientConfig::new(Arc::new(crypto));
            config.transport_config(Arc::new(super::quic::transport_config()));
            Ok(config)
        });
        Ok(Self {
            tcp: tcp.map(Arc::new),
            quic,
        })
    }

    pub(super) fn tcp(&self) -> Result<Arc<ClientConfig>, TransportError> {
        self.tcp.clone().map_err(TransportError::Protocol)
    }

    pub(super) fn quic(&self) -> Result<quinn::ClientConfig, TransportError> {
        self.quic.clone().map_err(TransportError::Protocol)
    }
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(
            "this system has no certificate authorities: install ca-certificates, or name a file"
                .to_owned(),
        );
    }
    Ok(roots)
}

fn file_roots(path: &std::path::Path) -> Result<RootCertStore, String> {
    let wrong = |reason: String| format!("{}: {reason}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?
    {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    Ok(roots)
}
