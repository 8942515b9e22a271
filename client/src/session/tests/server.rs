//! A model of the server, with one device and one session.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::*;

/// What the server does, as docs/protocol.md says it.
#[derive(Default)]
pub(super) struct Server {
    pub(super) generation: u32,
    pub(super) clock: i64,
    pub(super) committed: Vec<(u64, ClientId)>,
    pub(super) answers: HashMap<ClientId, i64>,
    pub(super) inbox: Vec<frame::Event>,
    pub(super) acked: u64,
    pub(super) seen: BTreeMap<u64, i64>,
    pub(super) changed: BTreeMap<u64, u64>,
    pub(super) marks_version: u64,
    // Of the session.
    pub(super) failed: HashMap<u64, ClientId>,
    pub(super) written: u64,
    pub(super) credits: u32,
    pub(super) attached: bool,
    pub(super) sent_frames: u64,
    pub(super) to_client: VecDeque<Frame>,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            generation: 1,
            ..Self::default()
        }
    }

    pub(super) fn say(&mut self, req: u32, body: Body) {
        self.to_client.push_back(Frame::new(req, body));
    }

    pub(super) fn disconnect(&mut self) {
        self.failed.clear();
        self.to_client.clear();
        self.attached = false;
        self.credits = 0;
    }

    pub(super) fn hear(&mut self, frame: &Frame, fail: bool) {
        match frame.body.clone().unwrap() {
            Body::Hello(hello) => self.hello(&hello),
            Body::Send(send) => self.send(frame.req, &send, fail),
            Body::Ack(ack) => {
                assert!(
                    ack.inbox_seq <= self.written,
                    "an ACK beyond what was written"
                );
                self.acked = self.acked.max(ack.inbox_seq);
            }
            Body::Mark(mark) => {
                let seen = self.seen.entry(mark.conversation).or_default();
                if mark.seen_up_to > *seen {
                    *seen = mark.seen_up_to;
                    let seen_up_to = mark.seen_up_to;
                    self.marks_version += 1;
                    let version = self.marks_version;
                    self.changed.insert(mark.conversation, version);
                    self.say(
                        0,
                        receipt(version - 1, version, mark.conversation, ME, seen_up_to),
                    );
                }
            }
            Body::Credit(credit) if credit.lane == i32::from(frame::Lane::Events) => {
                self.credits += credit.n;
                self.deliver();
            }
            Body::Credit(_) | Body::Ping(_) => {}
            other => panic!("a client does not say {other:?}"),
        }
    }

    pub(super) fn hello(&mut self, hello: &frame::Hello) {
        self.attached = true;
        self.credits = hello.event_credits.unwrap();
        let head = self.inbox.len() as u64;
        self.say(
            0,
            Body::Welcome(frame::Welcome {
                user: ME,
                name: "me".into(),
                heartbeat_ms: 60_000,
                limits: Some(frame::Limits {
                    in_flight: 4,
                    ..frame::Limits::default()
                }),
                inbox_head: head,
                generation: self.generation,
                marks_version: self.marks_version,
                server_time_ms: 1_800_000_000_000,
                ..frame::Welcome::default()
            }),
        );
        self.written = head;
        if let Some(resume) = &hello.resume {
            if resume.generation != 0 && resume.generation != self.generation {
                self.say(0, Body::Gap(frame::Gap { oldest: 1, head }));
            } else {
                assert!(resume.inbox_seq <= head);
                self.written = resume.inbox_seq;
                self.say(
                    0,
                    Body::Resumed(frame::Resumed {
                        from: resume.inbox_seq,
                    }),
                );
                // A chain of the last change of each conversation.
                let mut from = resume.marks_version;
                let mut changes: Vec<_> = self.changed.iter().map(|(c, v)| (*v, *c)).collect();
                changes.sort_unstable();
                for (to, conversation) in changes {
                    if to > from {
                        let seen = self.seen[&conversation];
                        self.say(0, receipt(from, to, conversation, ME, seen));
                        from = to;
                    }
                }
            }
        }
        self.deliver();
    }

    pub(super) fn send(&mut self, req: u32, send: &frame::Send, fail: bool) {
        self.sent_frames += 1;
        let id = ClientId::from_slice(&send.client_msg_id).unwrap();
        let Some(frame::target::To::User(conversation)) = send.to.clone().unwrap().to else {
            panic!("only users here");
        };
        let abandons = ClientId::from_slice(&send.abandons);
        if let Some(failed) = self.failed.get(&conversation)
            && *failed != id
            && abandons != Some(*failed)
        {
            return self.refuse(req, Code::OutOfOrder);
        }
        if fail {
            self.failed.insert(conversation, id);
            return self.refuse(req, Code::Overloaded);
        }
        self.failed.remove(&conversation);
        let duplicate = self.answers.contains_key(&id);
        self.clock = self.clock.max(send.after) + 1;
        let next = self.clock;
        let msg_id = *self.answers.entry(id).or_insert(next);
        if !duplicate {
            assert!(send.after < msg_id);
            self.committed.push((conversation, id));
        }
        self.say(
            req,
            Body::Sent(frame::Sent {
                client_msg_id: send.client_msg_id.clone(),
                msg_id,
                duplicate,
                conversation,
                ..frame::Sent::default()
            }),
        );
    }

    pub(super) fn refuse(&mut self, req: u32, code: Code) {
        let error = Refused::new(code, "");
        self.say(
            req,
            Body::Error(frame::Error {
                code: error.number,
                retryable: error.retryable,
                ..frame::Error::default()
            }),
        );
    }

    pub(super) fn event(&mut self) {
        let inbox_seq = self.inbox.len() as u64 + 1;
        self.clock += 1_000;
        self.inbox.push(frame::Event {
            inbox_seq,
            conversation: 3,
            msg_id: self.clock,
            ..frame::Event::default()
        });
        self.deliver();
    }

    pub(super) fn deliver(&mut self) {
        if !self.attached {
            return;
        }
        let from = usize::try_from(self.written).unwrap();
        let count = (self.inbox.len() - from).min(self.credits as usize);
        if count > 0 {
            let events = self.inbox[from..from + count].to_vec();
            self.credits -= u32::try_from(count).unwrap();
            self.written += count as u64;
            self.say(0, Body::Event(frame::EventBatch { events }));
        }
    }
}

pub(super) fn receipt(from: u64, to: u64, conversation: u64, user: u64, seen_up_to: i64) -> Body {
    Body::Receipt(frame::Receipt {
        from_version: from,
        to_version: to,
        conversation,
        user,
        delivered_up_to: seen_up_to,
        seen_up_to,
    })
}
