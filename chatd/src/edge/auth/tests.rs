use super::*;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use std::sync::Arc;

const NOW: Now = Now {
    mono_ms: 0,
    unix_ms: 1_800_000_000_000,
};
const LATER: u64 = 1_800_000_600;

/// A signer, and the JWKS that names it.
struct Signer {
    kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Jwk,
}

fn named(mut jwk: Jwk, kid: &'static str) -> Jwk {
    jwk.common.key_id = Some(kid.into());
    jwk
}

fn ed25519(kid: &'static str) -> Signer {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = DecodingKey::from_ed_der(pair.public_key_raw());
    let jwk = Jwk::from_decoding_key(&public, Some(Algorithm::EdDSA)).unwrap();
    let key = EncodingKey::from_ed_der(&pair.serialize_der());
    Signer {
        kid,
        algorithm: Algorithm::EdDSA,
        key,
        jwk: named(jwk, kid),
    }
}

fn es256(kid: &'static str) -> Signer {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    Signer {
        kid,
        algorithm: Algorithm::ES256,
        key,
        jwk: named(jwk, kid),
    }
}

fn rs256(kid: &'static str, size: aws_lc_rs::rsa::KeySize) -> Signer {
    use aws_lc_rs::{encoding::AsDer as _, signature::KeyPair as _};
    let pair = aws_lc_rs::rsa::KeyPair::generate(size).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let pem = pem(der.as_ref());
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
    let public = pair.public_key();
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let number = |bytes: &[u8]| base64::Engine::encode(&url, bytes);
    let n = number(public.modulus().big_endian_without_leading_zero());
    let e = number(public.exponent().big_endian_without_leading_zero());
    let jwk = json!({"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig", "n": n, "e": e});
    Signer {
        kid,
        algorithm: Algorithm::RS256,
        key,
        jwk: serde_json::from_value(jwk).unwrap(),
    }
}

fn pem(der: &[u8]) -> String {
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    )
}

fn set(signers: &[&Signer]) -> Keys {
    let jwks: Vec<_> = signers.iter().map(|signer| &signer.jwk).collect();
    Keys::parse(json!({ "keys": jwks }).to_string().as_bytes()).unwrap()
}

fn authenticator(keys: Keys, dev: bool) -> Authenticator {
    let rules = Rules { dev, ..rules() };
    Authenticator::new(rules, keys, 1, Arc::new(Metrics::new()))
}

fn rules() -> Rules {
    Rules {
        audiences: vec!["chat".into()],
        ..Rules::default()
    }
}

fn claims(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Value {
    let mut claims = json!({"sub": "alice", "exp": LATER, "aud": "chat"});
    change(claims.as_object_mut().unwrap());
    claims
}

impl Signer {
    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.into());
        encode(&header, claims, &self.key).unwrap()
    }
}

fn code(result: Result<Identity, Refusal>) -> Code {
    result.unwrap_err().code
}

#[test]
fn each_algorithm_of_the_list_is_accepted() {
    for signer in [
        ed25519("a"),
        es256("b"),
        rs256("c", aws_lc_rs::rsa::KeySize::Rsa2048),
    ] {
        let check = authenticator(set(&[&signer]), false);
        let token = signer.sign(&claims(|claims| {
            claims.insert("app".into(), json!("shop"));
            claims.insert("device".into(), json!("18446744073709551615"));
        }));
        let identity = check.check(&token, NOW).unwrap();
        assert_eq!((&*identity.app, &*identity.name), ("shop", "alice"));
        assert_eq!(identity.user, UserId::of("shop", "alice"));
        assert_eq!(identity.device, Some(DeviceId(u64::MAX)));
        assert_eq!(identity.expires_ms, LATER * 1000);
    }
}

#[test]
fn an_unsigned_token_is_refused() {
    let signer = ed25519("a");
    let check = authenticator(set(&[&signer]), false);
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |value: Value| base64::Engine::encode(&url, value.to_string());
    for alg in ["none", "None", "NONE", ""] {
        let header = json!({"alg": alg, "typ": "JWT"});
        for signature in ["", "AAAA"] {
            let token = format!(
                "{}.{}.{signature}",
                part(header.clone()),
                part(claims(|_| {}))
            );
            assert_eq!(code(check.check(&token, NOW)), Code::BadToken);
        }
    }
    // A good token without its signature.
    let token = signer.sign(&claims(|_| {}));
    let cut = &token[..=token.rfind('.').unwrap()];
    assert_eq!(code(check.check(cut, NOW)), Code::BadToken);
}

#[test]
fn a_public_key_used_as_a_secret_is_refused() {
    let signer = rs256("a", aws_lc_rs::rsa::KeySize::Rsa2048);
    let check = authenticator(set(&[&signer]), false);
    let public = serde_json::to_vec(&signer.jwk).unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("a".into());
    let token = encode(&header, &claims(|_| {}), &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(code(check.check(&token, NOW)), Code::BadToken);
}

#[test]
fn the_algorithm_follows_from_the_key_and_not_from_the_token() {
    let (ed, ec) = (ed25519("same"), es256("same"));
    // The set knows only the Ed25519 key; the token names it and is signed by P-256.
    let check = authenticator(set(&[&ed]), false);
    assert_eq!(
        code(check.check(&ec.sign(&claims(|_| {})), NOW)),
        Code::BadToken
    );
    // RS384 with an RSA key that is known.
    let rsa = rs256("r", aws_lc_rs::rsa::KeySize::Rsa2048);
    let check = authenticator(set(&[&rsa]), false);
    let mut header = Header::new(Algorithm::RS384);
    header.kid = Some("r".into());
    let token = encode(&header, &claims(|_| {}), &rsa.key).unwrap();
    assert_eq!(code(check.check(&token, NOW)), Code::BadToken);
}

#[test]
fn a_token_of_another_key_or_with_an_odd_key_name_is_refused() {
    let (ours, theirs) = (ed25519("a"), ed25519("a"));
    let check = authenticator(set(&[&ours]), false);
    assert_eq!(
        code(check.check(&theirs.sign(&claims(|_| {})), NOW)),
        Code::BadToken
    );
    for kid in [
        "../../../etc/passwd",
        "' OR 1=1 --",
        "http://evil.example/key",
        &"k".repeat(4096),
    ] {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(kid.into());
        header.jku = Some("http://evil.example/jwks".into());
        let token = encode(&header, &claims(|_| {}), &theirs.key).unwrap();
        assert_eq!(code(check.check(&token, NOW)), Code::BadToken);
    }
}

#[test]
fn a_token_without_a_key_name_is_tried_with_every_key_of_its_type() {
    let (one, two) = (ed25519("one"), ed25519("two"));
    let check = authenticator(set(&[&one, &two]), false);
    let token = encode(&Header::new(Algorithm::EdDSA), &claims(|_| {}), &two.key).unwrap();
    assert_eq!(check.check(&token, NOW).unwrap().name, "alice");
}

#[test]
fn mistyped_and_missing_claims_are_refused() {
    let signer = ed25519("a");
    let check = authenticator(set(&[&signer]), false);
    let wrong: &[(&str, Option<Value>)] = &[
        ("sub", None),
        ("sub", Some(json!(7))),
        ("sub", Some(json!(""))),
        ("sub", Some(json!("a".repeat(129)))),
        ("sub", Some(json!("a\u{0}b"))),
        ("sub", Some(json!("line\nbreak"))),
        ("exp", None),
        ("exp", Some(json!("1900000000"))),
        ("exp", Some(json!(-1))),
        ("exp", Some(json!(1.9e9))),
        ("exp", Some(json!(true))),
        ("exp", Some(json!(u64::MAX))),
        ("aud", None),
        ("aud", Some(json!(1))),
        ("aud", Some(json!([1, "chat"]))),
        ("nbf", Some(json!("soon"))),
        ("nbf", Some(Value::Null)),
        ("app", Some(json!(1))),
        ("app", Some(json!(""))),
        ("app", Some(Value::Null)),
        ("device", Some(json!(0))),
        ("device", Some(json!(-1))),
        ("device", Some(json!("phone"))),
        ("device", Some(json!([1]))),
    ];
    for (name, value) in wrong {
        let token = signer.sign(&claims(|claims| match value {
            Some(value) => drop(claims.insert((*name).into(), value.clone())),
            None => drop(claims.remove(*name)),
        }));
        assert_eq!(
            code(check.check(&token, NOW)),
            Code::BadToken,
            "{name}: {value:?}"
        );
    }
}

#[test]
fn audience_expiry_and_start_are_enforced() {
    let signer = es256("a");
    let check = authenticator(set(&[&signer]), false);
    let with = |name: &str, value: Value| {
        check.check(
            &signer.sign(&claims(|claims| drop(claims.insert(name.into(), value)))),
            NOW,
        )
    };
    assert_eq!(code(with("aud", json!("other"))), Code::WrongAudience);
    assert_eq!(code(with("aud", json!([]))), Code::WrongAudience);
    assert!(with("aud", json!(["other", "chat"])).is_ok());
    assert_eq!(
        code(with("exp", json!(NOW.unix_ms / 1000))),
        Code::TokenExpired
    );
    assert!(with("exp", json!(NOW.unix_ms / 1000 + 1)).is_ok());
    assert_eq!(
        code(with("nbf", json!(NOW.unix_ms / 1000 + 600))),
        Code::BadToken
    );
    assert!(with("nbf", json!(NOW.unix_ms / 1000 + 5)).is_ok());
}

#[test]
fn a_list_of_other_audiences_was_taken_for_ours() {
    let signer = es256("a");
    let check = authenticator(set(&[&signer]), false);
    for audiences in [
        json!(["other"]),
        json!(["other", "another"]),
        json!(["chat2", ""]),
    ] {
        let token = signer.sign(&claims(|claims| {
            drop(claims.insert("aud".into(), audiences))
        }));
        assert_eq!(code(check.check(&token, NOW)), Code::WrongAudience);
    }
}

#[test]
fn a_token_of_any_issuer_was_accepted() {
    let signer = ed25519("a");
    let rules = Rules {
        issuers: vec!["https://id.example".into(), "other".into()],
        ..rules()
    };
    let check = Authenticator::new(rules, set(&[&signer]), 1, Arc::new(Metrics::new()));
    let with = |issuer: Option<Value>| {
        let token = signer.sign(&claims(|claims| {
            if let Some(issuer) = issuer {
                claims.insert("iss".into(), issuer);
            }
        }));
        check.check(&token, NOW)
    };
    assert!(with(Some(json!("https://id.example"))).is_ok());
    assert!(with(Some(json!("other"))).is_ok());
    for wrong in [
        None,
        Some(json!("https://id.example/")),
        Some(json!("")),
        Some(json!(["other"])),
        Some(Value::Null),
    ] {
        assert_eq!(code(with(wrong)), Code::BadToken);
    }
}

#[test]
fn a_key_of_one_app_signed_for_all_others() {
    let (shop, game, main) = (ed25519("shop-1"), ed25519("game-1"), ed25519("main-1"));
    let rules = Rules {
        signers: [
            "shop=kid:shop-1",
            "game=iss:https://game.example",
            "*=kid:main-1",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect(),
        ..rules()
    };
    let keys = set(&[&shop, &game, &main]);
    let check = Authenticator::new(rules, keys, 1, Arc::new(Metrics::new()));
    let signed = |signer: &Signer, app: Option<&str>, issuer: Option<&str>| {
        let token = signer.sign(&claims(|claims| {
            if let Some(app) = app {
                claims.insert("app".into(), json!(app));
            }
            if let Some(issuer) = issuer {
                claims.insert("iss".into(), json!(issuer));
            }
        }));
        check.check(&token, NOW)
    };
    let issuer = Some("https://game.example");
    assert_eq!(signed(&shop, Some("shop"), None).unwrap().app, "shop");
    assert_eq!(signed(&game, Some("game"), issuer).unwrap().app, "game");
    for app in [None, Some("shop"), Some("game"), Some("new")] {
        assert!(signed(&main, app, None).is_ok(), "{app:?}");
    }
    assert_eq!(code(signed(&shop, Some("game"), None)), Code::BadToken);
    assert_eq!(code(signed(&shop, None, None)), Code::BadToken);
    assert_eq!(code(signed(&game, Some("shop"), issuer)), Code::BadToken);
    assert_eq!(code(signed(&game, Some("game"), None)), Code::BadToken);
    // A token that does not name its key has the one that verifies it.
    let named = claims(|claims| drop(claims.insert("app".into(), json!("game"))));
    let token = encode(&Header::new(Algorithm::EdDSA), &named, &shop.key).unwrap();
    assert_eq!(code(check.check(&token, NOW)), Code::BadToken);
}

#[test]
fn who_signs_for_an_app_is_written_in_one_way() {
    let signer = |text: &str| text.parse::<super::Signer>().ok();
    let key = super::Signer {
        app: "shop".into(),
        by: By::Key("a=b==".into()),
    };
    assert_eq!(signer("shop=kid:a=b=="), Some(key));
    for wrong in [
        "",
        "shop",
        "shop=a",
        "=kid:a",
        "shop=kid:",
        "shop=iss:",
        "kid:a",
    ] {
        assert_eq!(signer(wrong), None, "{wrong}");
    }
}

#[test]
fn no_refusal_repeats_the_token() {
    let (ours, theirs) = (ed25519("a"), ed25519("a"));
    let check = authenticator(set(&[&ours]), false);
    for token in [
        "a-secret-token",
        "dev:a-secret-name",
        &theirs.sign(&claims(|_| {})),
    ] {
        let refusal = check.check(token, NOW).unwrap_err();
        assert!(!refusal.to_string().contains(token), "{refusal}");
    }
    assert_eq!(
        code(check.check(&"x".repeat(TOKEN_BYTES + 1), NOW)),
        Code::BadToken
    );
}

#[test]
fn dev_tokens_name_a_user_and_maybe_an_app_and_only_with_dev() {
    let check = authenticator(Keys::default(), true);
    let identity = check.check("dev:alice", NOW).unwrap();
    assert_eq!(
        (&*identity.app, &*identity.name, identity.expires_ms),
        ("default", "alice", u64::MAX)
    );
    let identity = check.check("dev:a@b@shop", NOW).unwrap();
    assert_eq!((&*identity.app, &*identity.name), ("shop", "a@b"));
    assert_eq!(code(check.check("dev:", NOW)), Code::BadToken);
    assert_eq!(code(check.check("dev:a@", NOW)), Code::BadToken);
    assert_eq!(
        code(authenticator(set(&[&ed25519("a")]), false).check("dev:alice", NOW)),
        Code::BadToken
    );
}

#[test]
fn keys_that_cannot_be_trusted_are_left_out_and_a_set_without_others_is_refused() {
    let weak = rs256("weak", aws_lc_rs::rsa::KeySize::Rsa2048).jwk;
    let mut weak = serde_json::to_value(weak).unwrap();
    weak["n"] = json!(base64::Engine::encode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        [0xff; 128]
    ));
    let symmetric = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
    let mut encryption = serde_json::to_value(ed25519("e").jwk).unwrap();
    encryption["use"] = json!("enc");
    let mut confused = serde_json::to_value(es256("c").jwk).unwrap();
    confused["alg"] = json!("RS256");
    for jwk in [
        weak.clone(),
        symmetric,
        encryption,
        confused,
        json!({"kty": "new"}),
    ] {
        let bytes = json!({"keys": [jwk]}).to_string();
        assert!(
            matches!(Keys::parse(bytes.as_bytes()), Err(keys::KeysError::Set(_))),
            "{bytes}"
        );
        let good = json!({"keys": [jwk, ed25519("good").jwk]}).to_string();
        assert!(
            Keys::parse(good.as_bytes()).is_ok(),
            "the good one counts: {good}"
        );
    }
    assert!(Keys::parse(b"{").is_err());
    assert!(Keys::parse(&vec![b' '; 300 * 1024]).is_err());
}

#[tokio::test]
async fn new_keys_are_used_at_once_and_an_unknown_key_is_asked_for() {
    let (old, new) = (ed25519("old"), ed25519("new"));
    let check = authenticator(set(&[&old]), false);
    let token = new.sign(&claims(|claims| {
        drop(claims.insert("exp".into(), json!(4_000_000_000u64)))
    }));
    assert_eq!(code(check.login(token.clone()).await), Code::BadToken);
    check.key_is_missing().await;
    check.replace_keys(set(&[&new]));
    assert!(check.login(token).await.is_ok());
    assert_eq!(
        check
            .metrics
            .logins
            .get_or_create(&Reason {
                reason: "BAD_TOKEN"
            })
            .get(),
        1
    );
    assert_eq!(
        check
            .metrics
            .logins
            .get_or_create(&Reason { reason: "accepted" })
            .get(),
        1
    );
}

#[test]
fn logins_that_wait_are_bounded() {
    let count = AtomicUsize::new(0);
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| Waiting::enter(&count).unwrap())
        .collect();
    assert_eq!(
        Waiting::enter(&count).err().map(|refusal| refusal.code),
        Some(Code::Overloaded)
    );
    drop(waiting);
    assert_eq!(count.load(Ordering::Relaxed), 0);
}
