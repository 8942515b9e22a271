//! One device's session, from HELLO to GOAWAY: checks what the client says, routes
//! it to shards, and writes what they answer. Stepped by the connection's task.
//!
//! ```text
//! HELLO ─▶ Authenticate ─▶ Attach ─▶ WELCOME, RESUMED or GAP ─▶ events, requests … ─▶ over
//! ```
//! An idle attached session holds a few hundred bytes: what requests in flight need
//! is allocated with the first of them and freed with the last.
//!
//! Known limit: a session lives with one attachment. If its shard goes away it is
//! closed, retryable, and the client resumes.

mod check;
mod kept;
mod opening;
mod order;
mod purse;
mod requests;
mod serving;

use bytes::Bytes;
use chat_wire::{
    codec::{self, Encoding},
    error::{Code, Refusal},
    frame::{self, Body, Frame},
    ids::{ClientId, ConversationId, DeviceId, GroupId, SessionId, UserId},
    limits::{HELLO_TIMEOUT_MS, Limits},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

pub use purse::device_rate;
pub use requests::{group_digest, send_digest};

use crate::{
    cost,
    message::{Identity, Now, Request, ToSession, ToShard},
    placement::map::ShardMap,
    router,
};
use kept::Kept;
use order::Lanes;
use purse::Purse;

/// Reads that wait for bulk credits at most; one more is OVERLOADED.
const MAX_WAITING_READS: usize = 16;
/// Groups whose marks one session follows at most; one more is LIMIT_EXCEEDED.
const MAX_FOLLOWED: usize = 32;
/// Groups whose size a session remembers.
const MAX_SIZES: usize = 16;
/// Credits a client can have granted at most; what is above is not counted.
const MAX_CREDITS: u32 = 1 << 20;
/// How long a client is not read that does not wait when it is told to.
const PAUSE_MS: u64 = 20;
/// How long before its end a token is said to end.
const EXPIRY_NOTICE_MS: u64 = 60_000;

/// What happens to a session.
#[derive(Debug)]
pub enum Input {
    /// A frame came.
    Frame(Frame),
    /// Bytes came that are no frame: the session tells the client and ends.
    BadFrame(Refusal),
    /// The answer to [`Output::Authenticate`].
    Authenticated(Result<Identity, Refusal>),
    /// A host says something.
    Host(ToSession),
    /// A [`Output::Submit`] found the host's queue full; it comes back.
    Overloaded(ToShard),
    /// The server drains: GOAWAY, then the session goes on until the client leaves
    /// or the daemon closes it.
    Drain {
        /// The client reconnects at a random time within this.
        reconnect_within_ms: u32,
    },
    /// The connection is gone, or the edge ends it: nothing more can be written. The
    /// session detaches; step it until [`Session::is_over`].
    Lost,
    /// Time has passed: the deadline of [`Session::deadline_ms`] is due.
    Tick,
}

/// What a session wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Write this frame. Bulk frames (pages) may go on a stream of their own.
    Write {
        /// The encoded frame.
        bytes: Bytes,
        /// A PAGE.
        bulk: bool,
    },
    /// Check this token and answer with [`Input::Authenticated`].
    Authenticate(String),
    /// Hand this to the host of its shard.
    Submit(ToShard),
    /// End the connection after what was written. A WebSocket closes with 1000 for
    /// none, else with 4000 + code; QUIC with the code.
    Close(Option<Refusal>),
}

/// What all sessions of a daemon share.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// What clients may send.
    pub limits: Limits,
    /// What WELCOME tells clients: send something at least this often.
    pub heartbeat_ms: u32,
    /// Key of the resume token's MAC. Another key makes old tokens void, which costs
    /// their clients nothing but the shortcut.
    pub resume_key: [u8; 32],
    /// What this server can, as WELCOME lists it.
    pub capabilities: Vec<String>,
    /// How long the server may take to check a token, and then a shard to attach the
    /// session, before it is UNAVAILABLE.
    pub attach_timeout_ms: u64,
}

impl SessionSettings {
    /// Defaults around a key.
    #[must_use]
    pub fn new(limits: Limits, resume_key: [u8; 32]) -> Self {
        Self {
            limits,
            heartbeat_ms: 270_000,
            resume_key,
            capabilities: ["groups", "marks", "presence", "typing"]
                .map(String::from)
                .to_vec(),
            attach_timeout_ms: 10_000,
        }
    }
}

/// One session. Call [`Session::step`] with everything that happens, do what comes
/// out in that order, and step it with [`Input::Tick`] when its deadline is due.
#[derive(Debug)]
pub struct Session {
    settings: Arc<SessionSettings>,
    map: Arc<ShardMap>,
    id: SessionId,
    encoding: Encoding,
    state: State,
    salts: Salts,
    /// Set from authentication on.
    identity: Option<Box<Identity>>,
    device: DeviceId,
    /// When the token ends, on the clock that never goes back.
    expires_at_ms: u64,
    expiry_told: bool,
    /// The request number of a REAUTH whose token is being checked.
    reauth: Option<u32>,
    purse: Purse,
    sizes: Sizes,
    bulk_credits: u32,
    work: Option<Box<Work>>,
    kept: Option<Box<Kept>>,
}

#[derive(Debug)]
enum State {
    /// Nothing came yet.
    Hello { until_ms: u64 },
    /// The token is being checked.
    Authenticating {
        until_ms: u64,
        hello: Box<frame::Hello>,
    },
    /// The shard is asked.
    Attaching { until_ms: u64, event_credits: u32 },
    /// Attached.
    Live,
    /// Nothing more is written.
    Over,
}

/// What requests in flight need; freed when none is.
#[derive(Debug, Default)]
struct Work {
    in_flight: BTreeMap<u32, Waiting>,
    lanes: Lanes,
    waiting_reads: VecDeque<(u32, ToShard)>,
    followed: BTreeSet<GroupId>,
}

#[derive(Clone, Copy, Debug)]
enum Waiting {
    Send {
        id: ClientId,
        conversation: ConversationId,
        bytes: u32,
        charged: u32,
    },
    /// A change of a group; it may make so many inboxes.
    Change {
        charged: u32,
        names: u32,
    },
    /// Its answer is a PAGE, and a bulk credit is reserved for it.
    Bulk {
        charged: u32,
    },
    Other,
}

/// How many members the groups had that this session sent to last: what the next message
/// costs is known before it is sent. One that is not here is taken for
/// [`cost::UNKNOWN_MEMBERS`].
#[derive(Debug, Default)]
struct Sizes(Option<Box<[(u64, u32); MAX_SIZES]>>);

impl Sizes {
    fn of(&self, group: GroupId) -> u32 {
        let known = self.0.iter().flat_map(|sizes| sizes.iter());
        known
            .filter(|(id, _)| *id == group.0)
            .map(|(_, members)| *members)
            .next()
            .unwrap_or(cost::UNKNOWN_MEMBERS)
    }

    /// The newest stands first, and the last one makes room.
    fn learn(&mut self, group: GroupId, members: u32) {
        let sizes = self.0.get_or_insert_default();
        let at = sizes.iter().position(|(id, _)| *id == group.0);
        sizes[..=at.unwrap_or(MAX_SIZES - 1)].rotate_right(1);
        sizes[0] = (group.0, members);
    }
}

/// Salts of bodies: BLAKE3 keyed with the session's seed, over a counter.
#[derive(Debug)]
struct Salts {
    seed: [u8; 32],
    drawn: u64,
}

impl Salts {
    fn draw(&mut self) -> [u8; 16] {
        self.drawn += 1;
        let hash = blake3::keyed_hash(&self.seed, &self.drawn.to_be_bytes());
        let mut salt = [0; 16];
        salt.copy_from_slice(&hash.as_bytes()[..16]);
        salt
    }
}

impl Session {
    /// A session whose connection was just accepted: HELLO is awaited. `salt_seed`
    /// must be drawn anew for every session.
    #[must_use]
    pub fn new(
        settings: Arc<SessionSettings>,
        id: SessionId,
        encoding: Encoding,
        map: Arc<ShardMap>,
        salt_seed: [u8; 32],
        now: Now,
    ) -> Self {
        let purse = Purse::new(&settings.limits, now);
        let bulk_credits = settings.limits.bulk_credits;
        Self {
            settings,
            map,
            id,
            encoding,
            state: State::Hello {
                until_ms: now.mono_ms + HELLO_TIMEOUT_MS,
            },
            salts: Salts {
                seed: salt_seed,
                drawn: 0,
            },
            identity: None,
            device: DeviceId(0),
            expires_at_ms: u64::MAX,
            expiry_told: false,
            reauth: None,
            purse,
            sizes: Sizes::default(),
            bulk_credits,
            work: None,
            kept: None,
        }
    }

    /// The client has until then for HELLO, and not the whole time: some of it went by
    /// before there was a session.
    #[must_use]
    pub fn hello_by(mut self, until_ms: u64) -> Self {
        self.state = State::Hello { until_ms };
        self
    }

    /// Takes one thing that happened.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        self.take(now, input, out);
        if self.purse.says(&self.settings.limits) {
            self.say_spent(out);
        }
    }

    fn take(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        if let State::Over = self.state {
            match input {
                Input::Overloaded(to)
                    if matches!(to.request, Request::Detach { .. } | Request::Spent { .. }) =>
                {
                    self.keep(now, to, out);
                }
                Input::Tick => self.offer_kept(now, out),
                _ => {}
            }
            return;
        }
        match input {
            Input::Frame(frame) => self.frame(now, frame, out),
            Input::BadFrame(refusal) => self.end(refusal, out),
            Input::Authenticated(result) => self.authenticated(now, result, out),
            Input::Host(message) => self.host(now, message, out),
            Input::Overloaded(to) => self.came_back(now, to, out),
            Input::Drain {
                reconnect_within_ms,
            } => self.drain(reconnect_within_ms, out),
            Input::Lost => self.over(out),
            Input::Tick => self.tick(now, out),
        }
    }

    /// When [`Input::Tick`] is due, on the clock that never goes back.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        let kept = self.kept.as_ref().map(|kept| kept.due_ms);
        let own = match self.state {
            State::Hello { until_ms }
            | State::Authenticating { until_ms, .. }
            | State::Attaching { until_ms, .. } => Some(until_ms),
            State::Live if self.expires_at_ms == u64::MAX => None,
            State::Live if self.expiry_told => Some(self.expires_at_ms),
            State::Live => Some(self.expires_at_ms.saturating_sub(EXPIRY_NOTICE_MS)),
            State::Over => None,
        };
        own.into_iter().chain(kept).min()
    }

    /// Whose session it is, once a token said so.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        self.identity.as_ref().map(|identity| identity.user)
    }

    /// The app of its user, once a token said so.
    #[must_use]
    pub fn app(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| identity.app.as_str())
    }

    /// What its requests have cost since it began, in units: see [`crate::cost`].
    #[must_use]
    pub const fn spent(&self) -> u64 {
        self.purse.total()
    }

    /// How long nothing more should be read from the client, in ms: it goes on asking although
    /// it is told to wait. Asked after each read.
    pub fn take_pause_ms(&mut self) -> Option<u64> {
        self.purse.take_hammers().then_some(PAUSE_MS)
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Whether it is attached and serves requests.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.state, State::Live)
    }

    /// Whether it has ended and said so to its shards: it can be dropped.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over) && self.kept.is_none()
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Output>) {
        match self.state {
            State::Hello { until_ms } if now.mono_ms >= until_ms => {
                let late = "no HELLO in time: send it at once";
                return self.end(Refusal::new(Code::HelloTimeout, late), out);
            }
            State::Authenticating { until_ms, .. } | State::Attaching { until_ms, .. }
                if now.mono_ms >= until_ms =>
            {
                let late = "the server did not get ready for this session in time: connect again";
                return self.end(Refusal::new(Code::Unavailable, late), out);
            }
            State::Live if now.mono_ms >= self.expires_at_ms => {
                let ended = "the token's time is over: connect with a new one";
                return self.end(Refusal::new(Code::TokenExpired, ended), out);
            }
            State::Live
                if !self.expiry_told
                    && now.mono_ms >= self.expires_at_ms.saturating_sub(EXPIRY_NOTICE_MS) =>
            {
                self.expiry_told = true;
                let in_ms = self.expires_at_ms - now.mono_ms;
                self.write(0, Body::TokenExpiring(frame::TokenExpiring { in_ms }), out);
            }
            _ => {}
        }
        self.offer_kept(now, out);
    }

    fn drain(&mut self, reconnect_within_ms: u32, out: &mut Vec<Output>) {
        if !self.is_live() {
            let going = "the server is going away: connect again";
            return self.end(Refusal::new(Code::GoingAway, going), out);
        }
        let goaway = frame::Goaway {
            reason: "the server is going away".into(),
            reconnect_within_ms,
            endpoint: String::new(),
        };
        self.write(0, Body::Goaway(goaway), out);
    }

    /// Tells the client why, and ends.
    fn end(&mut self, refusal: Refusal, out: &mut Vec<Output>) {
        self.write_frame(&refusal.to_frame(0), false, out);
        self.over(out);
        out.push(Output::Close(Some(refusal)));
    }

    /// Ends without a word to the client; shards are told.
    fn over(&mut self, out: &mut Vec<Output>) {
        let attached = matches!(self.state, State::Attaching { .. } | State::Live);
        // An Attach that no queue has taken needs no Detach, but one does no harm.
        self.state = State::Over;
        if let Some(kept) = &mut self.kept {
            kept.only_detach();
        }
        self.kept = self.kept.take().filter(|kept| !kept.is_empty());
        let work = self.work.take();
        let Some(user) = self.user().filter(|_| attached) else {
            return;
        };
        self.say_spent(out);
        let mut shards = BTreeSet::from([router::of_user(&self.map, user)]);
        let followed = work.map(|work| work.followed).unwrap_or_default();
        shards.extend(
            followed
                .into_iter()
                .map(|group| router::of_group(&self.map, group)),
        );
        let request = Request::Detach {
            session: self.id,
            user,
        };
        out.extend(shards.into_iter().map(|shard| {
            Output::Submit(ToShard {
                shard,
                request: request.clone(),
            })
        }));
    }

    /// A queue was full.
    fn came_back(&mut self, now: Now, to: ToShard, out: &mut Vec<Output>) {
        let full = || Refusal::new(Code::Overloaded, "the shard's queue is full: try again");
        match &to.request {
            Request::Send { origin, .. }
            | Request::GroupOp { origin, .. }
            | Request::Read { origin, .. }
            | Request::ReadGroup { origin, .. }
            | Request::PresenceSubscribe { origin, .. } => {
                self.refused(now, origin.req, full(), out);
            }
            // Typing is dropped first.
            Request::Typing { .. } => {}
            _ => self.keep(now, to, out),
        }
    }

    /// What was spent is said to the user's shard.
    fn say_spent(&mut self, out: &mut Vec<Output>) {
        let Some(user) = self.user() else { return };
        if let Some((units, inboxes)) = self.purse.say() {
            let request = Request::Spent {
                session: self.id,
                user,
                device: self.device,
                units,
                inboxes,
            };
            let shard = router::of_user(&self.map, user);
            out.push(Output::Submit(ToShard { shard, request }));
        }
    }

    fn keep(&mut self, now: Now, to: ToShard, out: &mut Vec<Output>) {
        self.kept.get_or_insert_default().due_ms = now.mono_ms + kept::RETRY_MS;
        self.keep_on(to, out);
    }

    /// Keeps it with what is kept, if that is not too much.
    fn keep_on(&mut self, to: ToShard, out: &mut Vec<Output>) {
        if !self.kept.get_or_insert_default().keep(to) {
            let many = format!(
                "the shard's queue is full and {} marks wait: connect again",
                kept::MAX_MARKS
            );
            self.end(Refusal::new(Code::Overloaded, many), out);
        }
    }

    fn offer_kept(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(kept) = self.kept.take_if(|kept| now.mono_ms >= kept.due_ms) else {
            return;
        };
        let Some(user) = self.user() else { return };
        let shard = router::of_user(&self.map, user);
        out.extend(
            kept.offer(self.id, (user, self.device), shard)
                .into_iter()
                .map(Output::Submit),
        );
    }

    fn write(&self, req: u32, body: Body, out: &mut Vec<Output>) {
        let bulk = is_page(&body);
        self.write_frame(&Frame::new(req, body), bulk, out);
    }

    fn write_frame(&self, frame: &Frame, bulk: bool, out: &mut Vec<Output>) {
        out.push(Output::Write {
            bytes: codec::encode(self.encoding, frame),
            bulk,
        });
    }
}

/// Whether a frame belongs to the bulk lane.
const fn is_page(body: &Body) -> bool {
    matches!(
        body,
        Body::HistoryPage(_)
            | Body::ConversationsPage(_)
            | Body::MembersPage(_)
            | Body::MarksPage(_)
    )
}

#[cfg(test)]
mod tests;
