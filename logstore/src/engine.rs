//! The public face: opens a data directory and commits to its log.
//!
//! [`open`] gives a [`Log`], which belongs to one thread of the caller's, and the
//! replicas that were found, each to be owned by whom the caller likes. The order of
//! a write: append to the shard's [`LogIndex`], hand the
//! same entries to [`Log::commit`], and acknowledge when it returns. Known limit:
//! commits are synchronous, one sync each; whoever waits meanwhile goes together
//! into the next one.

mod append;
mod commit;
mod forward;
mod room;
mod space;

pub use crate::{
    opening::{OpenError, Options},
    wal::pool::{PrepareFile, PreparedFile},
};
pub use append::Append;
pub use commit::{Committed, LogError};
pub use forward::Forwarded;
pub use room::{Room, entry_bytes};
pub use space::{LogStats, Pin, Space};

use crate::{
    log_index::LogIndex,
    manifest::{self, Checkpoint},
    plant::is_planted,
    recovery::{self, Found, RecoveryReport, START_FILES, live::Live, replay::TailRecord},
    replicas::{Damage, ReplicaKey, ReplicaState, Replicas, SegmentRef},
    storage::Storage,
    wal::{
        self,
        frame::{BLOCK, Record, RecordHeader, frame_bytes, kind},
        pool::Pool,
        writer::{Numbers, WriteError, Writer},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

/// A replica that was found. Its entries after `flushed` that are committed must be
/// applied again; then it is as it was.
#[derive(Debug)]
pub struct Recovered {
    /// Which.
    pub key: ReplicaKey,
    /// Its log, with the hard state to go on with.
    pub log: LogIndex,
    /// The segments hold the state up to here (position, term).
    pub flushed: (u64, u64),
    /// Its segments by number.
    pub segments: Vec<SegmentRef>,
}

/// A replica that must not be stepped: durable parts of its log are gone. Its data
/// seeds a repair; with no peer to repair from, see
/// [`accept_loss`](crate::loss::accept_loss).
#[derive(Debug)]
pub struct Damaged {
    /// Which.
    pub key: ReplicaKey,
    /// Where and what.
    pub damage: Damage,
    /// What is left of it.
    pub log: LogIndex,
}

/// An opened directory.
pub struct Opened {
    /// The log, for one thread.
    pub log: Log,
    /// The replicas that can go on, by shard.
    pub replicas: BTreeMap<u16, Recovered>,
    /// Those that cannot.
    pub damaged: Vec<Damaged>,
    /// What was found and done.
    pub report: RecoveryReport,
}

/// The write-ahead log of a node. One thread owns it.
pub struct Log {
    storage: Arc<dyn Storage>,
    options: Options,
    writer: Writer,
    pool: Pool,
    /// Files in use.
    live: Live,
    replicas: Replicas,
    generation: u64,
    poisoned: Option<String>,
    /// Below the stop threshold, and not yet above the one to resume.
    stopped: bool,
    /// Free on the disk when it was asked last, less the files prepared since.
    free_bytes: u64,
    /// The last file that was to be prepared could not be.
    cannot_prepare: bool,
    /// Files that had to be prepared while a commit waited.
    stalls: u64,
}

/// Opens a data directory, or creates one in an empty directory.
///
/// Nothing is served from an unproven tail before it was written and synced again,
/// so when this returns, what it returns is durable.
///
/// # Errors
/// See [`OpenError`]. Damage to the log is no error: see [`Opened::damaged`].
pub fn open(storage: Arc<dyn Storage>, options: Options) -> Result<Opened, OpenError> {
    check(&options)?;
    let found = match recovery::find(&*storage, &options)? {
        Some(found) => found,
        None => create(&*storage, &options)?,
    };
    settle(&*storage, &found.checkpoint, &options)?;
    clean(&*storage, &found.leftovers)?;
    let io = |error| OpenError::io("opening the log", error);
    let mut log = Log {
        writer: Writer::new(
            Arc::clone(&storage),
            found.place,
            found.numbers,
            options.file_bytes,
            options.plant,
        )
        .map_err(io)?,
        pool: Pool::new(found.free, found.next_file),
        live: found.live,
        replicas: found.replayed.replicas,
        generation: found.checkpoint.generation,
        poisoned: None,
        stopped: false,
        free_bytes: 0,
        cannot_prepare: false,
        stalls: 0,
        storage,
        options,
    };
    log.adopt_active();
    log.fill_pool()?;
    log.check_space()
        .map_err(|error| OpenError::io("asking for free space", error))?;
    let mut report = found.report;
    if !is_planted!(log.options.plant, NoTailCopy) {
        report.copied = found.tail.len();
        log.copy_tail(&found.tail)?;
    }
    log.record_damage(&found.replayed.new_damage)?;
    let mut logs = found.replayed.logs;
    let mut opened = Opened {
        replicas: BTreeMap::new(),
        damaged: Vec::new(),
        report,
        log,
    };
    for (key, state) in &opened.log.replicas.all {
        let log = logs.remove(key).unwrap_or_default();
        match &state.damage {
            None => {
                opened
                    .replicas
                    .insert(key.shard, recovered(*key, state, log));
            }
            Some(damage) => {
                opened.damaged.push(Damaged {
                    key: *key,
                    damage: damage.clone(),
                    log,
                });
            }
        }
    }
    Ok(opened)
}

fn recovered(key: ReplicaKey, state: &ReplicaState, log: LogIndex) -> Recovered {
    let segments = state.segments.iter();
    let segments = segments
        .map(|(id, meta)| SegmentRef {
            id: *id,
            meta: meta.clone(),
        })
        .collect();
    Recovered {
        key,
        log,
        flushed: state.flushed,
        segments,
    }
}

fn check(options: &Options) -> Result<(), OpenError> {
    let bytes = options.file_bytes;
    if !bytes.is_multiple_of(BLOCK as u64) || !(32 << 10..=4 << 30).contains(&bytes) {
        return Err(OpenError::Options(
            "the size of a log file must be a multiple of 4096 from 32 KiB to 4 GiB",
        ));
    }
    if options.budget_bytes / bytes < room::LEAST_FILES {
        return Err(OpenError::Options(
            "the budget of the log must be at least six log files",
        ));
    }
    if options.resume_free_bytes < options.stop_free_bytes {
        return Err(OpenError::Options(
            "the free bytes to resume at must not be below those to stop at",
        ));
    }
    Ok(())
}

/// Creates the first checkpoint; log files come after it is durable.
fn create(storage: &dyn Storage, options: &Options) -> Result<Found, OpenError> {
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => OpenError::DiskFull {
            needed: options.file_bytes * (START_FILES as u64 + 1),
        },
        _ => OpenError::io("creating the data directory", error),
    };
    storage.create_dir(wal::DIRECTORY).map_err(io)?;
    let checkpoint = Checkpoint {
        generation: 2,
        first_lsn: 1,
        log_id: options.log_id,
        epoch: 0,
        ..Checkpoint::default()
    };
    manifest::create(storage).map_err(io)?;
    let log_id = checkpoint.log_id;
    Ok(Found {
        checkpoint,
        replayed: recovery::replay::Replayed::default(),
        live: Live::default(),
        free: Vec::new(),
        leftovers: Vec::new(),
        next_file: 0,
        place: None,
        numbers: Numbers {
            log_id,
            epoch: 0,
            next_lsn: 1,
            previous_lsn: 0,
            synced_lsn: 0,
        },
        tail: Vec::new(),
        report: RecoveryReport {
            created: true,
            ..RecoveryReport::default()
        },
    })
}

/// Makes durable what the start rests on. After a failed sync the page cache may show
/// a checkpoint, or the name of a file, that the disk does not have; the same bytes
/// are written into the same slot, so the other one stays sound meanwhile.
fn settle(
    storage: &dyn Storage,
    checkpoint: &Checkpoint,
    options: &Options,
) -> Result<(), OpenError> {
    let io = |error| OpenError::io("making the manifest durable", error);
    manifest::write(storage, checkpoint, options.plant).map_err(io)?;
    storage.sync_dir("").map_err(io)?;
    storage.sync_dir(wal::DIRECTORY).map_err(io)
}

/// Removes files that were being prepared when the last run ended.
fn clean(storage: &dyn Storage, leftovers: &[String]) -> Result<(), OpenError> {
    for name in leftovers {
        storage
            .remove(&format!("{}/{name}", wal::DIRECTORY))
            .map_err(|error| OpenError::io("removing an unfinished log file", error))?;
    }
    Ok(())
}

/// What says that a replica is damaged.
fn damage_record(key: ReplicaKey, damage: &Damage) -> (RecordHeader, Vec<u8>) {
    let mut body = Vec::new();
    damage.encode(&mut body);
    let header = RecordHeader {
        shard: key.shard,
        replica: key.replica,
        kind: kind::DAMAGED,
        position: damage.kept_to,
        needs: 1,
        ..RecordHeader::default()
    };
    (header, body)
}

impl Log {
    /// The file that is written counts as in use from the start.
    fn adopt_active(&mut self) {
        if let Some(number) = self.writer.file() {
            self.live.adopt(number, self.writer.numbers().next_lsn);
        }
    }

    /// Makes sure that there is a file to write and the reserve, if need be beyond the
    /// budget: a log that was left without them would be stuck for ever. On a full disk
    /// the node starts with what there is.
    fn fill_pool(&mut self) -> Result<(), OpenError> {
        let wanted = START_FILES - usize::from(self.writer.file().is_some());
        let most = self.options.budget_bytes / self.options.file_bytes + START_FILES as u64;
        while self.pool.len() < wanted && ((self.live.len() + self.pool.len()) as u64) < most {
            match self.prepare_now() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(OpenError::io("preparing a log file", error)),
            }
        }
        Ok(())
    }

    /// Writes the unproven tail again, in one frame: it counts as a whole or not.
    fn copy_tail(&mut self, tail: &[TailRecord]) -> Result<(), OpenError> {
        if tail.is_empty() {
            return Ok(());
        }
        let records: Vec<Record<'_>> = tail
            .iter()
            .map(|record| Record {
                header: record.header,
                body: &record.body,
            })
            .collect();
        let body_bytes = records.iter().map(|record| record.body.len()).sum();
        self.writer
            .leave_full(frame_bytes(records.len(), body_bytes));
        self.write_at_start(&records)
    }

    fn record_damage(&mut self, damaged: &BTreeSet<ReplicaKey>) -> Result<(), OpenError> {
        let of = |key: &ReplicaKey| {
            let state = self.replicas.all.get(key);
            let damage = state.and_then(|state| state.damage.as_ref());
            damage_record(*key, damage.expect("new damage is in the replica's state"))
        };
        let bodies: Vec<(RecordHeader, Vec<u8>)> = damaged.iter().map(of).collect();
        let records: Vec<Record<'_>> = bodies
            .iter()
            .map(|(header, body)| Record {
                header: *header,
                body,
            })
            .collect();
        // At most a few hundred bytes a replica; in pieces that fit the smallest file.
        records
            .chunks(64)
            .try_for_each(|piece| self.write_at_start(piece))
    }

    fn write_at_start(&mut self, records: &[Record<'_>]) -> Result<(), OpenError> {
        match self.write_frame(records, true) {
            Ok(_) => Ok(()),
            Err(WriteError::NoFile) => Err(OpenError::DiskFull {
                needed: self.options.file_bytes * START_FILES as u64,
            }),
            Err(WriteError::Disk(error)) => {
                Err(OpenError::io("writing the log's tail again", error))
            }
        }
    }
}
