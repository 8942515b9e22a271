//! The number of the next message: above every one of this shard, and above what its sender
//! had seen, so that an answer sorts behind its question although two shards count the two
//! directions of a conversation by two clocks.
//!
//! One last number a shard: who moves it moves the times of all that the shard counts, of
//! other people and other apps too. So what a client claims to have seen counts
//!
//! - up to [`AFTER_AHEAD_MS`] above the proposer's clock, whatever it is;
//! - up to [`AFTER_KNOWN_AHEAD_MS`] if that message stands in the conversation *here*: it was
//!   numbered by a server whose clock is ahead, and is no invention;
//! - and otherwise not at all.
//!
//! Known limit: of a 1:1 conversation the sender's shard has what was sent to it, and what it
//! sent as soon as the copy of that has come through the outbox. Until then an answer to a
//! message that is more than [`AFTER_AHEAD_MS`] ahead of its shard's clock is numbered by the
//! clock. A group is counted by one shard alone: its last number is enough.

use chat_wire::{
    error::Code,
    ids::{MSG_ID_EPOCH_MS, MSG_ID_MAX_COUNTER, MSG_ID_MAX_MS, MsgId, ShardId},
    limits::{AFTER_AHEAD_MS, AFTER_KNOWN_AHEAD_MS},
};

use crate::{
    shard::{
        keys,
        step::{Shard, Stepped, refuse},
    },
    store::Key,
};

/// How far ahead of the clock `after` counted in format 1.
const FORMAT_1_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// A number without its shard: milliseconds and counter, in the order of numbers.
type Place = (u64, u16);

/// The number of the next message. `after` is what its sender had seen, 0 for nothing;
/// `stands` are the rows of which one is there if that message stands in the conversation:
/// they are read only if it is far ahead.
pub(crate) fn next(shard: &Shard<'_>, after: MsgId, stands: &[Key]) -> Stepped<MsgId> {
    let here = shard.context.shard;
    let last = shard
        .read::<keys::Last>(&keys::last())?
        .map_or(MsgId(0), |row| MsgId(row.msg_id));
    let clock_ms = shard.context.ts_ms.saturating_sub(MSG_ID_EPOCH_MS);
    let (ms, counter) = if shard.context.rules.after_counts_a_day() {
        format_1(clock_ms, last, after)
    } else {
        let mut place = (clock_ms, 0).max(above(here, last));
        // What would not move the number need not be looked up.
        if above(here, after) > place && counts(shard, clock_ms, after, stands)? {
            place = above(here, after);
        }
        place
    };
    if ms > MSG_ID_MAX_MS {
        return refuse(
            Code::Unavailable,
            "the server's clock is outside 2025 to 2094: its operators must set it",
        );
    }
    let next = MsgId::new(ms, here, counter);
    assert!(next > last, "numbers of a shard rise: {next} after {last}");
    Ok(next)
}

fn counts(shard: &Shard<'_>, clock_ms: u64, after: MsgId, stands: &[Key]) -> Stepped<bool> {
    let ahead_ms = after.ms().saturating_sub(clock_ms);
    if ahead_ms <= AFTER_AHEAD_MS {
        return Ok(true);
    }
    if ahead_ms > AFTER_KNOWN_AHEAD_MS {
        return Ok(false);
    }
    shard.want(stands, &[])?;
    for key in stands {
        if shard.row(key)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The lowest place of a shard whose number is above `id`. The shard stands between
/// milliseconds and counter.
fn above(here: ShardId, id: MsgId) -> Place {
    if id.0 <= 0 {
        return (0, 0);
    }
    match here.cmp(&id.shard()) {
        std::cmp::Ordering::Greater => (id.ms(), 0),
        std::cmp::Ordering::Equal if id.counter() < MSG_ID_MAX_COUNTER => {
            (id.ms(), id.counter() + 1)
        }
        _ => (id.ms() + 1, 0),
    }
}

/// As the first release counted: `after` moved a number by a day at most.
fn format_1(clock_ms: u64, last: MsgId, after: MsgId) -> Place {
    let mut ms = clock_ms.max(last.ms());
    if after.0 > 0 {
        ms = ms.max(
            after
                .ms()
                .min(clock_ms.saturating_add(FORMAT_1_AHEAD_MS))
                .saturating_add(1),
        );
    }
    let mut counter = 0;
    if last.0 != 0 && ms == last.ms() {
        if last.counter() == MSG_ID_MAX_COUNTER {
            ms += 1;
        } else {
            counter = last.counter() + 1;
        }
    }
    (ms, counter)
}

#[cfg(test)]
mod tests;
