//! What is left of a node that a panic ends: a last log line, an exit code of its own,
//! and a note in the data directory that `chatctl doctor` shows.
//!
//! Nothing is drained and nothing unwound: what a panic leaves in memory is not to be
//! trusted, and what was acknowledged is on the disk. The process ends within twice
//! [`END_WITHIN`], whether or not the log line or the note come through; two threads see
//! to that, since either of them may hang on what it writes.
//!
//! The note has a fixed size and is written over, so that it needs no room on a full disk
//! and does not grow in a crash loop. It may be lost or torn: then the reason is missing
//! and a shard gets one more try.
//!
//! ```text
//! PANIC    16,384 bytes: sixteen hexadecimal digits (the first half of the BLAKE3 of what
//!          follows the line), a line feed, JSON, spaces
//! ```
//!
//! A shard that panics again at the same position, or again before it served, would do so
//! for ever: it stays down until another version starts, or the note is removed.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{shards::Panicked, watch::Ended};

/// The exit code of a node that a panic ended: `EX_SOFTWARE` of sysexits.
pub const EXIT_CODE: u8 = 70;
/// The note's name in the data directory.
pub const FILE: &str = "PANIC";
/// How long the note may take, and after it the log line.
pub const END_WITHIN: Duration = Duration::from_millis(400);
/// Its size: all that it can say fits.
const NOTE_BYTES: usize = 16_384;
/// Shards that are remembered. The oldest is forgotten, and gets another try.
const SHARDS: usize = 64;
/// Longest reason.
const REASON_BYTES: usize = 1_024;

/// What the note says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The version that panicked.
    version: String,
    /// The last panic, in words.
    reason: String,
    /// When it was, in ms since 1970.
    unix_ms: u64,
    /// Shards that were stepped when they panicked.
    shards: Vec<ShardPanic>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ShardPanic {
    shard: u16,
    position: u64,
    /// The node has served since then.
    settled: bool,
    /// It was the second time.
    down: bool,
}

impl Note {
    /// What stands in these bytes; none if it is not whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (digits, rest) = bytes.split_at_checked(17)?;
        let (sum, line) = digits.split_at(16);
        if line != b"\n" || sum != checksum(rest).as_bytes() {
            return None;
        }
        serde_json::from_slice(rest.trim_ascii_end()).ok()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut rest = serde_json::to_vec(self).expect("plain data");
        rest.resize(NOTE_BYTES - 17, b' ');
        let mut bytes = checksum(&rest).into_bytes();
        bytes.push(b'\n');
        bytes.append(&mut rest);
        bytes
    }

    /// What another version did is no reason for this one not to try.
    fn for_version(mut self, version: &str) -> Self {
        if self.version != version {
            self.shards.clear();
            version.clone_into(&mut self.version);
        }
        self
    }

    /// The shards that stay down.
    fn down(&self) -> Vec<Panicked> {
        let down = self.shards.iter().filter(|panic| panic.down);
        down.map(|panic| Panicked {
            shard: panic.shard,
            position: panic.position,
        })
        .collect()
    }

    fn panicked(&mut self, ended: &Ended, unix_ms: u64) {
        self.reason = ended.to_string();
        let mut end = self.reason.len().min(REASON_BYTES);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        self.reason.truncate(end);
        self.unix_ms = unix_ms;
        let Some(place) = ended.place else { return };
        let known = self
            .shards
            .iter()
            .position(|panic| panic.shard == place.shard.0)
            .map(|known| self.shards.remove(known));
        let down = known.is_some_and(|before| {
            before.position == place.position || !before.settled && !place.served
        });
        if self.shards.len() == SHARDS {
            self.shards.remove(0);
        }
        self.shards.push(ShardPanic {
            shard: place.shard.0,
            position: place.position,
            settled: false,
            down,
        });
    }

    /// True if it changed.
    fn settle(&mut self) -> bool {
        let mut changed = false;
        for panic in &mut self.shards {
            changed |= !std::mem::replace(&mut panic.settled, true);
        }
        changed
    }
}

fn checksum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

/// The note of a data directory, and what is done when the node has to end.
pub struct LastWords {
    note: Mutex<Note>,
    /// Open from the start: when it is needed there may be no descriptor left. None on a
    /// disk that was full at the first start.
    file: Option<File>,
}

impl LastWords {
    /// Takes the note of this data directory, which may be empty or not ours to read.
    #[must_use]
    pub fn new<E: std::fmt::Display>(file: Result<File, E>, version: &str) -> Arc<Self> {
        let file = file
            .inspect_err(|error| {
                tracing::warn!(%error, "the note PANIC cannot be opened: the reason of a panic \
                    would stand in the log only");
            })
            .ok();
        let mut bytes = vec![0; NOTE_BYTES];
        let found = match file.as_ref().map(|file| file.read_at(&mut bytes, 0)) {
            Some(Ok(0)) | None => None,
            Some(Ok(read)) => {
                let note = Note::read(&bytes[..read]);
                if note.is_none() {
                    tracing::warn!("the note PANIC is not whole, and is begun anew");
                }
                note
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the note PANIC cannot be read, and is begun anew");
                None
            }
        };
        let note = found.unwrap_or_default().for_version(version);
        let words = Self {
            note: Mutex::new(note),
            file,
        };
        // So that its blocks are there when the disk is full.
        words.write(&words.note());
        Arc::new(words)
    }

    /// Shards that have panicked again and again.
    #[must_use]
    pub fn down(&self) -> Vec<Panicked> {
        self.note().down()
    }

    /// The last panic, in words, and when it was in ms since 1970.
    #[must_use]
    pub fn last(&self) -> Option<(String, u64)> {
        let note = self.note();
        (!note.reason.is_empty()).then(|| (note.reason.clone(), note.unix_ms))
    }

    /// Every shard serves, or will not: a panic from now on is not one of this start.
    pub fn settle(&self) {
        let mut note = self.note();
        if note.settle() {
            self.write(&note);
        }
    }

    /// Ends the process, on the thread that is lost.
    pub fn end(self: &Arc<Self>, ended: &Ended) -> ! {
        let (done, written) = mpsc::sync_channel(1);
        let words = Arc::clone(self);
        let noted = ended.clone();
        // Where no thread can be had any more, there is no note either.
        let writes = std::thread::Builder::new()
            .name("last-words".into())
            .spawn(move || {
                words.remember(&noted);
                if done.send(()).is_err() {
                    return;
                }
                // Should the other thread hang in its log line.
                std::thread::sleep(END_WITHIN);
                std::process::exit(i32::from(EXIT_CODE));
            });
        let noted = writes.is_ok() && written.recv_timeout(END_WITHIN).is_ok();
        tracing::error!(
            exit_code = EXIT_CODE,
            noted,
            "the node ends at once: {ended}. What was acknowledged is on the disk"
        );
        std::process::exit(i32::from(EXIT_CODE))
    }

    fn remember(&self, ended: &Ended) {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let mut note = self.note();
        note.panicked(ended, u64::try_from(unix.as_millis()).unwrap_or(u64::MAX));
        self.write(&note);
    }

    /// A note that cannot be written is missing, and nothing else.
    fn write(&self, note: &Note) {
        let Some(file) = &self.file else { return };
        let written = file
            .write_all_at(&note.bytes(), 0)
            .and_then(|()| file.sync_data());
        if let Err(error) = written {
            tracing::warn!(%error, "the note PANIC cannot be written");
        }
    }

    fn note(&self) -> std::sync::MutexGuard<'_, Note> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
