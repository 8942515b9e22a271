//! From options to a session.

use std::{path::Path, time::Duration};

use chat_client::{Client, Config, Events, Start, Token, Trust};

use crate::{
    device::Device,
    failure::{Failure, TOKEN},
    options::Global,
};

/// Where `chatd --dev` writes the certificate it made, as seen from where it was started.
const DEV_CERTIFICATE: &str = "./chatd-data/tls/cert.pem";

/// Whoever sits before a terminal wants to know soon that the server was killed, which on QUIC
/// only an unanswered word tells.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(3);

/// Who speaks: the token, and a name for folders.
pub(crate) struct Person {
    pub(crate) token: Token,
    pub(crate) name: String,
}

pub(crate) fn person(global: &Global) -> Result<Person, Failure> {
    match (&global.as_person, &global.token, &global.token_file) {
        (_, Some(token), _) => Ok(Person {
            name: global
                .as_person
                .clone()
                .or_else(|| subject(token))
                .unwrap_or_else(|| "token".to_owned()),
            token: Token::Fixed(token.clone()),
        }),
        (_, None, Some(path)) => {
            let token = std::fs::read_to_string(path).map_err(|error| {
                Failure::new(TOKEN, format!("the token in {}: {error}", path.display()))
            })?;
            Ok(Person {
                name: global
                    .as_person
                    .clone()
                    .or_else(|| subject(token.trim()))
                    .unwrap_or_else(|| "token".to_owned()),
                token: Token::File(path.clone()),
            })
        }
        (Some(name), None, None) => Ok(Person {
            name: name.clone(),
            token: Token::dev(name),
        }),
        (None, None, None) => Err(Failure::usage("who are you?").hint(
            "--as NAME for a server started with --dev, \
             otherwise --token, --token-file or CHATCTL_TOKEN",
        )),
    }
}

/// The name in a token, unchecked: it only chooses a folder.
fn subject(token: &str) -> Option<String> {
    if let Some(name) = token.strip_prefix("dev:") {
        return Some(name.to_owned());
    }
    let payload = token.split('.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&base64url(payload)?).ok()?;
    Some(claims.get("sub")?.as_str()?.to_owned())
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

pub(crate) fn config(global: &Global, token: Token, device: u64) -> Config {
    let mut config = Config::new(global.server.clone(), token, device);
    config.encoding = global.frames.into();
    config.trust = trust(global);
    config.connect_timeout = Duration::from_secs(global.timeout);
    config.request_timeout = Duration::from_secs(global.timeout);
    config
}

pub(crate) fn trust(global: &Global) -> Trust {
    match &global.ca_file {
        Some(path) => Trust::CaFile(path.clone()),
        None if global.server.is_loopback() && Path::new(DEV_CERTIFICATE).is_file() => {
            Trust::CaFile(DEV_CERTIFICATE.into())
        }
        None => Trust::System,
    }
}

/// A session for a command that asks or sends and ends: it acknowledges nothing, so it
/// makes no message DELIVERED.
pub(crate) struct OneShot {
    pub(crate) client: Client,
    pub(crate) events: Events,
    _device: Device,
}

pub(crate) async fn one_shot(global: &Global, start: Start) -> Result<OneShot, Failure> {
    let person = person(global)?;
    let device = Device::spare(global, &person.name)?;
    let mut config = config(global, person.token, device.id());
    config.auto_ack = false;
    config.start = start;
    let (client, events) = Client::connect(config).await?;
    Ok(OneShot {
        client,
        events,
        _device: device,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_token_is_named_by_its_subject() {
        // {"alg":"none"} . {"sub":"alice"}
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.";
        assert_eq!(subject(token).as_deref(), Some("alice"));
        assert_eq!(subject("dev:bob").as_deref(), Some("bob"));
        for wrong in ["", "a.b.c", "eyJ.!!!.x"] {
            assert_eq!(subject(wrong), None);
        }
    }
}
