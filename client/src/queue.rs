//! Unacknowledged messages on disk: they survive the process, and a SIGKILL.
//!
//! One append-only file, synced before [`crate::Client::send`] returns:
//!
//! ```text
//! file    "CHATQUE" version:u8(1) salt:[u8; 16]  record …
//! record  0xC4A7_51E5:u32 length:u32 crc:u32 kind:u8 payload[length − 1]
//! kind 1  a message: a protobuf `Send`
//! kind 2  it was acknowledged: client_msg_id[16]
//! kind 3  it was refused or given up: client_msg_id[16]
//! ```
//! Big-endian. The CRC-32 covers salt · length · kind · payload. The salt is random, so that no
//! message can contain what would be taken for a record when the reader looks for the
//! next one behind damage.
//!
//! What is behind the last whole record was being written when the process ended: nobody was
//! told it was queued, and it is cut. A damaged record with whole ones behind it is
//! counted, said in the log and left out; the others are kept.
//!
//! Kinds 2 and 3 are not synced: losing one means that a message is sent once more, and
//! the server's dedup answers it like the first time. Acknowledged messages stay for 24 hours, at
//! most [`MAX_KEPT`], for a cluster restored from a backup. The file is rewritten when most of it
//! is dead.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use chat_wire::{frame, ids::ClientId};
use prost::Message;

mod writer;

pub(crate) use writer::{Writer, open};

const MAGIC: [u8; 8] = *b"CHATQUE\x01";
const HEADER_BYTES: usize = 24;
const RECORD_MAGIC: u32 = 0xC4A7_51E5;
const RECORD_HEADER_BYTES: usize = 12;
/// No record is longer; a longer message is refused before it is written.
const MAX_RECORD_BYTES: usize = 1024 * 1024;
/// Acknowledged messages that are kept.
pub(crate) const MAX_KEPT: usize = 10_000;
/// A file with fewer dead bytes is not rewritten.
const COMPACT_BYTES: u64 = 1024 * 1024;

const MESSAGE: u8 = 1;
const ACKNOWLEDGED: u8 = 2;
const GONE: u8 = 3;

/// Why messages cannot be kept on disk.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// Another client has it open.
    #[error("{} is in use by another client: give this one a file of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is no queue, or one of a newer version.
    #[error("{} is no queue that this version reads: give the client another file", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// The operating system failed. After a failed write the queue takes nothing more
    /// until it is opened again.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// One message is longer than a record may be.
    #[error("a message of {bytes} bytes: the queue takes at most 1 MiB")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The client ended first.
    #[error("the client ended")]
    Closed,
}

/// What an earlier process left.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Recovered {
    /// Without a final answer, in order.
    pub(crate) waiting: Vec<(ClientId, frame::Send)>,
    /// Acknowledged within the last 24 hours, in order.
    pub(crate) kept: Vec<(ClientId, frame::Send)>,
    /// Records that were damaged.
    pub(crate) damaged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    length: u64,
    acknowledged: bool,
}

/// The file, and where in it the live messages are.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Held for as long as the queue is open; the file itself is replaced by rewriting.
    _lock: File,
    salt: [u8; 16],
    end: u64,
    /// By their order.
    live: BTreeMap<u64, (ClientId, Place)>,
    orders: HashMap<ClientId, u64>,
    next_order: u64,
    live_bytes: u64,
    kept: usize,
    /// A write or sync failed: nothing is written after it.
    poisoned: bool,
}

impl Log {
    /// Opens or creates the file. `now_ms` is the time since 1970.
    pub(crate) fn open(path: &Path, now_ms: u64) -> Result<(Self, Recovered), QueueError> {
        let failed = |action| io_error(action, path);
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(QueueError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;

        let salt = if bytes.len() < HEADER_BYTES && MAGIC.starts_with(&bytes[..bytes.len().min(8)])
        {
            let salt: [u8; 16] = rand::random();
            bytes = [&MAGIC[..], &salt].concat();
            file.set_len(0).map_err(failed("write"))?;
            file.seek(SeekFrom::Start(0)).map_err(failed("write"))?;
            file.write_all(&bytes).map_err(failed("write"))?;
            file.sync_all().map_err(failed("sync"))?;
            sync_folder(path)?;
            salt
        } else {
            let mut salt = [0; 16];
            match bytes.get(..HEADER_BYTES) {
                Some(header) if header[..8] == MAGIC => salt.copy_from_slice(&header[8..]),
                _ => {
                    return Err(QueueError::Format {
                        path: path.to_owned(),
                    });
                }
            }
            salt
        };
        let mut log = Self {
            path: path.to_owned(),
            file,
            _lock: lock,
            salt,
            end: HEADER_BYTES as u64,
            live: BTreeMap::new(),
            orders: HashMap::new(),
            next_order: 0,
            live_bytes: 0,
            kept: 0,
            poisoned: false,
        };
        let recovered = log.recover(&Bytes::from(bytes), now_ms)?;
        Ok((log, recovered))
    }

    fn recover(&mut self, bytes: &Bytes, now_ms: u64) -> Result<Recovered, QueueError> {
        let mut recovered = Recovered::default();
        let mut sends: HashMap<ClientId, frame::Send> = HashMap::new();
        let mut at = HEADER_BYTES;
        while at < bytes.len() {
            let Some((kind, payload, length)) = record(&self.salt, bytes, at) else {
                let next =
                    (at + 1..bytes.len()).find(|next| record(&self.salt, bytes, *next).is_some());
                match next {
                    Some(next) => {
                        recovered.damaged += 1;
                        tracing::error!(
                            path = %self.path.display(),
                            offset = at,
                            bytes = next - at,
                            "a queued message is damaged and cannot be sent: the disk is failing"
                        );
                        at = next;
                        continue;
                    }
                    None => break,
                }
            };
            self.replay(kind, &payload, at as u64, length as u64, &mut sends);
            at += length;
        }
        if at < bytes.len() {
            // Nobody was told that this was queued.
            self.file
                .set_len(at as u64)
                .and_then(|()| self.file.sync_all())
                .map_err(io_error("cut the unfinished end of", &self.path))?;
        }
        self.end = at as u64;
        self.forget_old(now_ms);
        for (id, place) in self.live.values() {
            if let Some(send) = sends.remove(id) {
                if place.acknowledged {
                    recovered.kept.push((*id, send));
                } else {
                    recovered.waiting.push((*id, send));
                }
            }
        }
        self.compact_if_worth_it()?;
        Ok(recovered)
    }

    fn replay(
        &mut self,
        kind: u8,
        payload: &Bytes,
        offset: u64,
        length: u64,
        sends: &mut HashMap<ClientId, frame::Send>,
    ) {
        if kind == MESSAGE {
            if let Ok(send) = frame::Send::decode(payload.clone())
                && let Some(id) = ClientId::from_slice(&send.client_msg_id)
            {
                self.add(id, offset, length);
                sends.insert(id, send);
            }
        } else if let Some(id) = ClientId::from_slice(payload) {
            self.settle(id, kind == ACKNOWLEDGED);
        }
    }

    fn add(&mut self, id: ClientId, offset: u64, length: u64) {
        let place = Place {
            offset,
            length,
            acknowledged: false,
        };
        if self.orders.contains_key(&id) {
            return;
        }
        self.live.insert(self.next_order, (id, place));
        self.orders.insert(id, self.next_order);
        self.next_order += 1;
        self.live_bytes += length;
    }

    fn settle(&mut self, id: ClientId, acknowledged: bool) {
        let Some(order) = self.orders.get(&id).copied() else {
            return;
        };
        if acknowledged {
            if let Some((_, place)) = self.live.get_mut(&order)
                && !place.acknowledged
            {
                place.acknowledged = true;
                self.kept += 1;
            }
        } else {
            self.drop_order(order);
        }
    }

    fn drop_order(&mut self, order: u64) {
        if let Some((id, place)) = self.live.remove(&order) {
            self.orders.remove(&id);
            self.live_bytes -= place.length;
            self.kept -= usize::from(place.acknowledged);
        }
    }

    /// Acknowledged messages that are too old or too many.
    fn forget_old(&mut self, now_ms: u64) {
        let mut surplus = self.kept.saturating_sub(MAX_KEPT);
        let old: Vec<u64> = self
            .live
            .iter()
            .filter(|(_, (id, place))| {
                let expired = id.unix_ms() + crate::session::KEPT_MS < now_ms;
                let drop = place.acknowledged && (expired || surplus > 0);
                surplus = surplus.saturating_sub(usize::from(drop));
                drop
            })
            .map(|(order, _)| *order)
            .collect();
        for order in old {
            self.drop_order(order);
        }
    }

    /// Writes messages and what became of others. Messages are synced; the error poisons
    /// the queue: what a failed sync left on the disk is unknown until it is read again.
    pub(crate) fn append(
        &mut self,
        messages: &[(ClientId, Box<frame::Send>)],
        over: &[(ClientId, bool)],
        now_ms: u64,
    ) -> Result<(), QueueError> {
        if self.poisoned {
            return Err(QueueError::Io {
                action: "write",
                path: self.path.clone(),
                reason: "an earlier write failed".to_owned(),
            });
        }
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(messages.len());
        for (id, send) in messages {
            let from = bytes.len();
            push_record(&self.salt, &mut bytes, MESSAGE, |out| {
                send.encode(out)
                    .expect("a vector takes as many bytes as come");
            });
            places.push((*id, self.end + from as u64, (bytes.len() - from) as u64));
        }
        for (id, acknowledged) in over {
            let kind = if *acknowledged { ACKNOWLEDGED } else { GONE };
            push_record(&self.salt, &mut bytes, kind, |out| {
                out.extend_from_slice(&id.0);
            });
        }
        let written = self
            .file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(&bytes))
            .map_err(io_error("write", &self.path))
            .and_then(|()| {
                if messages.is_empty() {
                    return Ok(());
                }
                self.file.sync_data().map_err(io_error("sync", &self.path))
            });
        if let Err(error) = written {
            self.poisoned = true;
            return Err(error);
        }
        self.end += bytes.len() as u64;
        for (id, offset, length) in places {
            self.add(id, offset, length);
        }
        for (id, acknowledged) in over {
            self.settle(*id, *acknowledged);
        }
        if self.kept > MAX_KEPT + MAX_KEPT / 4 {
            self.forget_old(now_ms);
        }
        self.compact_if_worth_it()
    }

    fn compact_if_worth_it(&mut self) -> Result<(), QueueError> {
        let dead = self.end - HEADER_BYTES as u64 - self.live_bytes;
        if dead >= COMPACT_BYTES && dead >= self.live_bytes {
            self.compact()?;
        }
        Ok(())
    }

    /// Writes the live messages to a new file, which takes the place of the old one.
    fn compact(&mut self) -> Result<(), QueueError> {
        let mut new_path = self.path.as_os_str().to_owned();
        new_path.push(".rewrite");
        let new_path = PathBuf::from(new_path);
        let failed = |action| io_error(action, &new_path);
        let mut new = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&new_path)
            .map_err(failed("create"))?;
        let mut bytes = [&MAGIC[..], &self.salt].concat();
        let mut live = BTreeMap::new();
        for (order, (id, place)) in &self.live {
            let from = bytes.len();
            bytes.resize(from + usize::try_from(place.length).unwrap_or(0), 0);
            self.file
                .seek(SeekFrom::Start(place.offset))
                .and_then(|_| self.file.read_exact(&mut bytes[from..]))
                .map_err(io_error("read", &self.path))?;
            let moved = Place {
                offset: from as u64,
                ..*place
            };
            live.insert(*order, (*id, moved));
            if place.acknowledged {
                push_record(&self.salt, &mut bytes, ACKNOWLEDGED, |out| {
                    out.extend_from_slice(&id.0);
                });
            }
        }
        new.write_all(&bytes)
            .and_then(|()| new.sync_all())
            .map_err(failed("write"))?;
        fs::rename(&new_path, &self.path).map_err(failed("put in place"))?;
        sync_folder(&self.path)?;
        self.file = new;
        self.end = bytes.len() as u64;
        self.live = live;
        Ok(())
    }
}

/// The record at `at`: kind, payload, length with its header.
fn record(salt: &[u8; 16], bytes: &Bytes, at: usize) -> Option<(u8, Bytes, usize)> {
    let word = |from: usize| -> Option<u32> {
        let word = bytes.get(from..from + 4)?;
        Some(u32::from_be_bytes(word.try_into().ok()?))
    };
    if word(at)? != RECORD_MAGIC {
        return None;
    }
    let length = word(at + 4)? as usize;
    if length == 0 || length > MAX_RECORD_BYTES {
        return None;
    }
    let from = at + RECORD_HEADER_BYTES;
    let content = bytes.get(from..from + length)?;
    if checksum(salt, content) != word(at + 8)? {
        return None;
    }
    let kind = content[0];
    (MESSAGE..=GONE).contains(&kind).then(|| {
        (
            kind,
            bytes.slice(from + 1..from + length),
            RECORD_HEADER_BYTES + length,
        )
    })
}

fn checksum(salt: &[u8; 16], content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(salt);
    crc.update(
        &u32::try_from(content.len())
            .expect("records are at most 1 MiB")
            .to_be_bytes(),
    );
    crc.update(content);
    crc.finalize()
}

fn push_record(salt: &[u8; 16], out: &mut Vec<u8>, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    out.push(kind);
    payload(out);
    let content = at + RECORD_HEADER_BYTES;
    let length = u32::try_from(out.len() - content).expect("records are at most 1 MiB");
    let crc = checksum(salt, &out[content..]);
    out[at..at + 4].copy_from_slice(&RECORD_MAGIC.to_be_bytes());
    out[at + 4..at + 8].copy_from_slice(&length.to_be_bytes());
    out[at + 8..content].copy_from_slice(&crc.to_be_bytes());
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QueueError {
    let path = path.to_owned();
    move |error| QueueError::Io {
        action,
        path,
        reason: error.to_string(),
    }
}

/// A new or renamed file is not durable before its folder is.
fn sync_folder(path: &Path) -> Result<(), QueueError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync the folder of", path))
}

#[cfg(test)]
mod tests;
