//! A device begins a session: the first token makes the inbox, a device has a cursor,
//! and one device too many takes the place of the longest unseen one.

use chat_wire::{
    error::Code,
    ids::{DeviceId, UserId},
};

use crate::{
    command::Attach,
    shard::{
        Answer, Effects,
        keys::{self, Device, Head},
        roster,
        step::{Changes, Shard, Stepped, refuse, user},
    },
};

pub(crate) fn attach(shard: &Shard<'_>, attach: &Attach) -> Stepped<Effects> {
    let user = user(attach.user)?;
    let inbox = user.key();
    shard.owns(inbox)?;
    if attach.device == 0 {
        return refuse(
            Code::InvalidArgument,
            "a device needs a number that is not 0",
        );
    }
    let device = DeviceId(attach.device);
    let limit = shard.devices() as usize;
    let all = keys::all(inbox, keys::DEVICE, &[], limit + 1);
    shard.want(
        &[
            keys::profile(inbox),
            keys::head(inbox),
            keys::device(inbox, device),
        ],
        &[all],
    )?;
    let mut changes = Changes::for_rows(4);
    if !roster::open_inbox(shard, user, &attach.app, &attach.name, &mut changes)? {
        return refuse(
            Code::NameCollision,
            "this name's id belongs to another name already: choose another name",
        );
    }
    let head: Head = shard.read(&keys::head(inbox))?.unwrap_or_default();
    let known: Option<Device> = shard.read(&keys::device(inbox, device))?;
    let generation = shard.settings().map_or(0, |settings| settings.generation);
    let same_generation = attach.generation == 0 || attach.generation == generation;
    let old = known.map(|device| device.cursor);
    let cursor = match attach.resume_seq {
        None => head.seq,
        // The cursor stays: what the device has beyond it is acknowledged by a command
        // that raises it together with the marks that follow. Raised here, a crash, or
        // a connection that is lost at this moment, would lose those marks for ever.
        Some(_) if same_generation => old.unwrap_or(0),
        // What it had is of another history: it is told GAP and goes on from the head.
        Some(_) => old.unwrap_or(head.seq),
    };
    let dropped = if known.is_some() {
        None
    } else {
        longest_unseen(shard, &all, limit)?
    };
    if let Some(dropped) = dropped {
        changes.delete(keys::device(inbox, dropped));
    }
    changes.put(
        keys::device(inbox, device),
        &Device {
            cursor,
            seen_ms: shard.context.ts_ms,
        },
    );
    Ok(changes.answer(Answer::Attached {
        head: head.seq,
        cursor,
        oldest: head.oldest(),
        marks_version: head.marks_version,
        dropped,
        known: known.is_some(),
    }))
}

/// The device that makes room, if all places are taken; of equals the lowest number.
fn longest_unseen(
    shard: &Shard<'_>,
    all: &crate::store::Range,
    limit: usize,
) -> Stepped<Option<DeviceId>> {
    let rows = shard.range(all)?;
    if rows.len() < limit {
        return Ok(None);
    }
    let mut oldest: Option<(u64, DeviceId)> = None;
    for (key, row) in rows {
        let seen_ms = keys::decode::<Device>(key, row)?.seen_ms;
        let this = (seen_ms, DeviceId(keys::word(key.sub(), 0)));
        oldest = Some(oldest.map_or(this, |oldest| oldest.min(this)));
    }
    Ok(oldest.map(|(_, device)| device))
}

/// Whether the id is really that of the name: sessions say so, the log must not err.
pub(crate) fn names(app: &str, name: &str, user: UserId) -> bool {
    UserId::of(app, name) == user
}

#[cfg(test)]
mod tests;
