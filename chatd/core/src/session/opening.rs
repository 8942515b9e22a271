//! From HELLO to WELCOME, and REAUTH: whose session it is.

use bytes::{BufMut as _, Bytes, BytesMut};
use chat_wire::{
    error::{Code, Refusal},
    frame::{self, Body},
    ids::{DeviceId, UserId},
    limits::{TOKEN_BYTES, VERSIONS},
};

use super::{MAX_CREDITS, Output, Session, State};
use crate::{
    message::{Attach, Attached, Identity, Now, Request, Resume, Resumed, ToShard},
    router,
};

/// Bytes of a resume token: a generation (u32) and 16 bytes of MAC.
const RESUME_TOKEN_BYTES: usize = 20;

impl Session {
    pub(super) fn hello(&mut self, now: Now, hello: frame::Hello, out: &mut Vec<Output>) {
        if hello.min_version > *VERSIONS.end() || hello.max_version < *VERSIONS.start() {
            let versions = format!(
                "this server speaks versions {} to {} of the protocol",
                VERSIONS.start(),
                VERSIONS.end()
            );
            return self.end(Refusal::new(Code::Unsupported, versions), out);
        }
        if let Err(refusal) = check_token(&hello.token) {
            return self.end(refusal, out);
        }
        let mut hello = Box::new(hello);
        out.push(Output::Authenticate(std::mem::take(&mut hello.token)));
        hello.capabilities = Vec::new();
        // Its own time: the client has done its part, and waits for keys or its turn.
        self.state = State::Authenticating {
            until_ms: now.mono_ms + self.settings.attach_timeout_ms,
            hello,
        };
    }

    pub(super) fn reauth(&mut self, req: u32, token: String, out: &mut Vec<Output>) {
        if self.reauth.is_some() {
            let busy = "another REAUTH is being checked: wait for its answer";
            return self.refuse(req, Refusal::new(Code::Overloaded, busy), out);
        }
        if let Err(refusal) = check_token(&token) {
            return self.refuse(req, refusal, out);
        }
        self.reauth = Some(req);
        out.push(Output::Authenticate(token));
    }

    pub(super) fn authenticated(
        &mut self,
        now: Now,
        result: Result<Identity, Refusal>,
        out: &mut Vec<Output>,
    ) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Authenticating { hello, .. } => match result {
                Ok(identity) => {
                    self.state = State::Hello { until_ms: 0 };
                    self.attach(now, identity, &hello, out);
                }
                Err(refusal) => {
                    self.state = State::Hello { until_ms: 0 };
                    self.end(refusal, out);
                }
            },
            other => {
                self.state = other;
                if let Some(req) = self.reauth.take() {
                    self.reauthenticated(now, req, result, out);
                }
            }
        }
    }

    fn attach(
        &mut self,
        now: Now,
        identity: Identity,
        hello: &frame::Hello,
        out: &mut Vec<Output>,
    ) {
        let device = match identity.device {
            Some(device) if hello.device != 0 && hello.device != device.0 => {
                let other = "the token is for another device than HELLO names";
                return self.end(Refusal::new(Code::NotAllowed, other), out);
            }
            Some(device) => device,
            None => DeviceId(hello.device),
        };
        if device.0 == 0 {
            let none = "`device` is missing: choose a number once for this device, and keep it";
            return self.end(Refusal::new(Code::InvalidArgument, none), out);
        }
        self.expires_at_ms = expiry(now, &identity);
        if now.mono_ms >= self.expires_at_ms {
            let ended = "the token's time is over: connect with a new one";
            return self.end(Refusal::new(Code::TokenExpired, ended), out);
        }
        self.device = device;
        let limit = self.settings.limits.event_credits;
        let event_credits = hello.event_credits.unwrap_or(limit).min(MAX_CREDITS);
        let resume = hello.resume.as_ref().map(|resume| Resume {
            inbox_seq: resume.inbox_seq,
            marks_version: resume.marks_version,
            generation: self.resume_generation(identity.user, resume),
        });
        let attach = Attach {
            session: self.id,
            identity: identity.clone(),
            device,
            resume,
            encoding: self.encoding,
            event_credits,
            foreground: true,
        };
        let shard = router::of_user(&self.map, identity.user);
        self.identity = Some(Box::new(identity));
        self.state = State::Attaching {
            until_ms: now.mono_ms + self.settings.attach_timeout_ms,
            event_credits,
        };
        out.push(Output::Submit(ToShard {
            shard,
            request: Request::Attach(attach),
        }));
    }

    fn reauthenticated(
        &mut self,
        now: Now,
        req: u32,
        result: Result<Identity, Refusal>,
        out: &mut Vec<Output>,
    ) {
        let new = match result {
            Ok(new) => new,
            Err(refusal) => return self.refuse(req, refusal, out),
        };
        let same = self.identity.as_ref().is_some_and(|old| {
            old.app == new.app
                && old.name == new.name
                && new.device.is_none_or(|device| device == self.device)
        });
        if !same {
            let other = "REAUTH must name the same app, user and device: connect anew instead";
            return self.refuse(req, Refusal::new(Code::IdentityChanged, other), out);
        }
        self.expires_at_ms = expiry(now, &new);
        self.expiry_told = false;
        if let Some(identity) = &mut self.identity {
            identity.expires_ms = new.expires_ms;
        }
        self.write(req, Body::Done(frame::Done {}), out);
    }

    pub(super) fn attached(&mut self, now: Now, attached: &Attached, out: &mut Vec<Output>) {
        let State::Attaching { event_credits, .. } = self.state else {
            return;
        };
        let Some(identity) = &self.identity else {
            return;
        };
        self.purse
            .filled(&self.settings.limits, now, &attached.allowance);
        let limits = &attached.limits;
        let welcome = frame::Welcome {
            version: *VERSIONS.end(),
            session: self.id.0,
            user: identity.user.0,
            name: identity.name.clone(),
            server_time_ms: now.unix_ms,
            heartbeat_ms: self.settings.heartbeat_ms,
            limits: Some(frame::Limits {
                frame_bytes: limits.frame_bytes,
                content_bytes: limits.content_bytes,
                sends_per_second: limits.sends_per_second,
                sends_burst: limits.sends_burst,
                presence_subscriptions: limits.presence_subscriptions,
                group_members: limits.group_members,
                devices: limits.devices,
                mentions: limits.mentions,
                history_page: limits.history_page,
                in_flight: limits.in_flight,
            }),
            credits: Some(frame::Credits {
                events: event_credits,
                bulk: self.bulk_credits,
            }),
            inbox_head: attached.inbox_head,
            generation: attached.generation,
            resume_token: self.resume_token(identity.user, attached.generation),
            capabilities: self.settings.capabilities.clone(),
            marks_version: attached.marks_version,
        };
        self.state = State::Live;
        self.write(0, Body::Welcome(welcome), out);
        match attached.resumed {
            Resumed::Fresh => {}
            Resumed::From(from) => self.write(0, Body::Resumed(frame::Resumed { from }), out),
            Resumed::Gap { oldest, head } => {
                self.write(0, Body::Gap(frame::Gap { oldest, head }), out);
            }
        }
    }

    /// generation · MAC(user, device, generation).
    pub(super) fn resume_token(&self, user: UserId, generation: u32) -> Bytes {
        let mut said = [0; 20];
        said[..8].copy_from_slice(&user.0.to_be_bytes());
        said[8..16].copy_from_slice(&self.device.0.to_be_bytes());
        said[16..].copy_from_slice(&generation.to_be_bytes());
        let mac = blake3::keyed_hash(&self.settings.resume_key, &said);
        let mut token = BytesMut::with_capacity(RESUME_TOKEN_BYTES);
        token.put_u32(generation);
        token.put_slice(&mac.as_bytes()[..16]);
        token.freeze()
    }

    /// The generation a client resumes from: what it says, or what its token says. A
    /// token that does not verify says nothing.
    fn resume_generation(&self, user: UserId, resume: &frame::Resume) -> u32 {
        let token = &resume.resume_token;
        if resume.generation != 0 || token.len() != RESUME_TOKEN_BYTES {
            return resume.generation;
        }
        let generation = u32::from_be_bytes([token[0], token[1], token[2], token[3]]);
        // Nothing secret hangs on the comparison: the generation is told to everybody.
        if self.resume_token(user, generation) == *token {
            generation
        } else {
            0
        }
    }
}

fn check_token(token: &str) -> Result<(), Refusal> {
    if token.is_empty() || token.len() > TOKEN_BYTES {
        return Err(Refusal::new(
            Code::BadToken,
            format!("the token is missing or longer than {TOKEN_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// When a token ends, on the clock that never goes back.
fn expiry(now: Now, identity: &Identity) -> u64 {
    if identity.expires_ms == u64::MAX {
        return u64::MAX;
    }
    now.mono_ms
        .saturating_add(identity.expires_ms.saturating_sub(now.unix_ms))
}
