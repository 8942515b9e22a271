//! Commits: one frame, one write, one sync for whatever is in a batch.
//!
//! A batch that does not fit one frame is written as several, each synced before the
//! next one is begun. What the batch changes is checked before anything is written,
//! so an error that is not the disk's leaves the log as it was. Entries are written only
//! while the reserve is whole, also into the rest of a file: after a control record has
//! taken a file of the reserve, that file is the reserve's until another one is ready.
//! Known limit: a batch of several frames is not atomic in a crash; its frames are, in
//! order.

use super::{
    Append, Log,
    append::{self, Bodies},
    room::{most_of_a_frame, most_waste},
};
use crate::{
    replicas::{ReplicaKey, ReplicaState},
    wal::{
        frame::{HEADER, MOVED, RECORD, Record, frame_bytes, kind},
        pool::{PreparedFile, RESERVE},
        writer::{self, WriteError, Written},
    },
};
use std::{collections::BTreeMap, io, ops::Range};

/// What a frame leaves at the end of its file.
pub(super) const ENDS: u64 = writer::ENDS;

/// What a commit wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The last frame.
    pub lsn: u64,
    /// Frames written.
    pub frames: u32,
    /// Bytes written, padding included.
    pub bytes: u64,
}

/// Why a batch is not durable.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed: nothing is known of this batch, and the log takes no other.
    /// The node must stop.
    #[error(
        "the log's disk failed ({0}): nothing more can be made durable here; \
             the node must stop and recover"
    )]
    Io(io::Error),
    /// It failed before.
    #[error("the log's disk failed earlier ({reason}): the node must stop and recover")]
    Poisoned {
        /// What happened then.
        reason: String,
    },
    /// The disk is full. Nothing was written; control records may still be.
    #[error("the disk is full ({free_bytes} bytes free): entries are refused until there is room")]
    DiskFull {
        /// Bytes free.
        free_bytes: u64,
    },
    /// The log has reached its budget. Nothing was written: flush the shards of
    /// [`Log::pins`], compact, and [`Log::reclaim`].
    #[error("the log has reached its budget of {budget_bytes} bytes: shards must be flushed first")]
    Full {
        /// The budget.
        budget_bytes: u64,
    },
    /// An entry is too large for any frame. Nothing was written.
    #[error("an entry of {bytes} bytes; at most {most} fit a frame of the log")]
    TooLarge {
        /// The entry's.
        bytes: usize,
        /// See [`Log::max_entry_bytes`].
        most: usize,
    },
    /// The batch contradicts what the log says. Nothing was written.
    #[error("shard {}, replica {}: {what}", key.shard, key.replica)]
    Refused {
        /// Whose.
        key: ReplicaKey,
        /// Why.
        what: &'static str,
    },
}

impl Log {
    /// Makes a batch durable: when this returns `Ok`, it is. An empty batch is.
    ///
    /// # Errors
    /// See [`LogError`]. After [`LogError::Io`] the log is poisoned for ever.
    pub fn commit(&mut self, batch: &[Append]) -> Result<Committed, LogError> {
        let control = batch.iter().all(Append::is_control);
        if !control && self.stopped {
            return Err(LogError::DiskFull {
                free_bytes: self.storage.free_bytes().unwrap_or(0),
            });
        }
        let mut room = |log: &mut Self, files| log.make_room(files, control);
        self.commit_into(batch, control, &mut room)
    }

    /// As [`Log::commit`], for a caller who begins an entry only while
    /// [`Log::ready_room`] has place for it behind all that it has begun: whatever the
    /// batch holds may take the reserve, which that figure leaves alone, and what was begun
    /// is written although the disk has filled since: its file is there. If the caller has
    /// miscounted, a file more than the budget is made rather than to refuse what frees
    /// room.
    ///
    /// # Errors
    /// See [`LogError`]; never [`LogError::Full`].
    pub fn commit_counted(&mut self, batch: &[Append]) -> Result<Committed, LogError> {
        let mut room = |log: &mut Self, files| {
            while log.pool.len() < files {
                log.prepare_or_full()?;
            }
            Ok(())
        };
        self.commit_into(batch, true, &mut room)
    }

    /// `reserve`: whether it may be used. `room` makes sure that there are so many files.
    fn commit_into(
        &mut self,
        batch: &[Append],
        reserve: bool,
        room: &mut dyn FnMut(&mut Self, usize) -> Result<(), LogError>,
    ) -> Result<Committed, LogError> {
        self.check_poison()?;
        self.check(batch)?;
        let mut bodies = Bodies::default();
        let records = append::records(batch, &mut bodies);
        let plan = self.plan(&records, batch.iter().all(Append::is_control))?;
        room(self, plan.files)?;
        let mut committed = Committed {
            lsn: self.writer.last_lsn(),
            ..Committed::default()
        };
        let mut taken = 0;
        for frame in plan.frames {
            let written = self.write_planned(&records[frame], reserve)?;
            taken += usize::from(written.took.is_some());
            committed.lsn = written.lsn;
            committed.frames += 1;
            committed.bytes += written.bytes;
        }
        assert_eq!(taken, plan.files, "frames went where they were planned");
        assert!(
            reserve || self.pool.len() >= RESERVE,
            "entries leave the reserve whole"
        );
        Ok(committed)
    }

    /// Writes a frame for which there is room.
    pub(super) fn write_planned(
        &mut self,
        records: &[Record<'_>],
        control: bool,
    ) -> Result<Written, LogError> {
        self.write_frame(records, control)
            .map_err(|error| match error {
                WriteError::NoFile => self.full(),
                WriteError::Disk(error) => LogError::Io(error),
            })
    }

    pub(super) fn full(&self) -> LogError {
        LogError::Full {
            budget_bytes: self.options.budget_bytes,
        }
    }

    /// Writes an empty frame, which proves that the one before it was durable.
    /// Called a few milliseconds after a burst: until then, damage to the last frame
    /// could not be told from a torn write. False if there is nothing to prove. It never
    /// takes a file: every frame leaves room for the one that proves it.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn prove(&mut self) -> Result<bool, LogError> {
        self.check_poison()?;
        if self.writer.is_proven() || !self.writer.can_prove() {
            return Ok(false);
        }
        let written = self.write_planned(&[], true)?;
        assert!(written.took.is_none(), "an empty frame takes no file");
        Ok(true)
    }

    /// The largest entry that can be committed.
    #[must_use]
    pub fn max_entry_bytes(&self) -> usize {
        self.max_frame_bytes() - HEADER - RECORD
    }

    /// The number for a replica that is created next.
    #[must_use]
    pub fn next_replica(&self) -> u32 {
        self.replicas.next_replica
    }

    /// What the log says of a replica.
    #[must_use]
    pub fn replica(&self, key: ReplicaKey) -> Option<&ReplicaState> {
        self.replicas.all.get(&key)
    }

    /// Why the log takes nothing more, if it does not.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    pub(super) fn max_frame_bytes(&self) -> usize {
        most_of_a_frame(self.options.file_bytes)
    }

    pub(super) fn check_poison(&self) -> Result<(), LogError> {
        match &self.poisoned {
            Some(reason) => Err(LogError::Poisoned {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Refuses what contradicts the log, before anything is written.
    fn check(&self, batch: &[Append]) -> Result<(), LogError> {
        // Replicas that this same batch creates (true) or retires (false).
        let mut changed: BTreeMap<ReplicaKey, bool> = BTreeMap::new();
        let mut next_replica = self.replicas.next_replica;
        for append in batch {
            let key = append.key();
            let refused = |what| Err(LogError::Refused { key, what });
            let state = self.replicas.all.get(&key);
            let exists = changed.get(&key).copied().unwrap_or(state.is_some());
            if let Append::CreateReplica { .. } = append {
                if key.replica < next_replica {
                    return refused("a number that was given out before");
                }
                next_replica = key.replica + 1;
                let live = self.replicas.live(key.shard).map(|(live, _)| live);
                let twice = changed
                    .iter()
                    .any(|(other, made)| *made && other.shard == key.shard);
                if twice || live.is_some_and(|live| changed.get(&live) != Some(&false)) {
                    return refused("the shard has a live replica already");
                }
                changed.insert(key, true);
                continue;
            }
            if !exists {
                return refused("there is no such replica");
            }
            let damaged = state.is_some_and(|state| state.damage.is_some());
            match append {
                Append::RetireReplica { .. } => {
                    changed.insert(key, false);
                }
                Append::LossAccepted { .. } if !damaged => {
                    return refused("nothing was lost, so no loss can be accepted");
                }
                Append::LossAccepted { .. } => {}
                _ if damaged => return refused("it is damaged, and takes nothing more"),
                Append::CompactedTo { position, .. } => {
                    let flushed = batch.iter().filter_map(|other| match other {
                        Append::Segments {
                            key: of, position, ..
                        } if *of == key => Some(*position),
                        _ => None,
                    });
                    let flushed = flushed.max().max(state.map(|state| state.flushed.0));
                    if flushed.unwrap_or(0) < *position {
                        return refused("compacting entries that were not flushed");
                    }
                }
                Append::Entries { entries, .. }
                    if entries
                        .windows(2)
                        .any(|two| two[1].position != two[0].position + 1) =>
                {
                    return refused("positions of a batch must follow each other");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Cuts records into frames. Those of control records alone are as few as can be; with
    /// entries among them, a frame that does not fit the rest of its file is cut there
    /// rather than that much of the file stays empty.
    pub(super) fn plan(&self, records: &[Record<'_>], control: bool) -> Result<Plan, LogError> {
        let mut plan = Plan::default();
        let mut rest = self.writer.rest();
        let mut at = 0;
        while at < records.len() {
            let mut end = self.whole_frame(records, at)?;
            let mut bytes = bytes_of(&records[at..end]);
            if bytes > rest && !control && rest > most_waste(self.options.file_bytes) {
                let cut = fitting(records, at, rest);
                if cut > at {
                    (end, bytes) = (cut, bytes_of(&records[at..cut]));
                }
            }
            if bytes > rest {
                plan.files += 1;
                rest = self.options.file_bytes - ENDS;
            }
            rest = rest.saturating_sub(bytes);
            plan.frames.push(at..end);
            at = end;
        }
        Ok(plan)
    }

    /// The end of the largest frame that begins with a record.
    fn whole_frame(&self, records: &[Record<'_>], at: usize) -> Result<usize, LogError> {
        let most = self.max_frame_bytes();
        let bytes = records[at].body.len();
        if HEADER + RECORD + bytes > most {
            let most = self.max_entry_bytes();
            return Err(LogError::TooLarge { bytes, most });
        }
        Ok(fitting(records, at, most as u64).max(at + 1))
    }

    /// Makes sure that there are files before the first frame is written, and for entries
    /// the reserve behind them.
    pub(super) fn make_room(&mut self, files: usize, control: bool) -> Result<(), LogError> {
        let needed = if control { files } else { files + RESERVE };
        while self.pool.len() < needed {
            if self.allowed_files() == 0 {
                return Err(self.full());
            }
            self.prepare_or_full()?;
        }
        Ok(())
    }

    fn prepare_or_full(&mut self) -> Result<(), LogError> {
        self.stalls += 1;
        // A file that never was ready holds nothing: whatever happened to it, the log is
        // as it was.
        self.prepare_now().map_err(|_| LogError::DiskFull {
            free_bytes: self.storage.free_bytes().unwrap_or(0),
        })
    }

    pub(super) fn prepare_now(&mut self) -> io::Result<()> {
        let number = self.pool.next_file;
        self.pool.next_file += 1;
        let job = self.pool.job(&self.storage, number, &self.options);
        let result = job.run();
        self.was_prepared(&result);
        self.pool.put(result?.number);
        Ok(())
    }

    /// What the preparing of a file says of the disk.
    pub(super) fn was_prepared(&mut self, result: &io::Result<PreparedFile>) {
        self.cannot_prepare = result.is_err();
        if result.is_ok() {
            self.free_bytes = self.free_bytes.saturating_sub(self.options.file_bytes);
        }
    }

    /// Writes one frame and takes over what it says.
    pub(super) fn write_frame(
        &mut self,
        records: &[Record<'_>],
        control: bool,
    ) -> Result<Written, WriteError> {
        let before = self.writer.numbers();
        let written = self.writer.write(records, &mut self.pool, control);
        let written = match written {
            Err(WriteError::Disk(error)) => {
                self.poisoned = Some(error.to_string());
                return Err(WriteError::Disk(error));
            }
            other => other?,
        };
        if let Some(number) = written.took {
            if let Some(link) = written.link {
                self.live.wrote(link);
            }
            self.live.begin(number, written.lsn);
        }
        self.live.wrote(written.lsn);
        for record in records {
            self.live.note(before.previous_lsn, &record.header);
            if record.header.flags & MOVED != 0 {
                // A copy: what it says was taken over with its original.
                continue;
            }
            let applied = self
                .replicas
                .apply(written.lsn, &record.header, record.body);
            assert!(applied.is_ok(), "the batch was checked: {applied:?}");
        }
        Ok(written)
    }
}

/// Frames for a batch.
#[derive(Default)]
pub(super) struct Plan {
    /// Which records go into each.
    pub(super) frames: Vec<Range<usize>>,
    /// How many files they take behind the one that is written.
    pub(super) files: usize,
}

/// The end of the records from `at` on that fit a frame of so many bytes. A hard state
/// stays with the entry before it, as [`entry_bytes`](super::entry_bytes) counts it.
fn fitting(records: &[Record<'_>], at: usize, most: u64) -> usize {
    let mut bytes = HEADER as u64;
    let mut end = at;
    for (index, record) in records.iter().enumerate().skip(at) {
        bytes += (RECORD + record.body.len()) as u64;
        if bytes > most {
            break;
        }
        let next = records.get(index + 1);
        if next.is_none_or(|next| next.header.kind != kind::HARD_STATE) {
            end = index + 1;
        }
    }
    end
}

fn bytes_of(records: &[Record<'_>]) -> u64 {
    let bodies = records.iter().map(|record| record.body.len()).sum();
    frame_bytes(records.len(), bodies) as u64
}
