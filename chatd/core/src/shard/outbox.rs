//! What this shard still owes other shards (and itself): rows (destination, number),
//! deleted when the destination says it has applied them.
//!
//! Rows are numbered 1, 2, 3 … for ever. A destination is told row + `shift`, and
//! `shift` is 0 until a new incarnation finds that the destination had applied more
//! than this shard still knows of. Numbers therefore only rise, also over
//! incarnations, and one integer a pair is all the dedup there is.
//!
//! Bound: `outbox_bytes` of unconfirmed entries a destination, each counted with its
//! body and [`ROW_BYTES`]. A command that would go beyond is OVERLOADED and leaves
//! nothing behind.

use bytes::Bytes;
use chat_wire::{error::Code, ids::ShardId};
use prost::Message as _;
use std::collections::BTreeMap;

use crate::{
    command::{self, Deliver, Effect, OutboxEffect},
    message::OutboxItem,
    shard::{
        Effects, NewOutboxEntry, Notice,
        keys::{self, Incarnation, MAX_VALUE_BYTES, OutboxRow, OutboxState},
        step::{Changes, Shard, Stepped, refuse},
    },
    store::{BodyPlace, Direction, Range, ShardStore, Unreadable},
};

/// What an entry costs beside its value and body.
pub const ROW_BYTES: u64 = 64;
/// Rows that one command deletes at most; what is left goes with the next one.
pub const MAX_CONFIRMED_ROWS: u64 = 8192;

impl OutboxState {
    /// Bytes that are not confirmed.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.sum_bytes - self.confirmed_bytes
    }

    fn wire(&self, row: u64) -> u64 {
        row.saturating_add(self.shift)
    }
}

/// The outboxes that one command adds to.
#[derive(Debug)]
pub(crate) struct Outboxes {
    incarnation: Incarnation,
    states: BTreeMap<ShardId, OutboxState>,
    limit_bytes: u64,
}

impl Outboxes {
    /// Reads the states of these destinations.
    pub(crate) fn read(
        shard: &Shard<'_>,
        destinations: impl IntoIterator<Item = ShardId>,
    ) -> Stepped<Self> {
        let incarnation: Incarnation = shard.read(&keys::incarnation())?.unwrap_or_default();
        let destinations: Vec<_> = destinations.into_iter().collect();
        let wanted: Vec<_> = destinations
            .iter()
            .map(|d| keys::outbox_state(*d))
            .collect();
        shard.want(&wanted, &[])?;
        let mut states = BTreeMap::new();
        for destination in destinations {
            let state = shard
                .read(&keys::outbox_state(destination))?
                .unwrap_or(OutboxState {
                    handshake: incarnation.earlier > 0,
                    ..OutboxState::default()
                });
            states.insert(destination, state);
        }
        Ok(Self {
            incarnation,
            states,
            limit_bytes: shard.outbox_bytes(),
        })
    }

    /// Adds an entry.
    pub(crate) fn push(
        &mut self,
        source: ShardId,
        destination: ShardId,
        effect: Effect,
        body: Option<BodyPlace>,
        changes: &mut Changes,
    ) -> Stepped<()> {
        let state = self
            .states
            .get_mut(&destination)
            .expect("the states of all destinations were read");
        let mut row = OutboxRow {
            // Long enough for whatever the sum becomes: its length is counted in it.
            sum_bytes: u64::MAX,
            effect: Some(OutboxEffect {
                effect: Some(effect),
            }),
        };
        let bytes =
            row.encoded_len() as u64 + body.map_or(0, |body| u64::from(body.len)) + ROW_BYTES;
        if state.bytes() + bytes > self.limit_bytes {
            return refuse(
                Code::Overloaded,
                "another shard is behind and its outbox is full: try again later",
            );
        }
        if state.last == u64::MAX {
            return refuse(Code::OutOfRange, "an outbox has no number left");
        }
        state.last += 1;
        state.sum_bytes += bytes;
        row.sum_bytes = state.sum_bytes;
        let header = changes.encode(&row);
        assert!(
            header.len() <= MAX_VALUE_BYTES,
            "an outbox entry of {} bytes",
            header.len()
        );
        changes.put_bytes(keys::outbox(destination, state.last), header, body);
        // A destination that must be asked first is asked by the host, which hears here
        // of an outbox that is new.
        let (number, effect, confirmed) = if state.handshake {
            (0, None, 0)
        } else {
            let confirmed = state.wire(state.confirmed);
            (state.wire(state.last), row.effect, confirmed)
        };
        if !state.handshake || state.last == 1 {
            changes.effects.outbox.push(NewOutboxEntry {
                destination,
                deliver: Deliver {
                    source: u32::from(source.0),
                    incarnation: self.incarnation.incarnation,
                    number,
                    effect,
                    confirmed,
                    since_ms: if number == 0 {
                        self.incarnation.since_ms
                    } else {
                        0
                    },
                },
            });
        }
        Ok(())
    }

    /// Writes the states.
    pub(crate) fn finish(&self, changes: &mut Changes) {
        for (destination, state) in &self.states {
            changes.put(keys::outbox_state(*destination), state);
        }
    }
}

/// A destination has applied everything up to a number.
pub(crate) fn confirm(shard: &Shard<'_>, confirm: &command::OutboxConfirm) -> Stepped<Effects> {
    let destination = shard_id(confirm.destination)?;
    let key = keys::outbox_state(destination);
    let Some(mut state) = shard.read::<OutboxState>(&key)? else {
        return Ok(duplicate());
    };
    let incarnation: Incarnation = shard.read(&keys::incarnation())?.unwrap_or_default();
    // What lies beyond the newest row was said to an outbox that is gone.
    let row = confirm
        .number
        .saturating_sub(state.shift)
        .min(state.last)
        .min(state.confirmed.saturating_add(MAX_CONFIRMED_ROWS));
    if incarnation.incarnation != confirm.incarnation || state.handshake || row <= state.confirmed {
        return Ok(duplicate());
    }
    let mut changes = Changes::default();
    drop_rows(shard, destination, &mut state, row, &mut changes)?;
    changes.put(key, &state);
    Ok(changes.effects)
}

/// Outboxes begin anew: nothing leaves before destinations have said what they had.
pub(crate) fn incarnation(shard: &Shard<'_>, command: &command::Incarnation) -> Stepped<Effects> {
    let old: Incarnation = shard.read(&keys::incarnation())?.unwrap_or_default();
    if command.incarnation == old.incarnation || command.incarnation == 0 {
        return Ok(duplicate());
    }
    // One row a shard: 4,096 at most.
    let all = keys::all(keys::SHARD, keys::OUTBOX_STATE, &[], usize::from(u16::MAX));
    let mut changes = Changes::default();
    for (key, row) in shard.range(&all)? {
        let mut state: OutboxState = keys::decode(key, row)?;
        state.cut = if state.handshake {
            state.cut.min(state.last)
        } else {
            state.last
        };
        state.handshake = true;
        changes.put(*key, &state);
    }
    changes.put(
        keys::incarnation(),
        &Incarnation {
            incarnation: command.incarnation,
            earlier: old.earlier.saturating_add(1),
            since_ms: shard.context.ts_ms.max(old.since_ms.saturating_add(1)),
        },
    );
    Ok(changes.effects)
}

/// A destination says what it had applied of the incarnations before.
pub(crate) fn handshake(shard: &Shard<'_>, command: &command::Handshake) -> Stepped<Effects> {
    let destination = shard_id(command.destination)?;
    let key = keys::outbox_state(destination);
    let incarnation: Incarnation = shard.read(&keys::incarnation())?.unwrap_or_default();
    let Some(mut state) = shard.read::<OutboxState>(&key)? else {
        return Ok(duplicate());
    };
    if !state.handshake || incarnation.incarnation != command.incarnation {
        return Ok(duplicate());
    }
    let mut changes = Changes::default();
    let applied = command.applied.saturating_sub(state.shift);
    let row = applied.min(state.cut);
    if row > state.confirmed {
        if row - state.confirmed > MAX_CONFIRMED_ROWS {
            // The rest follows when the destination is asked again.
            let part = state.confirmed + MAX_CONFIRMED_ROWS;
            drop_rows(shard, destination, &mut state, part, &mut changes)?;
            changes.put(key, &state);
            return Ok(changes.effects);
        }
        drop_rows(shard, destination, &mut state, row, &mut changes)?;
    }
    // It knows of entries that this shard lost: new ones must be numbered behind them.
    state.shift += applied.saturating_sub(state.cut);
    state.handshake = false;
    changes.put(key, &state);
    Ok(changes.effects)
}

fn drop_rows(
    shard: &Shard<'_>,
    destination: ShardId,
    state: &mut OutboxState,
    upto: u64,
    changes: &mut Changes,
) -> Stepped<()> {
    // Sums stand in the rows, so that only the newest confirmed one is read.
    let newest = keys::outbox(destination, upto);
    let sum = shard.read::<OutboxRow>(&newest)?.map(|row| row.sum_bytes);
    for row in state.confirmed + 1..=upto {
        changes.delete(keys::outbox(destination, row));
    }
    state.confirmed = upto;
    state.confirmed_bytes = sum.unwrap_or(state.confirmed_bytes);
    Ok(())
}

fn duplicate() -> Effects {
    Effects {
        notices: vec![Notice::Duplicate { id: None }],
        ..Effects::default()
    }
}

/// A shard's number from a command.
pub(crate) fn shard_id(number: u32) -> Stepped<ShardId> {
    match u16::try_from(number) {
        Ok(number) => Ok(ShardId(number)),
        Err(_) => refuse(Code::InvalidArgument, "that is not the number of a shard"),
    }
}

/// An outbox as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// For whom.
    pub destination: ShardId,
    /// The number of its newest entry.
    pub last: u64,
    /// Everything up to here is applied there.
    pub confirmed: u64,
    /// Bytes that are not.
    pub bytes: u64,
    /// It waits for a handshake: [`entries`] gives only the question.
    pub handshake: bool,
}

/// All outboxes, by destination.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn outboxes(store: &impl ShardStore) -> Result<Vec<Outbox>, Unreadable> {
    let all = keys::all(keys::SHARD, keys::OUTBOX_STATE, &[], usize::from(u16::MAX));
    store
        .range(&all)?
        .iter()
        .map(|(key, row)| {
            let state: OutboxState = keys::decode(key, row)?;
            let number = keys::word(key.sub(), 0) >> 48;
            Ok(Outbox {
                destination: ShardId(u16::try_from(number).expect("16 bits")),
                last: state.wire(state.last),
                confirmed: state.wire(state.confirmed),
                bytes: state.bytes(),
                handshake: state.handshake,
            })
        })
        .collect()
}

/// Unconfirmed entries of an outbox behind the number `after`, in order, as the
/// destination gets them: at most `limit`, and `byte_budget` bytes of bodies unless one
/// alone is longer. `shard` is the outbox's own.
///
/// # Errors
/// [`Unreadable`] if a row cannot be read or verified.
pub fn entries(
    store: &impl ShardStore,
    shard: ShardId,
    destination: ShardId,
    after: u64,
    limit: usize,
    byte_budget: usize,
) -> Result<Vec<OutboxItem>, Unreadable> {
    let read_state = |key| -> Result<Option<OutboxState>, Unreadable> {
        store
            .get(&key)?
            .map(|row| keys::decode(&key, &row))
            .transpose()
    };
    let Some(state) = read_state(keys::outbox_state(destination))? else {
        return Ok(Vec::new());
    };
    let key = keys::incarnation();
    let incarnation: Incarnation = match store.get(&key)? {
        Some(row) => keys::decode(&key, &row)?,
        None => Incarnation::default(),
    };
    let deliver = |number, effect| Deliver {
        source: u32::from(shard.0),
        incarnation: incarnation.incarnation,
        number,
        effect,
        confirmed: state.wire(state.confirmed),
        since_ms: 0,
    };
    if state.handshake {
        // The question names nothing as confirmed: the destination must not skip.
        return Ok(vec![OutboxItem {
            deliver: Deliver {
                confirmed: 0,
                since_ms: incarnation.since_ms,
                ..deliver(0, None)
            },
            body: Bytes::new(),
        }]);
    }
    let from = after.saturating_sub(state.shift).max(state.confirmed) + 1;
    let rows = store.range(&Range {
        from: keys::outbox(destination, from),
        to: keys::outbox(destination, u64::MAX),
        direction: Direction::Rising,
        limit,
    })?;
    let mut items = Vec::with_capacity(rows.len());
    let mut bytes = 0;
    for (key, row) in rows {
        let entry: OutboxRow = keys::decode(&key, &row)?;
        let body = row.body.unwrap_or_default();
        bytes += body.len();
        if !items.is_empty() && bytes > byte_budget {
            break;
        }
        let number = state.wire(keys::word(key.sub(), 2));
        items.push(OutboxItem {
            deliver: deliver(number, entry.effect),
            body,
        });
    }
    Ok(items)
}

#[cfg(test)]
mod tests;
