//! The frames of the samples, written out: one for every kind, several where a field
//! is a choice.

#![expect(clippy::too_many_lines, reason = "lists of literals")]

use std::collections::BTreeMap;

use bytes::Bytes;
use chat_wire::{
    error::{Code, Refusal},
    frame::{
        Ack, Body, Content, Conversation, ConversationsGet, ConversationsPage, Credit, Credits,
        Custom, Done, Encrypted, Event, EventBatch, Frame, Gap, Goaway, GroupAdd, GroupChange,
        GroupCreate, GroupGet, GroupLeave, GroupRemove, GroupRole, GroupState, GroupUpdate, Hello,
        HistoryGet, HistoryPage, Lane, Limits, Mark, MarksGet, MarksPage, MediaReference, Member,
        MemberMark, MembersGet, MembersPage, Message, Ping, Pong, Presence, PresenceState,
        PresenceSubscribe, Reauth, Receipt, Replaced, Resume, Resumed, Role, Send, Sent,
        SystemText, Target, TokenExpiring, Typing, Welcome, content, event, group_change,
        history_get, target,
    },
    ids::{GroupId, MsgId, ShardId, UserId},
};

const GENERATION: u32 = 3_735_928_559;
const DEVICE: u64 = 0xfedc_ba98_7654_3210;

fn alice() -> u64 {
    UserId::of("default", "alice").0
}

fn bob() -> u64 {
    UserId::of("default", "bob").0
}

fn client_id(last: u8) -> Bytes {
    let mut id = *b"\x01\x93\x00\x00\x00\x00\x70\x00\x80\x00\x00\x00\x00\x00\x00\x00";
    id[15] = last;
    Bytes::copy_from_slice(&id)
}

fn group() -> u64 {
    let op = chat_wire::ids::ClientId::from_slice(&client_id(1)).expect("a UUIDv7");
    GroupId::of(UserId(alice()), op).0
}

fn msg_id(counter: u16) -> i64 {
    MsgId::new(59_875_200_123, ShardId(17), counter).0
}

fn text(text: &str) -> Option<Content> {
    Some(Content {
        kind: Some(content::Kind::Text(text.into())),
    })
}

fn target(to: target::To) -> Option<Target> {
    Some(Target { to: Some(to) })
}

fn received(inbox_seq: u64) -> Event {
    Event {
        inbox_seq,
        conversation: alice(),
        msg_id: msg_id(1),
        ts_ms: 1_795_564_800_123,
        sender: alice(),
        sender_name: "alice".into(),
        group_seq: 0,
        what: Some(event::What::Message(Message {
            content: text("Grüß Gott, 世界 😀"),
            reply_to: msg_id(0),
            mentions: vec![bob()],
            silent: true,
            client_msg_id: client_id(7),
        })),
    }
}

fn joined(inbox_seq: u64) -> Event {
    Event {
        inbox_seq,
        conversation: group(),
        msg_id: msg_id(2),
        ts_ms: 1_795_564_800_123,
        sender: alice(),
        sender_name: "alice".into(),
        group_seq: 4,
        what: Some(event::What::GroupChange(GroupChange {
            kind: group_change::Kind::Added.into(),
            members: vec![member()],
            name: "hikers".into(),
        })),
    }
}

fn member() -> Member {
    Member {
        user: bob(),
        name: "bob".into(),
        role: Role::Member.into(),
    }
}

fn send(to: target::To, kind: content::Kind) -> Body {
    Body::Send(Send {
        client_msg_id: client_id(7),
        to: target(to),
        after: msg_id(0),
        abandons: Bytes::new(),
        content: Some(Content { kind: Some(kind) }),
        reply_to: 0,
        mentions: Vec::new(),
        silent: false,
    })
}

fn session() -> Vec<(&'static str, Frame)> {
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        token: "dev:bob".into(),
        device: DEVICE,
        capabilities: vec!["typing".into()],
        resume: None,
        event_credits: None,
    };
    let resume = Resume {
        inbox_seq: 41,
        marks_version: 7,
        generation: GENERATION,
        resume_token: Bytes::from_static(&[0xfb, 0xff, 0xfe]),
    };
    let refusal = Refusal {
        code: Code::RateLimited,
        message: "more than 100 messages a second: wait".into(),
        retry_after_ms: Some(250),
    };
    vec![
        ("hello", Frame::new(1, Body::Hello(hello.clone()))),
        (
            "hello-resume",
            Frame::new(
                1,
                Body::Hello(Hello {
                    resume: Some(resume),
                    event_credits: Some(0),
                    ..hello
                }),
            ),
        ),
        (
            "credit",
            Body::Credit(Credit {
                lane: Lane::Bulk.into(),
                n: 16,
            })
            .into(),
        ),
        ("ping", Frame::new(2, Body::Ping(Ping {}))),
        (
            "reauth",
            Frame::new(
                3,
                Body::Reauth(Reauth {
                    token: "dev:bob".into(),
                }),
            ),
        ),
        (
            "welcome",
            Body::Welcome(Welcome {
                version: 1,
                session: 99,
                user: bob(),
                name: "bob".into(),
                server_time_ms: 1_795_564_800_123,
                heartbeat_ms: 270_000,
                limits: Some(limits()),
                credits: Some(Credits {
                    events: 512,
                    bulk: 16,
                }),
                inbox_head: u64::MAX,
                generation: GENERATION,
                resume_token: Bytes::from_static(b"\0\x01\x02"),
                capabilities: vec!["typing".into()],
                marks_version: 7,
            })
            .into(),
        ),
        ("resumed", Body::Resumed(Resumed { from: 41 }).into()),
        (
            "gap",
            Body::Gap(Gap {
                oldest: 1000,
                head: 2000,
            })
            .into(),
        ),
        ("replaced", Body::Replaced(Replaced {}).into()),
        (
            "pong",
            Frame::new(
                2,
                Body::Pong(Pong {
                    server_time_ms: 1_795_564_800_123,
                }),
            ),
        ),
        (
            "token_expiring",
            Body::TokenExpiring(TokenExpiring { in_ms: 60_000 }).into(),
        ),
        (
            "goaway",
            Body::Goaway(Goaway {
                reason: "this node is restarted".into(),
                reconnect_within_ms: 5_000,
                endpoint: String::new(),
            })
            .into(),
        ),
        ("error", refusal.to_frame(4)),
        (
            "error-send",
            Frame::new(
                4,
                Body::Error(chat_wire::frame::Error {
                    code: Code::EmptyContent.number().into(),
                    message: "the text is empty: write something".into(),
                    client_msg_id: client_id(7),
                    ..Default::default()
                }),
            ),
        ),
    ]
}

fn limits() -> Limits {
    Limits {
        frame_bytes: 262_144,
        content_bytes: 65_536,
        sends_per_second: 100,
        sends_burst: 200,
        presence_subscriptions: 1_000,
        group_members: 1_024,
        devices: 20,
        mentions: 100,
        history_page: 200,
        in_flight: 256,
    }
}

fn messages_from_clients() -> Vec<(&'static str, Frame)> {
    let name = || target::To::Name("alice".into());
    vec![
        (
            "send",
            Frame::new(5, send(name(), content::Kind::Text("hi".into()))),
        ),
        (
            "send-group",
            Frame::new(
                5,
                Body::Send(Send {
                    client_msg_id: client_id(8),
                    to: target(target::To::Group(group())),
                    after: 0,
                    abandons: client_id(7),
                    content: text("hi all"),
                    reply_to: msg_id(1),
                    mentions: vec![alice(), bob()],
                    silent: true,
                }),
            ),
        ),
        (
            "send-media",
            Frame::new(
                5,
                send(
                    target::To::User(alice()),
                    content::Kind::Media(MediaReference {
                        url: "https://media.example/1".into(),
                        mime_type: "image/avif".into(),
                        size_bytes: 123_456,
                        blake3: Bytes::from_static(&[0xaf; 32]),
                        caption: "the view".into(),
                    }),
                ),
            ),
        ),
        (
            "send-custom",
            Frame::new(
                5,
                send(
                    name(),
                    content::Kind::Custom(Custom {
                        r#type: "poll/1".into(),
                        data: Bytes::from_static(&[0, 1, 254, 255]),
                    }),
                ),
            ),
        ),
        (
            "send-encrypted",
            Frame::new(
                5,
                send(
                    name(),
                    content::Kind::Encrypted(Encrypted {
                        scheme: 1,
                        data: Bytes::from_static(b"sealed"),
                    }),
                ),
            ),
        ),
        (
            "send-system",
            Frame::new(
                5,
                send(
                    name(),
                    content::Kind::System(SystemText {
                        text: "moved".into(),
                    }),
                ),
            ),
        ),
        ("ack", Body::Ack(Ack { inbox_seq: 42 }).into()),
        (
            "mark",
            Body::Mark(Mark {
                conversation: alice(),
                seen_up_to: msg_id(1),
            })
            .into(),
        ),
        (
            "marks",
            Frame::new(
                6,
                Body::Marks(MarksGet {
                    group: group(),
                    follow: true,
                    cursor: Bytes::new(),
                    limit: 100,
                }),
            ),
        ),
        (
            "history",
            Frame::new(
                7,
                Body::History(HistoryGet {
                    conversation: alice(),
                    limit: 50,
                    from: Some(history_get::From::Before(0)),
                }),
            ),
        ),
        (
            "history-after",
            Frame::new(
                7,
                Body::History(HistoryGet {
                    conversation: alice(),
                    limit: 50,
                    from: Some(history_get::From::After(msg_id(1))),
                }),
            ),
        ),
        (
            "conversations",
            Frame::new(
                8,
                Body::Conversations(ConversationsGet {
                    cursor: Bytes::from_static(b"next"),
                    limit: 20,
                }),
            ),
        ),
    ]
}

fn messages_from_servers() -> Vec<(&'static str, Frame)> {
    vec![
        (
            "sent",
            Frame::new(
                5,
                Body::Sent(Sent {
                    client_msg_id: client_id(7),
                    msg_id: msg_id(1),
                    ts_ms: 1_795_564_800_123,
                    seq: 3,
                    duplicate: true,
                    conversation: alice(),
                }),
            ),
        ),
        (
            "event",
            Body::Event(EventBatch {
                events: vec![received(42), joined(43)],
            })
            .into(),
        ),
        (
            "receipt",
            Body::Receipt(Receipt {
                from_version: 7,
                to_version: 9,
                conversation: bob(),
                user: bob(),
                delivered_up_to: msg_id(2),
                seen_up_to: msg_id(1),
            })
            .into(),
        ),
        (
            "marks_page",
            Frame::new(
                6,
                Body::MarksPage(MarksPage {
                    group: group(),
                    marks: vec![MemberMark {
                        user: bob(),
                        delivered_up_to: msg_id(2),
                        seen_up_to: msg_id(1),
                    }],
                    next: Bytes::from_static(b"next"),
                    more: true,
                }),
            ),
        ),
        (
            "history_page",
            Frame::new(
                7,
                Body::HistoryPage(HistoryPage {
                    conversation: alice(),
                    events: vec![received(42)],
                    more: true,
                    next: msg_id(1),
                }),
            ),
        ),
        (
            "conversations_page",
            Frame::new(
                8,
                Body::ConversationsPage(ConversationsPage {
                    conversations: vec![Conversation {
                        conversation: alice(),
                        name: "alice".into(),
                        last_event: Some(received(42)),
                        unread: 1,
                        delivered_up_to: msg_id(1),
                        seen_up_to: msg_id(0),
                        peer_delivered_up_to: msg_id(0),
                        peer_seen_up_to: 0,
                    }],
                    next: Bytes::from_static(b"next"),
                    more: true,
                    inbox_head: 42,
                    marks_version: 9,
                }),
            ),
        ),
    ]
}

fn groups() -> Vec<(&'static str, Frame)> {
    let op_id = client_id(1);
    vec![
        (
            "group_create",
            Frame::new(
                9,
                Body::GroupCreate(GroupCreate {
                    op_id: op_id.clone(),
                    name: "hikers".into(),
                    members: vec!["bob".into(), "Zoë".into()],
                }),
            ),
        ),
        (
            "group_update",
            Frame::new(
                10,
                Body::GroupUpdate(GroupUpdate {
                    op_id: op_id.clone(),
                    group: group(),
                    name: "climbers".into(),
                }),
            ),
        ),
        (
            "group_add",
            Frame::new(
                11,
                Body::GroupAdd(GroupAdd {
                    op_id: op_id.clone(),
                    group: group(),
                    members: vec!["carol".into()],
                }),
            ),
        ),
        (
            "group_remove",
            Frame::new(
                12,
                Body::GroupRemove(GroupRemove {
                    op_id: op_id.clone(),
                    group: group(),
                    members: vec![bob()],
                }),
            ),
        ),
        (
            "group_leave",
            Frame::new(
                13,
                Body::GroupLeave(GroupLeave {
                    op_id: op_id.clone(),
                    group: group(),
                }),
            ),
        ),
        (
            "group_role",
            Frame::new(
                14,
                Body::GroupRole(GroupRole {
                    op_id,
                    group: group(),
                    member: bob(),
                    role: Role::Admin.into(),
                }),
            ),
        ),
        (
            "group_get",
            Frame::new(15, Body::GroupGet(GroupGet { group: group() })),
        ),
        (
            "members",
            Frame::new(
                16,
                Body::Members(MembersGet {
                    group: group(),
                    cursor: Bytes::new(),
                    limit: 100,
                }),
            ),
        ),
        (
            "group_state",
            Frame::new(
                9,
                Body::GroupState(GroupState {
                    group: group(),
                    name: "hikers".into(),
                    members: 3,
                    my_role: Role::Owner.into(),
                    group_seq: 1,
                    msg_id: msg_id(0),
                    duplicate: true,
                    epoch: 1,
                }),
            ),
        ),
        (
            "members_page",
            Frame::new(
                16,
                Body::MembersPage(MembersPage {
                    group: group(),
                    members: vec![member()],
                    next: Bytes::from_static(b"next"),
                    more: true,
                }),
            ),
        ),
    ]
}

fn signals() -> Vec<(&'static str, Frame)> {
    vec![
        (
            "presence_subscribe",
            Frame::new(
                17,
                Body::PresenceSubscribe(PresenceSubscribe {
                    users: vec![alice(), bob()],
                }),
            ),
        ),
        (
            "presence",
            Body::Presence(Presence {
                user: alice(),
                state: PresenceState::Online.into(),
                last_seen_ms: 1_795_564_800_123,
            })
            .into(),
        ),
        (
            "typing",
            Body::Typing(Typing {
                conversation: alice(),
                on: true,
                user: 0,
            })
            .into(),
        ),
        ("done", Frame::new(17, Body::Done(Done {}))),
    ]
}

pub(super) fn samples() -> BTreeMap<&'static str, Frame> {
    [
        session(),
        messages_from_clients(),
        messages_from_servers(),
        groups(),
        signals(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
