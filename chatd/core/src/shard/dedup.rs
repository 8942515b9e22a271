//! One (home, sender, id) has one answer, for ever: a repeated id gets the first
//! answer, before anything else is asked, and also after its sender lost the right to
//! send. Below the floor nothing is guessed: TOO_OLD, whether or not the row still
//! stands, so that replicas agree.

use bytes::Bytes;
use chat_wire::{
    error::Code,
    ids::{ClientId, InboxKey, UserId},
    limits::ID_AHEAD_MS,
};

use crate::shard::{
    keys::{self, Answered},
    step::{Shard, Stepped, client_id, refuse},
};

/// An id on its way through its home.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    /// The key of the receiver's inbox, or of the group.
    pub(crate) home: InboxKey,
    pub(crate) sender: UserId,
    pub(crate) id: ClientId,
    pub(crate) digest: u64,
    /// The id in flight before; empty for none.
    pub(crate) previous: &'a Bytes,
    /// The floor of this home.
    pub(crate) dedup_before_ms: u64,
}

impl Attempt<'_> {
    /// The key of the answer.
    pub(crate) fn key(&self) -> crate::store::Key {
        keys::dedup(self.home, self.sender, self.id)
    }

    /// The first answer, if the id came before; refuses what cannot be new.
    pub(crate) fn first_answer(&self, shard: &Shard<'_>) -> Stepped<Option<Answered>> {
        let ms = self.id.unix_ms();
        if ms < self.dedup_before_ms {
            return refuse(
                Code::TooOld,
                "the id is from before the time for which answers are kept: \
                 look into the history before sending again with a new id",
            );
        }
        if let Some(first) = shard.read::<Answered>(&self.key())? {
            return if first.digest == self.digest {
                Ok(Some(first))
            } else {
                refuse(
                    Code::Conflict,
                    "this id came before with another content: use a new id",
                )
            };
        }
        if ahead(shard, ms) {
            return refuse(
                Code::ExpiredId,
                "the id is dated more than 10 minutes ahead: date ids by server_time_ms",
            );
        }
        if shard.context.rules.turn_before_rights() {
            self.in_turn(shard)?;
        }
        Ok(None)
    }

    /// Refuses a SEND behind one that came to nothing. Asked last: what is refused for
    /// good itself is told that, so that a client which pipelines to somebody who does not
    /// exist hears so of each message at once (R37).
    pub(crate) fn in_turn(&self, shard: &Shard<'_>) -> Stepped<()> {
        if self.previous.is_empty() {
            return Ok(());
        }
        let previous = client_id(self.previous)?;
        // One that is too old or from the future was refused for good: nobody waits for it.
        let ms = previous.unix_ms();
        let never = ms < self.dedup_before_ms || ahead(shard, ms);
        if shard.context.rules.turn_before_rights() || !never {
            let row = shard.row(&keys::dedup(self.home, self.sender, previous))?;
            if row.is_none() {
                return refuse(
                    Code::OutOfOrder,
                    "the message before this one failed: send that one again first",
                );
            }
        }
        Ok(())
    }
}

fn ahead(shard: &Shard<'_>, ms: u64) -> bool {
    ms > shard.context.ts_ms.saturating_add(ID_AHEAD_MS)
}

/// The keys that an [`Attempt`] reads.
pub(crate) fn keys(
    home: InboxKey,
    sender: UserId,
    id: ClientId,
    previous: &Bytes,
) -> Stepped<impl Iterator<Item = crate::store::Key>> {
    let previous = if previous.is_empty() {
        None
    } else {
        Some(client_id(previous)?)
    };
    Ok([Some(id), previous]
        .into_iter()
        .flatten()
        .map(move |id| keys::dedup(home, sender, id)))
}
