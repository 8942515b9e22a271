//! Which files the log needs, and by whom: what every frame that counts adds to its
//! file, the same at a start and while it is written.
//!
//! A file is claimed by each replica of which it holds an entry that was not compacted
//! away. An entry cuts its position and all after it, so entries that a later one cut
//! claim nothing: they must not be copied to where they would come back.

use crate::{
    recovery::chain::Chain,
    replicas::{Hole, ReplicaKey, Replicas},
    wal::{
        frame::{MOVED, RecordHeader, kind},
        scan::ScannedFile,
    },
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A file that the log needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveFile {
    pub(crate) number: u32,
    pub(crate) first_lsn: u64,
    pub(crate) last_lsn: u64,
    /// Frames in it that do not count.
    pub(crate) cut: BTreeSet<u64>,
    /// Those of them that are written again elsewhere, since nothing proved them.
    unproven: BTreeSet<u64>,
    /// Whether there are frames in it that do.
    counted: bool,
    /// The highest position of each replica that its frames leave in it.
    claims: BTreeMap<ReplicaKey, u64>,
    /// From which position on its frames cut what files before it hold of a replica.
    cuts: BTreeMap<ReplicaKey, u64>,
}

/// All of them, the oldest first; the last one is written.
#[derive(Debug, Default)]
pub(crate) struct Live {
    files: VecDeque<LiveFile>,
    /// The highest position that any record named: an entry above it cuts nothing.
    highest: BTreeMap<ReplicaKey, u64>,
    /// Holes that the start found: whom they damage was decided then.
    pub(crate) known: Vec<Hole>,
}

impl LiveFile {
    /// Whether a start takes a frame of the file over.
    pub(crate) fn counts(&self, lsn: u64) -> bool {
        !self.cut.contains(&lsn) || self.unproven.contains(&lsn)
    }
}

impl Live {
    /// The files that hold frames which count, in order. Frames that were cut do not keep
    /// a file: the next use of it overwrites them, and until then the chain passes them
    /// over. Neither do unproven ones: they are written again, and their copies count.
    pub(crate) fn new(files: &[ScannedFile], chain: &Chain) -> Self {
        let mut live = Self {
            known: chain.holes.iter().map(|(_, hole)| *hole).collect(),
            ..Self::default()
        };
        for at in &chain.frames {
            let file = &files[at.file];
            let frame = &file.frames[at.frame];
            let lsn = frame.header.lsn;
            if live
                .files
                .back()
                .is_none_or(|back| back.number != file.number)
            {
                live.begin(file.number, lsn);
                let back = live.files.back_mut().expect("one was begun");
                back.cut = file.frames.iter().map(|frame| frame.header.lsn).collect();
            }
            let back = live.files.back_mut().expect("one was begun");
            if lsn > chain.proof {
                back.unproven.insert(lsn);
                continue;
            }
            back.cut.remove(&lsn);
            if !back.counted {
                back.first_lsn = lsn;
            }
            live.wrote(lsn);
            for record in &file.records[frame.records.clone()] {
                live.note(frame.header.previous_lsn, &record.header);
            }
        }
        live
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn files(&self) -> &VecDeque<LiveFile> {
        &self.files
    }

    /// A file is written from here on.
    pub(crate) fn begin(&mut self, number: u32, first_lsn: u64) {
        self.files.push_back(LiveFile {
            number,
            first_lsn,
            last_lsn: first_lsn,
            ..LiveFile::default()
        });
    }

    /// A frame was written to the last file.
    pub(crate) fn wrote(&mut self, lsn: u64) {
        let file = self.files.back_mut();
        let file = file.expect("a frame was written to some file");
        file.last_lsn = file.last_lsn.max(lsn);
        file.counted = true;
    }

    /// What a record of a frame in the last file does; the frame names the one before it.
    pub(crate) fn note(&mut self, previous_lsn: u64, header: &RecordHeader) {
        let key = ReplicaKey::of(header);
        let (cut, left) = match header.kind {
            kind::ENTRY => (header.position, Some(header.position)),
            kind::INSTALLED => (0, None),
            kind::LOSS_ACCEPTED => (header.position.saturating_add(1), None),
            _ => return,
        };
        let file = self.files.back_mut().expect("a record stands in some file");
        let highest = self.highest.entry(key).or_insert(0);
        // A copy from before this frame stands where its origin stood: it cuts nothing of
        // what was written since. One of the torn tail has no other place.
        let copied = header.flags & MOVED != 0 && header.origin.lsn <= previous_lsn;
        if copied {
            let claim = file.claims.entry(key).or_insert(0);
            *claim = header.position.max(*claim);
        } else {
            if cut <= *highest {
                let lowest = file.cuts.entry(key).or_insert(cut);
                *lowest = cut.min(*lowest);
            }
            let kept = file
                .claims
                .get(&key)
                .map(|claim| (*claim).min(cut.saturating_sub(1)));
            match left.max(kept).filter(|position| *position > 0) {
                Some(position) => file.claims.insert(key, position),
                None => file.claims.remove(&key),
            };
        }
        *highest = header.position.max(*highest);
    }

    /// Who needs entries of the file at an index, and up to where.
    pub(crate) fn claims(&self, index: usize, replicas: &Replicas) -> Vec<(ReplicaKey, u64)> {
        let Some(file) = self.files.get(index) else {
            return Vec::new();
        };
        let of = |(key, position): (&ReplicaKey, &u64)| {
            let position = (*position).min(self.cut_behind(index, *key).saturating_sub(1));
            let state = replicas.all.get(key)?;
            (state.compacted.0 < position).then_some((*key, position))
        };
        file.claims.iter().filter_map(of).collect()
    }

    /// From which position on files behind the one at an index cut what it holds.
    pub(crate) fn cut_behind(&self, index: usize, key: ReplicaKey) -> u64 {
        let behind = self.files.iter().skip(index + 1);
        let cuts = behind.filter_map(|file| file.cuts.get(&key)).min();
        cuts.copied().unwrap_or(u64::MAX)
    }

    /// What these replicas need of the oldest file stands elsewhere now.
    pub(crate) fn release(&mut self, keys: &[ReplicaKey]) {
        if let Some(oldest) = self.files.front_mut() {
            oldest.claims.retain(|key, _| !keys.contains(key));
        }
    }

    /// Takes the oldest files out.
    pub(crate) fn take(&mut self, count: usize) -> impl Iterator<Item = LiveFile> {
        self.files.drain(..count)
    }

    /// The file that is written is the newest; it counts from the start.
    pub(crate) fn adopt(&mut self, number: u32, next_lsn: u64) {
        match self.files.iter().position(|file| file.number == number) {
            None => self.begin(number, next_lsn),
            Some(at) => {
                assert_eq!(at + 1, self.files.len(), "the newest file is written");
                let file = &mut self.files[at];
                if !file.counted {
                    (file.first_lsn, file.last_lsn) = (next_lsn, next_lsn);
                }
            }
        }
    }
}
