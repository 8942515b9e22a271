//! What clients of a simulated node say, and what they were told.

use super::{BEGIN_UNIX_MS, Input, Node};
use crate::message::Identity;
use chat_wire::{
    codec::Encoding,
    error::{Code, Refusal},
    frame::{self, Body, Frame},
    ids::{ClientId, DeviceId, SessionId, UserId},
};

impl Node {
    /// A UUIDv7 of now.
    pub(crate) fn id(&mut self) -> ClientId {
        self.ids += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&self.now.unix_ms.to_be_bytes()[2..]);
        id[6] = 0x70;
        id[8] = 0x80;
        id[9..].copy_from_slice(&self.ids.to_be_bytes()[1..]);
        ClientId(id)
    }

    pub(crate) fn hello(name: &str, device: u64, resume: Option<frame::Resume>) -> frame::Hello {
        frame::Hello {
            min_version: 1,
            max_version: 1,
            token: format!("default/{name}"),
            device,
            resume,
            ..frame::Hello::default()
        }
    }

    /// A session up to its WELCOME.
    pub(crate) fn attach(
        &mut self,
        name: &str,
        device: u64,
        resume: Option<frame::Resume>,
    ) -> SessionId {
        let id = self.open(Encoding::Proto);
        self.frame(id, 0, Body::Hello(Self::hello(name, device, resume)));
        self.run_until(2_000, |node| {
            node.clients[&id].closed.is_some() || node.welcome(id).is_some()
        });
        id
    }

    pub(crate) fn resume_from(inbox_seq: u64) -> Option<frame::Resume> {
        Some(frame::Resume {
            inbox_seq,
            ..frame::Resume::default()
        })
    }

    pub(crate) fn frame(&mut self, session: SessionId, req: u32, body: Body) {
        let frame = if req == 0 {
            body.into()
        } else {
            Frame::new(req, body)
        };
        self.input(session, Input::Frame(frame));
    }

    pub(crate) fn text(&mut self, session: SessionId, req: u32, to: &str, text: &str) -> ClientId {
        let id = self.id();
        let send = Self::send_of(id, frame::target::To::Name(to.into()), text);
        self.frame(session, req, Body::Send(send));
        id
    }

    pub(crate) fn send_of(id: ClientId, to: frame::target::To, text: &str) -> frame::Send {
        frame::Send {
            client_msg_id: bytes::Bytes::copy_from_slice(&id.0),
            to: Some(frame::Target { to: Some(to) }),
            content: Some(frame::Content {
                kind: Some(frame::content::Kind::Text(text.into())),
            }),
            ..frame::Send::default()
        }
    }

    pub(crate) fn ack(&mut self, session: SessionId, inbox_seq: u64) {
        self.frame(session, 0, Body::Ack(frame::Ack { inbox_seq }));
    }

    pub(crate) fn credit(&mut self, session: SessionId, n: u32) {
        let lane = frame::Lane::Events.into();
        self.frame(session, 0, Body::Credit(frame::Credit { lane, n }));
    }

    pub(crate) fn frames(&self, session: SessionId) -> impl Iterator<Item = &Frame> {
        self.clients[&session].frames.iter()
    }

    pub(crate) fn find<T>(
        &self,
        session: SessionId,
        find: impl FnMut(&Frame) -> Option<T>,
    ) -> Option<T> {
        self.frames(session).find_map(find)
    }

    pub(crate) fn welcome(&self, session: SessionId) -> Option<frame::Welcome> {
        self.find(session, |frame| match &frame.body {
            Some(Body::Welcome(welcome)) => Some(welcome.clone()),
            _ => None,
        })
    }

    /// The answer to a request.
    pub(crate) fn answer(&self, session: SessionId, req: u32) -> Option<Body> {
        let mine = self.frames(session).filter(|frame| frame.req == req);
        mine.last().and_then(|frame| frame.body.clone())
    }

    /// The answer to a request, waited for.
    pub(crate) fn wait(&mut self, session: SessionId, req: u32) -> Body {
        self.run_until(10_000, |node| node.answer(session, req).is_some());
        self.answer(session, req).unwrap()
    }

    pub(crate) fn wait_sent(&mut self, session: SessionId, req: u32) -> frame::Sent {
        match self.wait(session, req) {
            Body::Sent(sent) => sent,
            other => panic!("no SENT but {other:?}"),
        }
    }

    pub(crate) fn wait_error(&mut self, session: SessionId, req: u32) -> Code {
        match self.wait(session, req) {
            Body::Error(error) => Code::from_number(error.code).unwrap(),
            other => panic!("no ERROR but {other:?}"),
        }
    }

    pub(crate) fn events(&self, session: SessionId) -> Vec<frame::Event> {
        self.frames(session)
            .filter_map(|frame| match &frame.body {
                Some(Body::Event(batch)) => Some(batch.events.clone()),
                _ => None,
            })
            .flatten()
            .collect()
    }

    pub(crate) fn texts(&self, session: SessionId) -> Vec<String> {
        self.events(session).iter().filter_map(text_of).collect()
    }

    pub(crate) fn receipts(&self, session: SessionId) -> Vec<frame::Receipt> {
        self.frames(session)
            .filter_map(|frame| match &frame.body {
                Some(Body::Receipt(receipt)) => Some(*receipt),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn closed(&self, session: SessionId) -> Option<Code> {
        self.clients[&session]
            .closed
            .as_ref()?
            .as_ref()
            .map(|refusal| refusal.code)
    }
}

pub(crate) fn text_of(event: &frame::Event) -> Option<String> {
    match event.what.as_ref()? {
        frame::event::What::Message(message) => match message.content.as_ref()?.kind.as_ref()? {
            frame::content::Kind::Text(text) => Some(text.clone()),
            _ => None,
        },
        frame::event::What::GroupChange(_) => None,
    }
}

/// Tokens of the tests: `app/name`, `app/name#device`, `app/name!expires in ms`.
pub(super) fn authenticate(token: &str) -> Result<Identity, Refusal> {
    let bad = || Refusal::new(Code::BadToken, "the token is not signed by a known key");
    let (app, rest) = token.split_once('/').ok_or_else(bad)?;
    let (rest, expires) = match rest.split_once('!') {
        Some((rest, expires)) => (rest, BEGIN_UNIX_MS + expires.parse::<u64>().unwrap()),
        None => (rest, u64::MAX),
    };
    let (name, device) = match rest.split_once('#') {
        Some((name, device)) => (name, Some(DeviceId(device.parse().unwrap()))),
        None => (rest, None),
    };
    Ok(Identity {
        app: app.into(),
        name: name.into(),
        user: UserId::of(app, name),
        device,
        expires_ms: expires,
    })
}
