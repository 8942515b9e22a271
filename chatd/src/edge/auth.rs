//! Who is this? Tokens are JWTs signed by a key of a JWKS, or, with `--dev`,
//! `dev:<name>`.
//!
//! The library checks signatures only. What a token may be is decided here: the
//! algorithm follows from the type of the key and never from the token, and every
//! claim that counts must be there and have its type. No message, log line or metric
//! ever holds a token.
//!
//! Known limit: a token that was issued cannot be revoked before it expires; keep
//! tokens short and use REAUTH.

pub mod keys;

use std::{
    collections::HashSet,
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;
use chat_core::message::{Identity, Now};
use chat_wire::{
    error::{Code, Refusal},
    event::MAX_NAME_BYTES,
    ids::{DeviceId, UserId},
    limits::TOKEN_BYTES,
};
use jsonwebtoken::{Validation, decode, decode_header};
use serde::{Deserialize, Deserializer};
use tokio::sync::{Notify, Semaphore};

use self::keys::Keys;
use crate::{
    clock,
    metrics::{Metrics, Reason},
};

/// Logins that wait for their turn at most; one more is OVERLOADED.
const WAITING: usize = 4_096;
/// How far a token's `nbf` may be ahead of our clock, in ms.
const CLOCK_SKEW_MS: u64 = 30_000;
/// The app of tokens that name none.
const DEFAULT_APP: &str = "default";

/// What tokens are accepted.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Audiences of which a token must name one.
    pub audiences: Vec<String>,
    /// Issuers of which a token must name one; with none it need not name any.
    pub issuers: Vec<String>,
    /// Who may sign for which app. With none, every key signs for every app.
    pub signers: Vec<Signer>,
    /// `dev:<name>` is a token. Only with every listener on loopback.
    pub dev: bool,
}

/// A key or an issuer that may sign tokens of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The app; `*` stands for every one.
    pub app: String,
    /// Who signs.
    pub by: By,
}

/// Who signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The key of this name.
    Key(String),
    /// The issuer of this name, with any key.
    Issuer(String),
}

impl Signer {
    fn covers(&self, app: &str, kid: Option<&str>, issuer: Option<&str>) -> bool {
        (self.app == "*" || self.app == app)
            && match &self.by {
                By::Key(key) => kid == Some(key),
                By::Issuer(name) => issuer == Some(name),
            }
    }
}

impl FromStr for Signer {
    type Err = ();

    /// `<app>=kid:<key>` or `<app>=iss:<issuer>`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let by_key = text.split_once("=kid:");
        let by_issuer = text.split_once("=iss:");
        let (app, by) = match (by_key, by_issuer) {
            (Some((app, key)), None) if !key.is_empty() => (app, By::Key(key.into())),
            (None, Some((app, name))) if !name.is_empty() => (app, By::Issuer(name.into())),
            _ => return Err(()),
        };
        let app = Some(app).filter(|app| !app.is_empty()).ok_or(())?;
        Ok(Self {
            app: app.into(),
            by,
        })
    }
}

/// Checks tokens.
pub struct Authenticator {
    rules: Rules,
    keys: ArcSwap<Keys>,
    /// Told when a token names a key that is not known: keys may have changed.
    unknown_key: Notify,
    budget: Semaphore,
    waiting: AtomicUsize,
    metrics: std::sync::Arc<Metrics>,
}

/// The claims that count. Others are ignored.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    aud: Audience,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    iss: Option<String>,
    #[serde(default, deserialize_with = "given")]
    app: Option<String>,
    #[serde(default, deserialize_with = "given")]
    device: Option<DeviceClaim>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// A number, or its digits: not every JSON library keeps 64 bits.
#[derive(Deserialize)]
#[serde(untagged)]
enum DeviceClaim {
    Number(u64),
    Digits(String),
}

/// An optional claim that is there must have its type: `null` has none.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(claim: D) -> Result<Option<T>, D::Error> {
    T::deserialize(claim).map(Some)
}

impl Authenticator {
    /// An authenticator that checks `budget` tokens at once.
    #[must_use]
    pub fn new(rules: Rules, keys: Keys, budget: usize, metrics: std::sync::Arc<Metrics>) -> Self {
        Self {
            rules,
            keys: ArcSwap::from_pointee(keys),
            unknown_key: Notify::new(),
            budget: Semaphore::new(budget.max(1)),
            waiting: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Checks a token when its turn comes.
    ///
    /// # Errors
    /// [`Refusal`] for the client.
    pub async fn login(&self, token: String) -> Result<Identity, Refusal> {
        let result = self.login_in_turn(&token).await;
        let reason = result
            .as_ref()
            .map_or_else(|refusal| refusal.code.name(), |_| "accepted");
        self.metrics.logins.get_or_create(&Reason { reason }).inc();
        result
    }

    async fn login_in_turn(&self, token: &str) -> Result<Identity, Refusal> {
        // Fewer turns than workers: a storm of logins leaves one for messages.
        let _waiting = Waiting::enter(&self.waiting)?;
        let _turn = self
            .budget
            .acquire()
            .await
            .expect("the budget is never closed");
        self.check(token, clock::now())
    }

    /// Checks a token now.
    ///
    /// # Errors
    /// [`Refusal`] for the client.
    pub fn check(&self, token: &str, now: Now) -> Result<Identity, Refusal> {
        if token.len() > TOKEN_BYTES {
            return bad(format!("a token of more than {TOKEN_BYTES} bytes"));
        }
        if let Some(name) = token.strip_prefix("dev:") {
            if !self.rules.dev {
                return bad("dev: tokens are accepted by chatd --dev only");
            }
            let (name, app) = name.rsplit_once('@').unwrap_or((name, DEFAULT_APP));
            return identity(app, name, None, u64::MAX);
        }
        self.check_jwt(token, now)
    }

    /// Takes new keys; sessions that are open go on until their tokens expire.
    pub fn replace_keys(&self, keys: Keys) {
        self.keys.store(std::sync::Arc::new(keys));
    }

    /// Waits until a token names a key that is not known.
    pub async fn key_is_missing(&self) {
        self.unknown_key.notified().await;
    }

    fn check_jwt(&self, token: &str, now: Now) -> Result<Identity, Refusal> {
        let (claims, kid) = self.verified(token)?;
        let app = claims.app.as_deref().unwrap_or(DEFAULT_APP);
        self.check_signer(app, kid.as_deref(), claims.iss.as_deref())?;
        let audiences = match claims.aud {
            Audience::One(one) => vec![one],
            Audience::Many(many) => many,
        };
        if !audiences
            .iter()
            .any(|audience| self.rules.audiences.contains(audience))
        {
            return Err(Refusal::new(
                Code::WrongAudience,
                "the token is for another audience: get one for this server",
            ));
        }
        let expires_ms = claims
            .exp
            .checked_mul(1000)
            .filter(|ms| *ms < u64::MAX / 2)
            .ok_or_else(|| refusal("the claim exp is no time"))?;
        if expires_ms <= now.unix_ms {
            return Err(Refusal::new(
                Code::TokenExpired,
                "the token's time is over: get a new one",
            ));
        }
        if claims
            .nbf
            .is_some_and(|nbf| nbf.saturating_mul(1000) > now.unix_ms.saturating_add(CLOCK_SKEW_MS))
        {
            return bad("the token is not valid yet: compare the clocks");
        }
        let device = claims.device.map(device).transpose()?;
        identity(app, &claims.sub, device, expires_ms)
    }

    /// Whether this issuer counts, and whether it or its key may speak for this app: a
    /// key of one app must not make users of another.
    fn check_signer(
        &self,
        app: &str,
        kid: Option<&str>,
        issuer: Option<&str>,
    ) -> Result<(), Refusal> {
        let issuers = &self.rules.issuers;
        if !issuers.is_empty() && !issuers.iter().any(|name| Some(&**name) == issuer) {
            return bad("the token is of an issuer that does not count here");
        }
        let signers = &self.rules.signers;
        if !signers.is_empty() && !signers.iter().any(|signer| signer.covers(app, kid, issuer)) {
            return bad("the token's key or issuer may not sign for its app");
        }
        Ok(())
    }

    /// The claims, if one of our keys signed them, and the name of that key.
    fn verified(&self, token: &str) -> Result<(Claims, Option<String>), Refusal> {
        let header = decode_header(token)
            .map_err(|_| refusal("the token is no JWT signed with EdDSA, ES256 or RS256"))?;
        if header.crit.is_some() {
            return bad("the token has critical headers that are not known here");
        }
        if header
            .kid
            .as_ref()
            .is_some_and(|kid| kid.len() > keys::KID_BYTES)
        {
            return bad("the token names a key that is not known");
        }
        let keys = self.keys.load();
        if keys.is_empty() && !self.rules.dev {
            let later = "the keys that sign tokens could not be fetched yet: try again";
            return Err(Refusal::new(Code::Unavailable, later));
        }
        let mut candidates = keys
            .candidates(header.kid.as_deref(), header.alg)
            .peekable();
        if candidates.peek().is_none() {
            self.unknown_key.notify_one();
            return bad("the token is not signed with a key that is known here");
        }
        for key in candidates {
            let mut validation = Validation::new(key.algorithm);
            // Claims are checked above, typed, against our clock.
            validation.validate_exp = false;
            validation.validate_nbf = false;
            validation.validate_aud = false;
            validation.required_spec_claims = HashSet::new();
            match decode::<Claims>(token, &key.key, &validation) {
                Ok(data) => return Ok((data.claims, key.kid.clone())),
                Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::Json(_)) => {
                    return bad(
                        "the token's claims sub, exp and aud must be there, and iss, app, device \
                         and nbf must have their type",
                    );
                }
                Err(_) => {}
            }
        }
        bad("the token's signature is wrong")
    }
}

/// Who a checked token names.
fn identity(
    app: &str,
    name: &str,
    device: Option<DeviceId>,
    expires_ms: u64,
) -> Result<Identity, Refusal> {
    for (what, text) in [("sub", name), ("app", app)] {
        if text.is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
            return bad(format!(
                "the token's {what} must have 1 to {MAX_NAME_BYTES} bytes and no control characters"
            ));
        }
    }
    Ok(Identity {
        app: app.into(),
        name: name.into(),
        user: UserId::of(app, name),
        device,
        expires_ms,
    })
}

fn device(claim: DeviceClaim) -> Result<DeviceId, Refusal> {
    let number = match claim {
        DeviceClaim::Number(number) => Some(number),
        DeviceClaim::Digits(digits) => digits.parse().ok(),
    };
    number
        .filter(|number| *number != 0)
        .map(DeviceId)
        .ok_or_else(|| refusal("the claim device must be a number of 64 bits and not 0"))
}

fn refusal(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadToken, message)
}

fn bad<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(refusal(message))
}

/// One of the logins that wait, or are carried out.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Result<Self, Refusal> {
        if count.fetch_add(1, Ordering::Relaxed) >= WAITING {
            count.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal {
                code: Code::Overloaded,
                message: "too many logins at once: try again".into(),
                retry_after_ms: Some(2_000),
            });
        }
        Ok(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
