//! Finds out, without writing anything, what a data directory holds.
//!
//! The newest sound checkpoint of the manifest, then all frames of the log from
//! there on, then the order in which their records count (`chain`), then what they
//! add up to (`replay`). What must be written before the log may be used again is
//! part of the answer, for [`open`](crate::engine::open) to write. Known limit: a
//! frame that was acknowledged and then destroyed within 5 ms, before the next one
//! proved it, looks like a torn write.

pub(crate) mod chain;
pub(crate) mod live;
pub(crate) mod replay;

use crate::{
    manifest::{self, Checkpoint, Slot},
    opening::{OpenError, Options},
    plant::is_planted,
    recovery::{
        chain::Chain,
        live::Live,
        replay::{Replayed, TailRecord},
    },
    replicas::{Hole, Replicas},
    storage::Storage,
    wal::{
        self,
        frame::{FrameHeader, LINK},
        pool::RESERVE,
        scan::{self, First, FoundRecord, ScannedFile, Wanted},
        writer::{Numbers, Place},
    },
};
use std::collections::BTreeSet;

/// What a start found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The directory was new.
    pub created: bool,
    /// Log files read.
    pub files: usize,
    /// Frames that count.
    pub frames: usize,
    /// Records in them.
    pub records: usize,
    /// Frames of a torn tail that were cut away; they were never acknowledged.
    pub torn_frames: usize,
    /// Records of the unproven tail that were written again.
    pub copied: usize,
    /// A slot of the manifest that could not be read; the other one was used.
    pub unreadable_slot: Option<String>,
    /// Frames that were durable and are missing, or in which a control record is wrong.
    pub holes: Vec<Hole>,
}

/// What a directory holds, and where its log goes on.
pub(crate) struct Found {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) replayed: Replayed,
    pub(crate) live: Live,
    pub(crate) free: Vec<u32>,
    /// Names in the log's directory that are of no use.
    pub(crate) leftovers: Vec<String>,
    pub(crate) next_file: u32,
    pub(crate) place: Option<Place>,
    pub(crate) numbers: Numbers,
    pub(crate) tail: Vec<TailRecord>,
    pub(crate) report: RecoveryReport,
}

/// Reads a directory; `None` if it is new.
pub(crate) fn find(storage: &dyn Storage, options: &Options) -> Result<Option<Found>, OpenError> {
    let names = match storage.list(wal::DIRECTORY) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(OpenError::io("listing the log's directory", error)),
    };
    let (checkpoint, unreadable_slot) = match read_manifest(storage, !names.is_empty())? {
        Some(read) => read,
        None => return Ok(None),
    };
    let wanted = Wanted {
        log_id: checkpoint.log_id,
        first_lsn: checkpoint.first_lsn,
        check_lengths: !is_planted!(options.plant, CrcWithoutLength),
        check_bodies: !is_planted!(options.plant, BodyUnchecked),
    };
    let numbers: BTreeSet<u32> = names
        .iter()
        .filter_map(|name| wal::file_number(name))
        .collect();
    let files = scan_files(storage, &numbers, &checkpoint, wanted, options.scan_threads)?;
    let chain = Chain::new(&files, &checkpoint, options.plant);
    let replayed = replay::replay(&files, &chain, &checkpoint, options.plant)?;
    let live = Live::new(&files, &chain);
    let used: BTreeSet<u32> = live.files().iter().map(|file| file.number).collect();

    let mut leftovers: Vec<String> = names
        .iter()
        .filter(|name| wal::file_number(name).is_none())
        .cloned()
        .collect();
    let mut free = Vec::new();
    for number in numbers.difference(&used) {
        let path = wal::file_path(*number);
        let file = storage
            .open(&path)
            .map_err(|error| OpenError::io("opening a log file", error))?;
        let len = file
            .len()
            .map_err(|error| OpenError::io("measuring a log file", error))?;
        if len == options.file_bytes {
            free.push(*number);
        } else {
            leftovers.push(format!("{number:08}.wal"));
        }
    }
    let place = place(&files, &chain, &mut free, replayed.new_damage.is_empty());
    let report = RecoveryReport {
        created: false,
        files: files.len(),
        frames: chain.frames.len(),
        records: chain
            .frames
            .iter()
            .map(|at| files[at.file].frames[at.frame].records.len())
            .sum(),
        torn_frames: chain.torn,
        copied: 0,
        unreadable_slot,
        holes: replayed.holes.clone(),
    };
    let next_file = numbers
        .last()
        .map_or(0, |last| last + 1)
        .max(checkpoint.next_file);
    let tail = chain.tail(&files);
    Ok(Some(Found {
        numbers: chain.numbers(&files, &checkpoint),
        tail,
        checkpoint,
        replayed,
        live,
        free,
        leftovers,
        next_file,
        place,
        report,
    }))
}

/// A frame as a person looks at it.
#[derive(Clone, Debug)]
pub struct DumpedFrame {
    /// The file.
    pub file: u32,
    /// Where it begins.
    pub offset: u64,
    /// Its header.
    pub header: FrameHeader,
    /// Whether it counts, or was cut away.
    pub counts: bool,
    /// Its records; a body is `None` if its checksum is wrong.
    pub records: Vec<FoundRecord>,
}

/// The log of a stopped node, as it is.
#[derive(Debug)]
pub struct Dump {
    /// What a start would find.
    pub report: RecoveryReport,
    /// The checkpoint's generation.
    pub generation: u64,
    /// What the control records add up to, damage included.
    pub replicas: Replicas,
    /// Every sound frame in use, by file and offset.
    pub frames: Vec<DumpedFrame>,
}

/// Reads the log of a stopped node and changes nothing; `None` if there is none.
///
/// # Errors
/// As [`open`](crate::engine::open).
pub fn dump(storage: &dyn Storage, options: &Options) -> Result<Option<Dump>, OpenError> {
    let Some(found) = find(storage, options)? else {
        return Ok(None);
    };
    let wanted = Wanted {
        log_id: found.checkpoint.log_id,
        first_lsn: found.checkpoint.first_lsn,
        check_lengths: true,
        check_bodies: true,
    };
    let mut frames = Vec::new();
    for file in found.live.files() {
        let scanned = scan::scan(storage, file.number, wanted)?;
        frames.extend(scanned.frames.iter().map(|frame| DumpedFrame {
            file: file.number,
            offset: frame.offset,
            header: frame.header,
            counts: file.counts(frame.header.lsn),
            records: scanned.records[frame.records.clone()].to_vec(),
        }));
    }
    Ok(Some(Dump {
        report: found.report,
        generation: found.checkpoint.generation,
        replicas: found.replayed.replicas,
        frames,
    }))
}

type Read = (Checkpoint, Option<String>);

/// The newest sound checkpoint; `None` if the directory is new.
fn read_manifest(storage: &dyn Storage, any_log: bool) -> Result<Option<Read>, OpenError> {
    let slots =
        manifest::read(storage).map_err(|error| OpenError::io("reading the manifest", error))?;
    let mut best: Option<Checkpoint> = None;
    let mut unreadable = None;
    for (slot, name) in slots.into_iter().zip(manifest::SLOTS) {
        match slot {
            Slot::Empty => {}
            Slot::Newer(found) => return Err(OpenError::newer(found)),
            Slot::Unreadable(reason) => unreadable = Some(format!("{name}: {reason}")),
            Slot::Valid(checkpoint) => {
                if best
                    .as_ref()
                    .is_none_or(|best| best.generation < checkpoint.generation)
                {
                    best = Some(*checkpoint);
                }
            }
        }
    }
    match best {
        Some(best) => Ok(Some((best, unreadable))),
        // Log files are created only after the first checkpoint is durable, so
        // without any an unreadable slot is a first start that was cut short.
        None if !any_log => Ok(None),
        None => Err(OpenError::Manifest {
            reason: unreadable
                .unwrap_or_else(|| "both slots are empty, and there is a log".to_owned()),
        }),
    }
}

/// Scans every file that holds wanted frames or may hold them.
fn scan_files(
    storage: &dyn Storage,
    numbers: &BTreeSet<u32>,
    checkpoint: &Checkpoint,
    wanted: Wanted,
    threads: usize,
) -> Result<Vec<ScannedFile>, OpenError> {
    let mut waiting = BTreeSet::new();
    for number in numbers {
        let first = scan::first(storage, *number, wanted)?;
        if first != First::Other || *number == checkpoint.first_file {
            waiting.insert(*number);
        }
    }
    let mut files: Vec<ScannedFile> = Vec::new();
    while !waiting.is_empty() {
        let batch: Vec<u32> = std::mem::take(&mut waiting).into_iter().collect();
        files.extend(scan::scan_all(storage, &batch, wanted, threads)?);
        // The first frame of the next file may be the one that is damaged.
        for frame in files.iter().flat_map(|file| &file.frames) {
            let next = frame.header.next_file;
            let linked = frame.header.flags & LINK != 0 && numbers.contains(&next);
            if linked && files.iter().all(|file| file.number != next) {
                waiting.insert(next);
            }
        }
    }
    files.sort_by_key(|file| file.number);
    Ok(files)
}

/// Where the next frame goes: behind the last one, or at the beginning of the file
/// that the last one links to. Behind damage nothing is written, it may be evidence.
fn place(files: &[ScannedFile], chain: &Chain, free: &mut Vec<u32>, sound: bool) -> Option<Place> {
    let at = chain.frames.last().filter(|_| sound)?;
    let file = &files[at.file];
    let frame = &file.frames[at.frame];
    if frame.header.flags & LINK == 0 {
        return Some(Place {
            file: file.number,
            offset: frame.offset + frame.bytes,
        });
    }
    let next = free
        .iter()
        .position(|number| *number == frame.header.next_file)?;
    Some(Place {
        file: free.remove(next),
        offset: 0,
    })
}

/// Files that a start wants ready: one to write and the reserve.
pub(crate) const START_FILES: usize = RESERVE + 1;
