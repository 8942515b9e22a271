//! The keys that sign tokens: a JWKS from a file or an HTTPS address, read again
//! while the node runs.
//!
//! The type of a key decides its one algorithm: Ed25519 → EdDSA, P-256 → ES256,
//! RSA of at least 2,048 bits → RS256. Every other key is left out and said so; a
//! symmetric key in a public set could otherwise be used to forge tokens. A new set
//! that cannot be read leaves the old one in place.

use std::{io, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::Authenticator;
use crate::descriptors;

/// Bytes of a JWKS at most.
const SET_BYTES: usize = 256 * 1024;
/// Keys of a JWKS at most.
const SET_KEYS: usize = 64;
/// Bytes of a key's name at most.
pub(super) const KID_BYTES: usize = 256;
/// Bits of an RSA modulus at least.
const RSA_BITS: usize = 2_048;
/// How long an answer may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a file is looked at.
const FILE_EVERY: Duration = Duration::from_secs(2);
/// Between two fetches because of an unknown key.
const FETCH_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// A set of keys.
#[derive(Default)]
pub struct Keys(Vec<Key>);

pub(super) struct Key {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file on this machine.
    File(std::path::PathBuf),
    /// An address.
    Url {
        /// `https://…`; `http://` only to loopback.
        url: String,
        /// A file of certificates that are trusted instead of the system's.
        ca_file: Option<std::path::PathBuf>,
        /// How often it is asked.
        every: Duration,
    },
}

/// Why keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the key set {path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The address does not answer as it should.
    #[error("cannot fetch the key set: {0}")]
    Fetch(String),
    /// It is no JWKS, or has no key that can be used.
    #[error("the key set cannot be used: {0}")]
    Set(String),
}

impl Keys {
    /// Reads a JWKS.
    ///
    /// # Errors
    /// [`KeysError::Set`] if nothing in it can be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeysError> {
        if bytes.len() > SET_BYTES {
            return Err(KeysError::Set(format!(
                "it is longer than {SET_BYTES} bytes"
            )));
        }
        let set: JwkSet = serde_json::from_slice(bytes)
            .map_err(|error| KeysError::Set(format!("it is no JWKS: {error}")))?;
        if set.keys.len() > SET_KEYS {
            return Err(KeysError::Set(format!("it has more than {SET_KEYS} keys")));
        }
        let mut keys = Vec::new();
        for (at, jwk) in set.keys.iter().enumerate() {
            match key(jwk) {
                Ok(key) => keys.push(key),
                Err(why) => tracing::warn!(key = at, why, "a key of the JWKS is left out"),
            }
        }
        if keys.is_empty() {
            return Err(KeysError::Set(
                "it has no Ed25519, P-256 or RSA key for signatures".into(),
            ));
        }
        Ok(Self(keys))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that may have signed a token with this header.
    pub(super) fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        self.0
            .iter()
            .filter(move |key| key.algorithm == algorithm)
            .filter(move |key| kid.is_none() || key.kid.as_deref() == kid)
    }
}

fn key(jwk: &Jwk) -> Result<Key, &'static str> {
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return Err("its use is not sig");
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::RSA(rsa) => {
            let modulus = URL_SAFE_NO_PAD
                .decode(&rsa.n)
                .map_err(|_| "its modulus is no base64")?;
            let leading = modulus.iter().take_while(|byte| **byte == 0).count();
            if (modulus.len() - leading) * 8 < RSA_BITS {
                return Err("an RSA key of less than 2,048 bits");
            }
            Algorithm::RS256
        }
        AlgorithmParameters::OctetKey(_) => return Err("a symmetric key"),
        _ => return Err("a type of key that is not used here"),
    };
    if jwk
        .common
        .key_algorithm
        .is_some_and(|named| named != algorithm.into())
    {
        return Err("its alg does not belong to its type");
    }
    let kid = jwk.common.key_id.clone();
    if kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES) {
        return Err("its kid is too long");
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "its numbers cannot be read")?;
    Ok(Key {
        kid,
        algorithm,
        key,
    })
}

/// Reads the file of keys.
///
/// # Errors
/// [`KeysError`] if it cannot be read or used.
pub fn read_file(path: &Path) -> Result<Keys, KeysError> {
    Keys::parse(&read_bytes(path)?)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, KeysError> {
    use io::Read as _;
    let failed = |error| KeysError::File {
        path: path.display().to_string(),
        error,
    };
    let file = descriptors::retry(|| std::fs::File::open(path)).map_err(failed)?;
    let mut bytes = Vec::new();
    // One byte more than allowed shows that there is more.
    file.take(SET_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

/// Keeps the keys of a running node fresh, for ever.
pub async fn follow(authenticator: Arc<Authenticator>, source: Source) {
    match source {
        Source::File(path) => follow_file(&authenticator, &path).await,
        Source::Url {
            url,
            ca_file,
            every,
        } => {
            match Fetcher::new(&url, ca_file.as_deref()) {
                Ok(fetcher) => follow_url(&authenticator, &fetcher, every).await,
                // Settings were checked before; this cannot get better by itself.
                Err(error) => tracing::error!(%error, "the keys cannot be followed"),
            }
        }
    }
}

async fn follow_file(authenticator: &Authenticator, path: &Path) {
    let mut known = read_bytes(path).unwrap_or_default();
    let mut ticks = tokio::time::interval(FILE_EVERY);
    loop {
        ticks.tick().await;
        // A file on the system's cache: shorter than a task switch.
        let read = read_bytes(path);
        match read {
            Ok(bytes) if bytes == known => {}
            Ok(bytes) => {
                known = bytes;
                match Keys::parse(&known) {
                    Ok(keys) => {
                        authenticator.replace_keys(keys);
                        tracing::info!(path = %path.display(), "read new keys for tokens");
                    }
                    Err(error) => tracing::warn!(%error, "the old keys stay in use"),
                }
            }
            Err(error) if !known.is_empty() => {
                known = Vec::new();
                tracing::warn!(%error, "the old keys stay in use");
            }
            Err(_) => {}
        }
    }
}

async fn follow_url(authenticator: &Authenticator, fetcher: &Fetcher, every: Duration) {
    loop {
        match fetcher.fetch().await {
            Ok(keys) => {
                authenticator.replace_keys(keys);
                tracing::debug!("fetched the keys for tokens");
            }
            Err(error) => tracing::warn!(%error, "the old keys stay in use"),
        }
        let asked = async {
            tokio::time::sleep(FETCH_AT_MOST_EVERY).await;
            authenticator.key_is_missing().await;
        };
        // An unknown key or the interval, whichever is first.
        drop(tokio::time::timeout(every, asked).await);
    }
}

/// Asks one address for a JWKS: no redirects, bounded time and bytes.
pub struct Fetcher {
    uri: hyper::Uri,
    client: Client<
        hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>,
        Empty<Bytes>,
    >,
}

impl Fetcher {
    /// Prepares to ask `url`.
    ///
    /// # Errors
    /// [`KeysError::Fetch`] if the address or the trusted certificates are no good.
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, KeysError> {
        let uri: hyper::Uri = url
            .parse()
            .map_err(|error| KeysError::Fetch(format!("{url}: {error}")))?;
        let host = uri.host().unwrap_or_default();
        let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        if !(uri.scheme_str() == Some("https") || uri.scheme_str() == Some("http") && local) {
            return Err(KeysError::Fetch(format!(
                "{url}: only https:// is used, so that nobody can put in other keys"
            )));
        }
        let tls = client_tls(ca_file)?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            uri,
            client: Client::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// Asks once.
    ///
    /// # Errors
    /// [`KeysError`] if the answer is not a usable JWKS.
    pub async fn fetch(&self) -> Result<Keys, KeysError> {
        let failed = |why: String| KeysError::Fetch(format!("{}: {why}", self.uri));
        let ask = async {
            let response = self
                .client
                .get(self.uri.clone())
                .await
                .map_err(|error| failed(format!("{error}")))?;
            if response.status() != hyper::StatusCode::OK {
                return Err(failed(format!(
                    "it answered {} and not 200; redirects are not followed",
                    response.status()
                )));
            }
            let body = Limited::new(response.into_body(), SET_BYTES)
                .collect()
                .await
                .map_err(|error| failed(format!("{error}")))?;
            Keys::parse(&body.to_bytes())
        };
        tokio::time::timeout(FETCH_TIMEOUT, ask)
            .await
            .map_err(|_| failed(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())))?
    }
}

fn client_tls(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, KeysError> {
    let failed = |why: String| KeysError::Fetch(why);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?;
    let Some(path) = ca_file else {
        use hyper_rustls::ConfigBuilderExt as _;
        let builder = builder.with_native_roots().map_err(|error| {
            failed(format!(
                "the system's trusted certificates cannot be read: {error}"
            ))
        })?;
        return Ok(builder.with_no_client_auth());
    };
    let unreadable = |error| failed(format!("cannot read {}: {error}", path.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))? {
        roots
            .add(certificate.map_err(|e| unreadable(e.to_string()))?)
            .map_err(|error| unreadable(error.to_string()))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
