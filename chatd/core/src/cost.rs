//! What a request costs: a stated function of what a node does for it, in *units*.
//!
//! A plain SEND, of at most a kibibyte to one person, is [`SEND`] units: `sends_per_second`
//! counts those. One unit stands for about 0.4 µs of a shard thread, or 256 bytes of log.
//!
//! | request | units |
//! | --- | --- |
//! | SEND to a person | 100 + 2 for each 256 bytes beyond the first KiB + 40 if it makes an inbox |
//! | SEND to a group | 100 + 5 a member + 1 for each 256 bytes beyond the first KiB and shard with members |
//! | GROUP_CREATE, GROUP_ADD, GROUP_REMOVE, GROUP_ROLE, GROUP_LEAVE | 100 + 40 a member named + 5 a member of the group |
//! | GROUP_UPDATE | 100 + 5 a member of the group |
//! | HISTORY, CONVERSATIONS, MEMBERS, MARKS, GROUP_GET | 50 + 5 an entry + 1 for each 256 bytes of the page |
//! | PRESENCE_SUBSCRIBE | 50 + 2 a user |
//! | TYPING | 20 to a person; to a group 20 + 5 a member |
//! | HELLO | 50 |
//! | ACK, MARK, CREDIT, PING, REAUTH | 1 |
//! | what was done before, or is refused for good | 10 |
//!
//! The function and nothing else stands here: who pays is in `session/purse.rs`, where the
//! buckets stand in `host/accounts.rs`, who is served next in `host/turns.rs`.

use crate::message::{GroupRead, Read, Request};

/// A plain SEND.
pub const SEND: u32 = 100;
/// Making an inbox.
pub const INBOX: u32 = 40;
/// A session that begins.
pub const HELLO: u32 = 50;
/// A frame that only tells something.
pub const SIGNAL: u32 = 1;
/// What was done before, or is refused for good.
pub const NOTHING_DONE: u32 = 10;
/// Members of a group that has not told its size yet.
pub const UNKNOWN_MEMBERS: u32 = 64;

/// Of a SEND, at the shard that numbers it: most of it are sockets, the log and the copy.
const SEND_AT_ONCE: u32 = 25;
const READ: u32 = 50;
const TYPING: u32 = 20;
const MEMBER_NAMED: u32 = 40;
const DELIVERY: u32 = 5;
const ROW: u32 = 5;
const SUBSCRIPTION: u32 = 2;
const BYTES_A_UNIT: usize = 256;
const FREE_BYTES: usize = 1024;
/// Shards that a group's members live in at most, for the price: 64 is how many a node
/// has by default.
const SHARDS: u32 = 64;

/// A SEND to a person: the body stands in two inboxes.
#[must_use]
pub fn send(body_bytes: usize) -> u32 {
    SEND + 2 * long(body_bytes)
}

/// A SEND to a group: the body stands once in each shard where members live.
#[must_use]
pub fn group_send(body_bytes: usize, members: u32) -> u32 {
    let copies = members.clamp(1, SHARDS);
    let deliveries = members.saturating_mul(DELIVERY);
    (SEND + deliveries).saturating_add(long(body_bytes).saturating_mul(copies))
}

/// A change of a group that names so many members.
#[must_use]
pub fn group_change(named: usize) -> u32 {
    SEND.saturating_add(count(named).saturating_mul(MEMBER_NAMED))
}

/// What so many members cost who are told something.
#[must_use]
pub const fn deliveries(members: u32) -> u32 {
    members.saturating_mul(DELIVERY)
}

/// A page of so many entries, and so long.
#[must_use]
pub fn page(entries: usize, bytes: usize) -> u32 {
    let rows = count(entries).saturating_mul(ROW);
    READ.saturating_add(rows)
        .saturating_add(count(bytes / BYTES_A_UNIT))
}

/// A page before it is read: as if all that was asked for were there, with 100 bytes an
/// entry. What it is less is given back.
#[must_use]
pub fn page_asked(limit: u32) -> u32 {
    page(limit as usize, limit as usize * 100)
}

/// A subscription to the presence of so many.
#[must_use]
pub fn presence(users: usize) -> u32 {
    READ.saturating_add(count(users).saturating_mul(SUBSCRIPTION))
}

/// TYPING to a person (none), or to a group of so many.
#[must_use]
pub const fn typing(members: u32) -> u32 {
    TYPING + deliveries(members)
}

/// What a shard's thread does for a request before it can do anything for another: what
/// turns are counted in. What follows at other shards has turns of its own.
#[must_use]
pub fn at_once(request: &Request) -> u32 {
    match request {
        Request::Send { body, .. } => SEND_AT_ONCE + long(body.len()),
        Request::GroupOp { op, .. } => group_change(op.members.len()),
        Request::Read { read, .. } => match read {
            Read::History { limit, .. } | Read::Conversations { limit, .. } => page_asked(*limit),
        },
        Request::ReadGroup { read, .. } => match read {
            GroupRead::State => READ,
            GroupRead::Members { limit, .. } | GroupRead::Marks { limit, .. } => page_asked(*limit),
        },
        Request::PresenceSubscribe { users, .. } => presence(users.len()),
        Request::Typing { .. } => TYPING,
        Request::Attach(_) => SEND_AT_ONCE,
        Request::Detach { .. }
        | Request::Ack { .. }
        | Request::Mark { .. }
        | Request::Spent { .. }
        | Request::Credit { .. } => SIGNAL,
    }
}

fn long(body_bytes: usize) -> u32 {
    count(body_bytes.saturating_sub(FREE_BYTES).div_ceil(BYTES_A_UNIT))
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/security.md: what each costs at the defaults.
    #[test]
    fn the_function_says_what_the_table_says() {
        assert_eq!(send(0), 100);
        assert_eq!(send(1024), 100);
        assert_eq!(send(1025), 102);
        assert_eq!(send(64 * 1024), 100 + 2 * 252);
        assert_eq!(group_send(300, 3), 115);
        assert_eq!(group_send(64 * 1024, 1_024), 100 + 5_120 + 64 * 252);
        assert_eq!(
            group_change(1_023) + deliveries(1_024),
            100 + 40_920 + 5_120
        );
        assert_eq!(page(200, 130_000), 50 + 1_000 + 507);
        assert_eq!(presence(1_000), 2_050);
        assert_eq!(typing(40), 220);
        assert_eq!(group_change(usize::MAX), u32::MAX);
    }
}
