//! Who may do what: every frame of the schema, from everybody, to a group, to a group
//! that does not exist, and every read by a stranger.
//!
//! The frames are those of the schema's descriptor, so that a frame without a row fails
//! here before anybody asks who may send it.

use bytes::Bytes;
use chat_wire::{
    codec::Encoding,
    error::Code,
    frame::{self, Body, DESCRIPTORS, group_change::Kind as Change},
    ids::{SessionId, UserId},
};
use prost::Message as _;

use super::groups::{group_of, say};
use crate::simulated::{Faults, Node};

/// Owner, admin, member, one who was a member, a stranger, and somebody of another app.
const ROLES: [&str; 6] = ["ann", "adm", "bob", "exe", "sue", "oda"];
/// Said in the group after `exe` was removed, and between `ann` and `bob` alone.
const SECRETS: [&str; 2] = ["said to the group", "said to bob alone"];

/// A frame, and what becomes of it from each of [`ROLES`]: `ok` is an answer, `-` none;
/// `end` stands before the code that the session ends with.
type Row = (&'static str, [&'static str; 6]);

const ALL_OK: [&str; 6] = ["ok"; 6];
const SILENT: [&str; 6] = ["-"; 6];
const SERVERS: [&str; 6] = ["end UNEXPECTED_FRAME"; 6];
const MEMBERS: [&str; 6] = ["ok", "ok", "ok", "NOT_MEMBER", "NOT_MEMBER", "NOT_FOUND"];
const ADMINS: [&str; 6] = [
    "ok",
    "ok",
    "NOT_ALLOWED",
    "NOT_MEMBER",
    "NOT_MEMBER",
    "NOT_FOUND",
];

const TABLE: &[Row] = &[
    ("hello", SERVERS),
    ("credit", SILENT),
    ("ping", ALL_OK),
    (
        "reauth",
        [
            "ok",
            "IDENTITY_CHANGED",
            "IDENTITY_CHANGED",
            "IDENTITY_CHANGED",
            "IDENTITY_CHANGED",
            "IDENTITY_CHANGED",
        ],
    ),
    ("welcome", SERVERS),
    ("resumed", SERVERS),
    ("gap", SERVERS),
    ("replaced", SERVERS),
    ("pong", SERVERS),
    ("token_expiring", SERVERS),
    ("goaway", SERVERS),
    ("error", SERVERS),
    ("send", MEMBERS),
    ("ack", SILENT),
    ("mark", SILENT),
    ("marks", MEMBERS),
    ("history", ALL_OK),
    ("conversations", ALL_OK),
    ("sent", SERVERS),
    ("event", SERVERS),
    ("receipt", SERVERS),
    ("marks_page", SERVERS),
    ("history_page", SERVERS),
    ("conversations_page", SERVERS),
    ("group_create", ALL_OK),
    ("group_update", ADMINS),
    ("group_add", ADMINS),
    ("group_remove", ADMINS),
    (
        "group_leave",
        [
            "LAST_OWNER",
            "ok",
            "ok",
            "NOT_MEMBER",
            "NOT_MEMBER",
            "NOT_FOUND",
        ],
    ),
    (
        "group_role",
        [
            "ok",
            "NOT_ALLOWED",
            "NOT_ALLOWED",
            "NOT_MEMBER",
            "NOT_MEMBER",
            "NOT_FOUND",
        ],
    ),
    ("group_get", MEMBERS),
    ("members", MEMBERS),
    ("group_state", SERVERS),
    ("members_page", SERVERS),
    ("presence_subscribe", ALL_OK),
    ("presence", SERVERS),
    ("typing", SILENT),
    ("done", SERVERS),
];

/// Frames that name a group: one that does not exist is NOT_FOUND for everybody.
const OF_A_GROUP: [&str; 9] = [
    "send",
    "marks",
    "group_update",
    "group_add",
    "group_remove",
    "group_leave",
    "group_role",
    "group_get",
    "members",
];

/// The kinds of frames, as the schema has them.
fn kinds() -> Vec<String> {
    let schema = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let messages = schema.file.iter().flat_map(|file| &file.message_type);
    let frame = messages.filter(|message| message.name() == "Frame");
    frame
        .flat_map(|frame| &frame.field)
        .filter(|field| field.oneof_index.is_some())
        .map(|field| field.name().to_owned())
        .collect()
}

fn user(name: &str) -> u64 {
    UserId::of("default", name).0
}

/// A group with something in it, and everybody's session.
struct World {
    node: Node,
    group: u64,
    sessions: [SessionId; 6],
}

impl World {
    fn new() -> Self {
        let mut node = Node::new(4, 7);
        let sessions = ROLES.map(|name| {
            if name != "oda" {
                return node.attach(name, 1, None);
            }
            let session = node.open(Encoding::Proto);
            let hello = frame::Hello {
                token: "other/oda".into(),
                ..Node::hello("", 1, None)
            };
            node.frame(session, 0, Body::Hello(hello));
            node.run(100);
            session
        });
        let ann = sessions[0];
        let members = ["adm", "bob", "exe", "cid"];
        let group = group_of(&mut node, ann, 1, &members).group;
        let role = frame::GroupRole {
            op_id: op(&mut node),
            group,
            member: user("adm"),
            role: frame::Role::Admin.into(),
        };
        node.frame(ann, 2, Body::GroupRole(role));
        node.wait(ann, 2);
        let remove = frame::GroupRemove {
            op_id: op(&mut node),
            group,
            members: vec![user("exe")],
        };
        node.frame(ann, 3, Body::GroupRemove(remove));
        node.wait(ann, 3);
        say(&mut node, ann, 4, group, SECRETS[0]);
        node.wait_sent(ann, 4);
        node.text(ann, 5, "bob", SECRETS[1]);
        node.wait_sent(ann, 5);
        node.run(1_500);
        Self {
            node,
            group,
            sessions,
        }
    }

    /// What becomes of a frame.
    fn outcome(&mut self, role: usize, kind: &str, group: u64) -> String {
        const REQ: u32 = 900;
        let session = self.sessions[role];
        let silent = ["ack", "credit", "mark", "typing"].contains(&kind);
        let body = body(&mut self.node, kind, group);
        self.node.frame(session, if silent { 0 } else { REQ }, body);
        self.node.run(1_500);
        if let Some(code) = self.node.closed(session) {
            return format!("end {}", code.name());
        }
        let answer = if silent {
            self.node
                .frames(session)
                .filter_map(|frame| frame.body.clone())
                .find(|body| matches!(body, Body::Error(_)))
        } else {
            self.node.answer(session, REQ)
        };
        match answer {
            None => "-".into(),
            Some(Body::Error(error)) => Code::from_number(error.code).unwrap().name().into(),
            Some(_) => "ok".into(),
        }
    }

    /// The group as its owner sees it.
    fn group_state(&mut self) -> String {
        let ann = self.sessions[0];
        let group = self.group;
        let members = frame::MembersGet {
            group,
            ..frame::MembersGet::default()
        };
        let get = frame::GroupGet { group };
        let marks = frame::MarksGet {
            group,
            ..frame::MarksGet::default()
        };
        self.node.frame(ann, 950, Body::Members(members));
        self.node.frame(ann, 951, Body::GroupGet(get));
        self.node.frame(ann, 952, Body::Marks(marks));
        let said = [950, 951, 952].map(|req| self.node.wait(ann, req));
        format!("{said:?}")
    }
}

fn op(node: &mut Node) -> Bytes {
    Bytes::copy_from_slice(&node.id().0)
}

/// A frame of a kind about a group. A kind that is not known here is a frame without a
/// row: say who may send it.
fn body(node: &mut Node, kind: &str, group: u64) -> Body {
    let op_id = op(node);
    match kind {
        "hello" => Body::Hello(Node::hello("ann", 1, None)),
        "credit" => Body::Credit(frame::Credit {
            lane: frame::Lane::Events.into(),
            n: 1,
        }),
        "ping" => Body::Ping(frame::Ping {}),
        "reauth" => Body::Reauth(frame::Reauth {
            token: "default/ann".into(),
        }),
        "welcome" => Body::Welcome(frame::Welcome::default()),
        "resumed" => Body::Resumed(frame::Resumed::default()),
        "gap" => Body::Gap(frame::Gap::default()),
        "replaced" => Body::Replaced(frame::Replaced {}),
        "pong" => Body::Pong(frame::Pong::default()),
        "token_expiring" => Body::TokenExpiring(frame::TokenExpiring::default()),
        "goaway" => Body::Goaway(frame::Goaway::default()),
        "error" => Body::Error(frame::Error::default()),
        "send" => {
            let to = frame::target::To::Group(group);
            Body::Send(Node::send_of(node.id(), to, "from outside"))
        }
        "ack" => Body::Ack(frame::Ack { inbox_seq: 0 }),
        "mark" => Body::Mark(frame::Mark {
            conversation: group,
            seen_up_to: i64::MAX,
        }),
        "marks" => Body::Marks(frame::MarksGet {
            group,
            ..frame::MarksGet::default()
        }),
        "history" => Body::History(frame::HistoryGet {
            conversation: group,
            from: Some(frame::history_get::From::Before(0)),
            limit: 0,
        }),
        "conversations" => Body::Conversations(frame::ConversationsGet::default()),
        "sent" => Body::Sent(frame::Sent::default()),
        "event" => Body::Event(frame::EventBatch::default()),
        "receipt" => Body::Receipt(frame::Receipt::default()),
        "marks_page" => Body::MarksPage(frame::MarksPage::default()),
        "history_page" => Body::HistoryPage(frame::HistoryPage::default()),
        "conversations_page" => Body::ConversationsPage(frame::ConversationsPage::default()),
        "group_create" => Body::GroupCreate(frame::GroupCreate {
            op_id,
            name: "another".into(),
            members: vec!["ann".into()],
        }),
        "group_update" => Body::GroupUpdate(frame::GroupUpdate {
            op_id,
            group,
            name: "renamed".into(),
        }),
        "group_add" => Body::GroupAdd(frame::GroupAdd {
            op_id,
            group,
            members: vec!["sue".into()],
        }),
        "group_remove" => Body::GroupRemove(frame::GroupRemove {
            op_id,
            group,
            members: vec![user("cid")],
        }),
        "group_leave" => Body::GroupLeave(frame::GroupLeave { op_id, group }),
        "group_role" => Body::GroupRole(frame::GroupRole {
            op_id,
            group,
            member: user("cid"),
            role: frame::Role::Admin.into(),
        }),
        "group_get" => Body::GroupGet(frame::GroupGet { group }),
        "members" => Body::Members(frame::MembersGet {
            group,
            ..frame::MembersGet::default()
        }),
        "group_state" => Body::GroupState(frame::GroupState::default()),
        "members_page" => Body::MembersPage(frame::MembersPage::default()),
        "presence_subscribe" => Body::PresenceSubscribe(frame::PresenceSubscribe {
            users: ["ann", "adm", "bob", "cid"].map(user).to_vec(),
        }),
        "presence" => Body::Presence(frame::Presence::default()),
        "typing" => Body::Typing(frame::Typing {
            conversation: group,
            on: true,
            user: 0,
        }),
        "done" => Body::Done(frame::Done {}),
        other => panic!("{other} is a frame without a row in this table: who may send it?"),
    }
}

#[test]
fn every_frame_is_carried_out_for_those_who_may_and_for_nobody_else() {
    let kinds = kinds();
    let rows: Vec<_> = TABLE.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(rows, kinds, "a row for every frame of the schema");
    let mut wrong = Vec::new();
    for (kind, expected) in TABLE {
        for (role, expected) in expected.iter().enumerate() {
            let mut world = World::new();
            let before = world.group_state();
            let group = world.group;
            let outcome = world.outcome(role, kind, group);
            if outcome != *expected {
                wrong.push(format!(
                    "{kind} of {}: {outcome}, not {expected}",
                    ROLES[role]
                ));
            }
            let outside = role >= 3;
            // An owner who is not there any more cannot be asked.
            if world.node.closed(world.sessions[0]).is_none() {
                let changed = world.group_state() != before;
                if changed && (outside || outcome != "ok") && !SILENT.contains(expected) {
                    wrong.push(format!("{kind} of {} changed the group", ROLES[role]));
                }
                if changed && outside {
                    wrong.push(format!("{kind} of the outsider {}: a change", ROLES[role]));
                }
            }
            let told: Vec<_> = world.node.frames(world.sessions[role]).collect();
            let told = format!("{told:?}");
            for secret in SECRETS {
                if outside && told.contains(secret) {
                    wrong.push(format!("{kind} told {} what was {secret}", ROLES[role]));
                }
            }
            let typing = |session: &SessionId| {
                let mut frames = world.node.frames(*session);
                frames.any(|frame| matches!(frame.body, Some(Body::Typing(_))))
            };
            if *kind == "typing" && outside && world.sessions[..3].iter().any(typing) {
                wrong.push(format!("typing of {} reached members", ROLES[role]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_group_that_does_not_exist_is_not_found_by_anybody() {
    let mut wrong = Vec::new();
    for kind in OF_A_GROUP {
        for (role, name) in ROLES.iter().enumerate() {
            let mut world = World::new();
            // A group's id of the same form, and no group.
            let missing = world.group ^ 2;
            let outcome = world.outcome(role, kind, missing);
            if outcome != "NOT_FOUND" {
                wrong.push(format!("{kind} of {name}: {outcome}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_stranger_reads_nothing_by_any_read() {
    let mut world = World::new();
    let group = world.group;
    for (role, name) in ROLES.iter().enumerate().skip(3) {
        let session = world.sessions[role];
        let mut req = 100;
        for conversation in [group, user("ann"), user("bob"), user("cid"), user(name)] {
            let history = |from| {
                Body::History(frame::HistoryGet {
                    conversation,
                    from: Some(from),
                    limit: 0,
                })
            };
            let read = |cursor: &[u8]| {
                [
                    Body::Members(frame::MembersGet {
                        group: conversation,
                        cursor: Bytes::copy_from_slice(cursor),
                        limit: 0,
                    }),
                    Body::Marks(frame::MarksGet {
                        group: conversation,
                        follow: true,
                        cursor: Bytes::copy_from_slice(cursor),
                        limit: 0,
                    }),
                    Body::Conversations(frame::ConversationsGet {
                        cursor: Bytes::copy_from_slice(cursor),
                        limit: 0,
                    }),
                ]
            };
            let mut reads = vec![
                history(frame::history_get::From::Before(0)),
                history(frame::history_get::From::Before(i64::MAX)),
                history(frame::history_get::From::After(0)),
                Body::GroupGet(frame::GroupGet {
                    group: conversation,
                }),
                Body::PresenceSubscribe(frame::PresenceSubscribe {
                    users: vec![conversation],
                }),
            ];
            reads.extend(read(b""));
            // A cursor that somebody else could have had.
            reads.extend(read(&user("bob").to_be_bytes()));
            for body in reads {
                req += 1;
                world.node.frame(session, req, body);
                world.node.wait(session, req);
                let lane = frame::Lane::Bulk.into();
                let credit = Body::Credit(frame::Credit { lane, n: 1 });
                world.node.frame(session, 0, credit);
            }
        }
        // What happens from now on is told to members only, followed or not.
        say(
            &mut world.node,
            world.sessions[0],
            60 + req,
            group,
            SECRETS[0],
        );
        let seen = world.node.wait_sent(world.sessions[0], 60 + req).msg_id;
        let mark = frame::Mark {
            conversation: group,
            seen_up_to: seen,
        };
        world.node.frame(world.sessions[2], 0, Body::Mark(mark));
        world.node.run(2_000);
        assert_eq!(world.node.closed(session), None);
        let told: Vec<_> = world.node.frames(session).collect();
        let told = format!("{told:?}");
        for secret in SECRETS {
            assert!(!told.contains(secret), "{name} was told what was {secret}");
        }
        assert_eq!(world.node.receipts(session), [], "marks of others");
        let online = world.node.frames(session).any(|frame| {
            matches!(&frame.body, Some(Body::Presence(presence))
                if presence.state() != frame::PresenceState::Offline)
        });
        assert!(!online, "{name} sees who is online");
        if *name != "exe" {
            assert!(!told.contains("the group"), "{name} was told its name");
        }
    }
}

#[test]
fn who_is_removed_while_others_send_has_all_before_the_removal_and_nothing_after() {
    const SENDS: u32 = 30;
    for seed in 0..30 {
        let mut node = Node::new(4, seed);
        let [ann, adm, bob, cid] =
            ["ann", "adm", "bob", "cid"].map(|name| node.attach(name, 1, None));
        let group = group_of(&mut node, ann, 1, &["adm", "bob", "cid"]).group;
        node.run(500);
        node.faults = Faults {
            full: 0,
            ..Faults::BAD
        };
        let role = frame::GroupRole {
            op_id: op(&mut node),
            group,
            member: user("adm"),
            role: frame::Role::Admin.into(),
        };
        node.frame(ann, 2, Body::GroupRole(role));
        node.wait(ann, 2);
        let at = u32::try_from(node.chance.below(SENDS.into())).unwrap();
        for send in 0..SENDS {
            let sender = if send % 2 == 0 { ann } else { bob };
            say(&mut node, sender, 100 + send, group, &format!("no. {send}"));
            if send == at {
                let remove = frame::GroupRemove {
                    op_id: op(&mut node),
                    group,
                    members: vec![user("cid")],
                };
                node.frame(adm, 3, Body::GroupRemove(remove));
            }
            let pause = node.chance.below(8);
            node.run(pause);
        }
        for send in 0..SENDS {
            node.wait_sent(if send % 2 == 0 { ann } else { bob }, 100 + send);
        }
        assert!(matches!(node.wait(adm, 3), Body::GroupState(_)));
        let events = |node: &Node, session| -> Vec<frame::Event> {
            let mut events = node.events(session);
            // Each inbox counts for itself.
            events.iter_mut().for_each(|event| event.inbox_seq = 0);
            events
        };
        let whole = 3 + SENDS as usize;
        node.run_until(60_000, |node| events(node, adm).len() == whole);
        node.run(5_000);
        let all = events(&node, adm);
        assert_eq!(all.len(), whole, "seed {seed}");
        let removal = all
            .iter()
            .position(is_removal)
            .expect("the admin sees the removal");
        let had = events(&node, cid);
        assert_eq!(
            had,
            all[..=removal],
            "seed {seed}: up to the removal, and no further"
        );
    }
}

fn is_removal(event: &frame::Event) -> bool {
    matches!(&event.what, Some(frame::event::What::GroupChange(change))
        if change.kind() == Change::Removed)
}
