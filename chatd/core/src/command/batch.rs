//! The payload of a log entry: a batch of commands.
//!
//! ```text
//! 0        1        9       13      17
//! | format | ts_ms  | epoch | count | command … |
//! command: | kind u8 | flags u8 | meta length u32 | body length u32 | meta | body |
//! ```
//! Big-endian. `format` also says by which [`Rules`] the commands are applied. `ts_ms` is the proposer's clock, `epoch` the shard map it routed by.
//! `meta` is a protobuf message of the kind, so that fields can be added; `body` is
//! what `chat_wire::body` describes and stays where it is: rows point at it.
//!
//! A binary that meets a kind it does not know stops with the version it needs,
//! unless the command is marked [`FLAG_SKIPPABLE`].

use bytes::{BufMut, Bytes, BytesMut};

use super::{Command, rules::Rules};

/// The version that is written. Formats 1 and 2 have the same layout.
pub const FORMAT: u8 = Rules::WRITTEN.format();
/// A binary that does not know the kind may pass over it.
pub const FLAG_SKIPPABLE: u8 = 1;
/// Bytes before the first command.
pub const BATCH_HEADER_BYTES: usize = 17;
/// Bytes before a command's meta.
pub const COMMAND_HEADER_BYTES: usize = 10;
/// Commands in one entry; more go into the next.
pub const MAX_COMMANDS: usize = 1024;
/// Bytes of one entry after which no command is added to it.
pub const MAX_ENTRY_BYTES: usize = 1024 * 1024;

/// A command of a batch, with its body and where that stands in the payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What to do.
    pub command: Command,
    /// Offset of the body in the payload.
    pub body_offset: u32,
    /// The body; empty if there is none.
    pub body: Bytes,
}

/// The decoded payload of a log entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// By which its commands are applied.
    pub rules: Rules,
    /// The proposer's clock, ms since 1970.
    pub ts_ms: u64,
    /// The epoch of the map it routed by.
    pub epoch: u32,
    /// The commands; `None` stands for one that was skipped.
    pub items: Vec<Option<Item>>,
}

/// Why a payload cannot be applied. The node stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Written by a newer version.
    #[error(
        "the log has entries of format {0}; this chatd knows formats up to {FORMAT}: start the newer version that wrote them"
    )]
    Format(u8),
    /// Written by a newer version.
    #[error(
        "the log has a command of kind {0} that this chatd does not know: start the newer version that wrote it"
    )]
    Kind(u8),
    /// Not what was written: checksums should have caught it.
    #[error("a log entry cannot be decoded: {0}")]
    Damaged(&'static str),
}

/// Collects commands into the payload of one entry.
#[derive(Debug)]
pub struct BatchBuilder {
    out: BytesMut,
    count: u32,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(ts_ms: u64, epoch: u32) -> Self {
        let mut out = BytesMut::with_capacity(1024);
        out.put_u8(FORMAT);
        out.put_u64(ts_ms);
        out.put_u32(epoch);
        out.put_u32(0);
        Self { out, count: 0 }
    }

    /// Adds a command. `body` is what `chat_wire::body::seal` made, or empty.
    ///
    /// # Panics
    /// If meta or body exceed 4 GiB: frames bound them.
    pub fn push(&mut self, command: &Command, body: &[u8]) {
        self.out.put_u8(command.kind());
        self.out.put_u8(0);
        self.out
            .put_u32(u32::try_from(command.meta_len()).expect("bounded by a frame"));
        self.out
            .put_u32(u32::try_from(body.len()).expect("bounded by a frame"));
        command.encode_meta(&mut self.out);
        self.out.put_slice(body);
        self.count += 1;
    }

    /// Whether another command should go into the next entry.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count as usize >= MAX_COMMANDS || self.out.len() >= MAX_ENTRY_BYTES
    }

    /// Whether nothing was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The length of the payload with another command.
    #[must_use]
    pub fn bytes_with(&self, command: &Command, body: &[u8]) -> usize {
        self.out.len() + COMMAND_HEADER_BYTES + command.meta_len() + body.len()
    }

    /// How many were added.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The payload, in a buffer of its length: it stays in memory until the shard's next
    /// flush, and most entries are far smaller than what a batch has room for.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.out[13..17].copy_from_slice(&self.count.to_be_bytes());
        Bytes::copy_from_slice(&self.out)
    }
}

/// Reads the payload of an entry. Bodies are slices of it.
///
/// # Errors
/// [`BatchError`]: the node cannot go on.
pub fn decode(payload: &Bytes) -> Result<Batch, BatchError> {
    let cut = BatchError::Damaged("cut short");
    let word = |at: usize| -> Result<u32, BatchError> {
        let bytes = payload
            .get(at..at + 4)
            .ok_or(BatchError::Damaged("cut short"))?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let format = *payload.first().ok_or(cut.clone())?;
    let rules = Rules::of(format).ok_or(BatchError::Format(format))?;
    let ts_ms = u64::from(word(1)?) << 32 | u64::from(word(5)?);
    let (epoch, count) = (word(9)?, word(13)? as usize);
    if count > MAX_COMMANDS {
        return Err(BatchError::Damaged("too many commands"));
    }
    let mut items = Vec::with_capacity(count);
    let mut at = BATCH_HEADER_BYTES;
    for _ in 0..count {
        let head = payload
            .get(at..at + COMMAND_HEADER_BYTES)
            .ok_or(cut.clone())?;
        let (kind, flags) = (head[0], head[1]);
        let (meta_len, body_len) = (word(at + 2)? as usize, word(at + 6)? as usize);
        let meta_at = at + COMMAND_HEADER_BYTES;
        let body_at = meta_at + meta_len;
        let end = body_at + body_len;
        let meta = payload.get(meta_at..body_at).ok_or(cut.clone())?;
        if payload.len() < end {
            return Err(cut);
        }
        items.push(match Command::decode_meta(kind, meta) {
            Some(Ok(command)) => Some(Item {
                command,
                body_offset: u32::try_from(body_at).map_err(|_| cut.clone())?,
                body: payload.slice(body_at..end),
            }),
            Some(Err(_)) => return Err(BatchError::Damaged("meta")),
            None if flags & FLAG_SKIPPABLE != 0 => None,
            None => return Err(BatchError::Kind(kind)),
        });
        at = end;
    }
    if at == payload.len() {
        Ok(Batch {
            rules,
            ts_ms,
            epoch,
            items,
        })
    } else {
        Err(BatchError::Damaged("too long"))
    }
}
