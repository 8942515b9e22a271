//! Who is served next: users take turns on a shard thread, by what their requests cost there
//! (see [`cost::at_once`]). In one pass a user has at most `turn_units` done before the
//! others', and all together `pass_units`; what is more waits, and gets its turn in the
//! next pass, round robin, up to half of it, before what has come meanwhile.
//!
//! So a request waits behind at most one and a half times `pass_units`, and the last request
//! that was begun within them. What waits of one user keeps its order, whichever session it is from; ACK,
//! MARK, CREDIT and what was spent do not wait.
//!
//! The way of a request that need not wait is a sum and a comparison: users share
//! [`COUNTERS`] counters by their id, and two who meet in one wait a pass longer at worst.
//!
//! Bounds: [`MAX_WAITING`] requests and [`MAX_WAITING_BYTES`] of their bodies. At the bound
//! the newest request of the user who has most waiting is refused as OVERLOADED.

use chat_wire::ids::UserId;
use std::collections::{BTreeMap, VecDeque};

use crate::{
    cost,
    message::{Request, ToShard},
};

/// Requests that wait for their turn.
pub(super) const MAX_WAITING: usize = 8 * 1024;
/// Bytes of their bodies.
pub(super) const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;
const COUNTERS: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    turn_units: u32,
    pass_units: u32,
    /// Units of this pass, by user.
    spent: [u32; COUNTERS],
    /// Units of this pass.
    pass: u32,
    waiting: BTreeMap<UserId, VecDeque<ToShard>>,
    /// Who has something waiting, in the order of turns.
    order: VecDeque<UserId>,
    requests: usize,
    bytes: usize,
}

impl Turns {
    pub(super) fn new(turn_units: u32, pass_units: u32) -> Self {
        Self {
            turn_units,
            pass_units,
            spent: [0; COUNTERS],
            pass: 0,
            waiting: BTreeMap::new(),
            order: VecDeque::new(),
            requests: 0,
            bytes: 0,
        }
    }

    /// Whether something waits for its turn.
    pub(super) fn is_waiting(&self) -> bool {
        self.requests > 0
    }

    /// Gives a request its turn now, or keeps it.
    pub(super) fn admit(&mut self, to: ToShard) -> Admitted {
        if is_signal(&to.request) {
            return Admitted::Now(to);
        }
        let user = payer(&to.request);
        let is_waiting = self.requests > 0 && self.waiting.contains_key(&user);
        // A session that has nothing waiting ends at once: that frees something.
        let ends = matches!(to.request, Request::Detach { .. });
        if !is_waiting && (ends || self.has_turn(user)) {
            self.charge(user, &to);
            return Admitted::Now(to);
        }
        self.keep(user, to)
    }

    /// A pass begins: what waits has its turn first, and up to half of the pass.
    pub(super) fn begin_pass(&mut self) {
        self.spent = [0; COUNTERS];
        self.pass = 0;
    }

    /// The next of those who waited.
    pub(super) fn next(&mut self) -> Option<ToShard> {
        for _ in 0..self.order.len() {
            if self.pass >= self.pass_units / 2 {
                return None;
            }
            let user = *self.order.front()?;
            if !self.has_turn(user) {
                self.order.rotate_left(1);
                continue;
            }
            let to = self.take(user, VecDeque::pop_front)?;
            self.charge(user, &to);
            return Some(to);
        }
        None
    }

    fn has_turn(&self, user: UserId) -> bool {
        self.pass < self.pass_units && self.spent[counter(user)] < self.turn_units
    }

    fn charge(&mut self, user: UserId, to: &ToShard) {
        let units = cost::at_once(&to.request);
        let spent = &mut self.spent[counter(user)];
        *spent = spent.saturating_add(units);
        self.pass = self.pass.saturating_add(units);
    }

    fn keep(&mut self, user: UserId, to: ToShard) -> Admitted {
        let bytes = body_bytes(&to);
        let full =
            |turns: &Self| turns.requests >= MAX_WAITING || turns.bytes + bytes > MAX_WAITING_BYTES;
        let mut refused = Vec::new();
        // What ends a session comes once for each, and is not refused.
        while full(self) && !matches!(to.request, Request::Detach { .. }) {
            let heaviest = self.heaviest();
            let Some(heaviest) = heaviest.filter(|heaviest| *heaviest != user) else {
                refused.push(to);
                return Admitted::Refused(refused);
            };
            refused.extend(self.take(heaviest, VecDeque::pop_back));
        }
        self.requests += 1;
        self.bytes += bytes;
        let queue = self.waiting.entry(user).or_default();
        if queue.is_empty() {
            self.order.push_back(user);
        }
        queue.push_back(to);
        if refused.is_empty() {
            Admitted::Later
        } else {
            Admitted::Refused(refused)
        }
    }

    /// The user with most requests waiting.
    fn heaviest(&self) -> Option<UserId> {
        let most = self.waiting.iter().max_by_key(|(_, queue)| queue.len());
        most.map(|(user, _)| *user)
    }

    fn take(
        &mut self,
        user: UserId,
        end: fn(&mut VecDeque<ToShard>) -> Option<ToShard>,
    ) -> Option<ToShard> {
        let queue = self.waiting.get_mut(&user)?;
        let to = end(queue)?;
        if queue.is_empty() {
            self.waiting.remove(&user);
            self.order.retain(|other| *other != user);
        }
        self.requests -= 1;
        self.bytes -= body_bytes(&to);
        Some(to)
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Admitted {
    /// It is its turn.
    Now(ToShard),
    /// It waits.
    Later,
    /// These are refused as OVERLOADED; if it is not among them it waits.
    Refused(Vec<ToShard>),
}

fn counter(user: UserId) -> usize {
    usize::try_from(user.0 % COUNTERS as u64).expect("below the counters")
}

fn body_bytes(to: &ToShard) -> usize {
    match &to.request {
        Request::Send { body, .. } | Request::GroupOp { body, .. } => body.len(),
        _ => 0,
    }
}

/// Who asks.
fn payer(request: &Request) -> UserId {
    match request {
        Request::Attach(attach) => attach.identity.user,
        Request::Send { send, .. } => UserId(send.sender),
        Request::GroupOp { op, .. } => UserId(op.actor),
        Request::Detach { user, .. }
        | Request::Ack { user, .. }
        | Request::Mark { user, .. }
        | Request::Credit { user, .. }
        | Request::Spent { user, .. }
        | Request::Read { user, .. }
        | Request::ReadGroup { user, .. }
        | Request::PresenceSubscribe { user, .. }
        | Request::Typing { user, .. } => *user,
    }
}

/// They cost next to nothing, and their order among other requests means nothing.
const fn is_signal(request: &Request) -> bool {
    matches!(
        request,
        Request::Ack { .. } | Request::Mark { .. } | Request::Credit { .. } | Request::Spent { .. }
    )
}
