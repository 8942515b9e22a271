//! Reads whose blocks are on the disk only: they wait here while another thread reads
//! them into memory, so that no shard of the thread stops for them.
//!
//! At most [`MAX_WARMING`] of a host are on their way. One more is refused as
//! OVERLOADED if a request waits for it; pages for sessions that catch up and sessions
//! on their way in are put on a shelf, from which they go on in their order. A read
//! that is forgotten keeps its place until the other thread is done with it.

use chat_wire::ids::{DeviceId, GroupId, SessionId, ShardId, UserId};
use std::collections::{BTreeMap, VecDeque};

use super::{attach::MAX_WAITING, lookup::Lookup};
use crate::message::{Attach, Origin};

/// Reads of a host that are being warmed, at most.
pub const MAX_WARMING: usize = 256;

/// What is done with what a read finds.
#[derive(Debug)]
pub(super) enum Purpose {
    /// It is the answer to a request.
    Answer(Origin),
    /// It is the answer to MARKS, which also says whether the group is followed.
    Marks {
        origin: Origin,
        user: UserId,
        group: GroupId,
        follow: bool,
    },
    /// A session that catches up gets it.
    Page(SessionId),
    /// The session is proposed.
    Attach(Box<Attach>),
}

impl Purpose {
    fn session(&self) -> SessionId {
        match self {
            Self::Answer(origin) | Self::Marks { origin, .. } => origin.session,
            Self::Page(session) => *session,
            Self::Attach(attach) => attach.session,
        }
    }
}

/// A read on its way.
#[derive(Debug)]
pub(super) struct Waiting {
    shard: ShardId,
    pub(super) lookup: Lookup,
    pub(super) purpose: Purpose,
}

/// What waits for room.
#[derive(Debug)]
pub(super) enum Shelved {
    /// A session that wants a page.
    Page(SessionId),
    /// A session on its way in.
    Attach(Box<Attach>),
}

impl Shelved {
    fn session(&self) -> SessionId {
        match self {
            Self::Page(session) => *session,
            Self::Attach(attach) => attach.session,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Parked {
    tickets: u64,
    /// By ticket; `None` is forgotten, but not back yet.
    warming: BTreeMap<u64, Option<Waiting>>,
    /// At most one entry a session that is attached or waits to be.
    shelf: VecDeque<(ShardId, Shelved)>,
    /// Sessions on their way in on the shelf: at most [`MAX_WAITING`].
    shelved_attaches: usize,
}

impl Parked {
    /// How many more may be warmed now.
    pub(super) fn room(&self) -> usize {
        MAX_WARMING.saturating_sub(self.warming.len())
    }

    /// A read is on its way: its ticket. Whoever calls has looked for room.
    pub(super) fn park(&mut self, shard: ShardId, lookup: Lookup, purpose: Purpose) -> u64 {
        debug_assert!(self.room() > 0, "nobody looked for room");
        self.tickets += 1;
        let waiting = Waiting {
            shard,
            lookup,
            purpose,
        };
        self.warming.insert(self.tickets, Some(waiting));
        self.tickets
    }

    /// The other thread is done with it: what waited, if it still does.
    pub(super) fn returned(&mut self, ticket: u64) -> Option<Waiting> {
        self.warming.remove(&ticket)?
    }

    /// A session that catches up waits for room.
    pub(super) fn shelve_page(&mut self, shard: ShardId, session: SessionId) {
        self.shelf.push_back((shard, Shelved::Page(session)));
    }

    /// A session on its way in waits for room, or comes back.
    pub(super) fn shelve_attach(
        &mut self,
        shard: ShardId,
        attach: Box<Attach>,
    ) -> Result<(), Box<Attach>> {
        if self.shelved_attaches >= MAX_WAITING {
            return Err(attach);
        }
        self.shelved_attaches += 1;
        self.shelf.push_back((shard, Shelved::Attach(attach)));
        Ok(())
    }

    /// What has waited for room for longest.
    pub(super) fn unshelve(&mut self) -> Option<(ShardId, Shelved)> {
        let next = self.shelf.pop_front()?;
        self.shelved_attaches -= usize::from(matches!(next.1, Shelved::Attach(_)));
        Some(next)
    }

    /// Whether there is room for something that waits for it.
    pub(super) fn may_unshelve(&self) -> bool {
        self.room() > 0 && !self.shelf.is_empty()
    }

    /// The session is gone from a shard, and with it what it waited for.
    pub(super) fn forget(&mut self, shard: ShardId, session: SessionId) {
        self.take(|waiting| waiting.shard == shard && waiting.purpose.session() == session);
        self.take_shelved(|id, shelved| id == shard && shelved.session() == session);
    }

    /// MARKS of a session that wait: the next one of the same group must not be
    /// overtaken by them.
    pub(super) fn take_marks(
        &mut self,
        shard: ShardId,
        session: SessionId,
        of: GroupId,
    ) -> Vec<Waiting> {
        self.take(|waiting| {
            waiting.shard == shard
                && matches!(waiting.purpose, Purpose::Marks { origin, group, .. }
                    if origin.session == session && group == of)
        })
    }

    /// Sessions of a device that wait to begin: a newer one takes their place.
    pub(super) fn take_attaches(
        &mut self,
        shard: ShardId,
        user: UserId,
        device: DeviceId,
    ) -> Vec<SessionId> {
        let same = |attach: &Attach| attach.identity.user == user && attach.device == device;
        let warming = self.take(|waiting| {
            waiting.shard == shard
                && matches!(&waiting.purpose, Purpose::Attach(attach) if same(attach))
        });
        let shelved = self.take_shelved(|id, shelved| {
            id == shard && matches!(shelved, Shelved::Attach(attach) if same(attach))
        });
        let warming = warming.into_iter().map(|waiting| waiting.purpose.session());
        let shelved = shelved.into_iter().map(|shelved| shelved.session());
        warming.chain(shelved).collect()
    }

    /// It is over for all who wait for a shard. They must be told.
    pub(super) fn take_all(&mut self, shard: ShardId) -> Vec<Purpose> {
        let warming = self.take(|waiting| waiting.shard == shard);
        let shelved = self.take_shelved(|id, _| id == shard);
        let purpose = |shelved| match shelved {
            Shelved::Page(session) => Purpose::Page(session),
            Shelved::Attach(attach) => Purpose::Attach(attach),
        };
        let warming = warming.into_iter().map(|waiting| waiting.purpose);
        warming.chain(shelved.into_iter().map(purpose)).collect()
    }

    fn take(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let places = self.warming.values_mut();
        places
            .filter_map(|place| place.take_if(|waiting| which(waiting)))
            .collect()
    }

    fn take_shelved(&mut self, which: impl Fn(ShardId, &Shelved) -> bool) -> Vec<Shelved> {
        if !self
            .shelf
            .iter()
            .any(|(shard, shelved)| which(*shard, shelved))
        {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.shelf);
        let (taken, kept): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(shard, shelved)| which(*shard, shelved));
        self.shelf = kept.into();
        let attaches = taken
            .iter()
            .filter(|(_, shelved)| matches!(shelved, Shelved::Attach(_)));
        self.shelved_attaches -= attaches.count();
        taken.into_iter().map(|(_, shelved)| shelved).collect()
    }
}
