//! The manifest: a checkpoint of the log's control records in two slots.
//!
//! It says from which lsn on the log is needed, so files before it can be reused;
//! it is only a checkpoint: the log after it is the truth. The two slots are
//! written in turn, each as a whole, so one of them is always sound. A slot that
//! was never written, one that is sound and one that cannot be read are three
//! different answers. Known limit: a checkpoint is written in one piece; it grows
//! by about 200 bytes a segment.

use crate::{
    plant::{Planted, is_planted},
    replicas::{Reader, Replicas},
    storage::{File, Storage},
};
use std::{io, sync::Arc};

const MAGIC: &[u8; 4] = b"CMAN";
const FORMAT: u16 = 1;
const HEADER: usize = 32;
/// A header that names more than this is damaged.
const MAX_PAYLOAD: usize = 256 << 20;
/// Allocated for a slot at once, so that a full disk does not stop checkpoints soon.
const FIRST_BYTES: usize = 64 << 10;

/// The names of the slots.
pub(crate) const SLOTS: [&str; 2] = ["manifest-0", "manifest-1"];

/// What a slot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Rises with every checkpoint; its parity is the slot.
    pub(crate) generation: u64,
    /// Control records up to here are contained.
    pub(crate) lsn: u64,
    /// Frames up to here were durable.
    pub(crate) synced_lsn: u64,
    /// The log is needed from here on.
    pub(crate) first_lsn: u64,
    /// The file that holds `first_lsn`, unless none has been written since.
    pub(crate) first_file: u32,
    /// The highest epoch given out.
    pub(crate) epoch: u64,
    /// File numbers below this have been given out.
    pub(crate) next_file: u32,
    /// The random number of this directory's frames.
    pub(crate) log_id: u64,
    /// What the control records add up to.
    pub(crate) replicas: Replicas,
}

/// What was found in a slot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Never written.
    Empty,
    /// A sound checkpoint.
    Valid(Box<Checkpoint>),
    /// Written, and not sound now.
    Unreadable(String),
    /// Sound, and of a format from the future.
    Newer(u16),
}

/// Creates both slots, empty, and makes them durable.
pub(crate) fn create(storage: &dyn Storage) -> io::Result<()> {
    for name in SLOTS {
        let file = open_or_create(storage, name)?;
        if file.len()? < FIRST_BYTES as u64 {
            file.write_at(&vec![0; FIRST_BYTES], 0)?;
        }
        file.sync()?;
    }
    storage.sync_dir("")
}

/// Writes a checkpoint into its slot and syncs it. After an error the other slot
/// is what counts; whether this one was written is not known.
pub(crate) fn write(
    storage: &dyn Storage,
    checkpoint: &Checkpoint,
    plant: Planted,
) -> io::Result<()> {
    let slot = if is_planted!(plant, ManifestInOneSlot) {
        0
    } else {
        checkpoint.generation % 2
    };
    let file = open_or_create(storage, SLOTS[usize::from(slot == 1)])?;
    file.write_at(&encode(checkpoint), 0)?;
    file.sync()
}

fn open_or_create(storage: &dyn Storage, name: &str) -> io::Result<Arc<dyn File>> {
    match storage.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => storage.create(name),
        other => other,
    }
}

/// Reads both slots.
pub(crate) fn read(storage: &dyn Storage) -> io::Result<[Slot; 2]> {
    Ok([read_slot(storage, SLOTS[0])?, read_slot(storage, SLOTS[1])?])
}

fn read_slot(storage: &dyn Storage, name: &str) -> io::Result<Slot> {
    let file = match storage.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Slot::Empty),
        Err(error) => return Err(error),
    };
    let len = usize::try_from(file.len()?)
        .unwrap_or(usize::MAX)
        .min(MAX_PAYLOAD + HEADER);
    let mut bytes = vec![0; len];
    match file.read_at(&mut bytes, 0) {
        Ok(read) => bytes.truncate(read),
        // A block that cannot be read is not an empty slot.
        Err(error) => return Ok(Slot::Unreadable(error.to_string())),
    }
    Ok(decode(&bytes))
}

fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut payload = Vec::new();
    for number in [
        checkpoint.lsn,
        checkpoint.synced_lsn,
        checkpoint.first_lsn,
        checkpoint.epoch,
        checkpoint.log_id,
    ] {
        payload.extend_from_slice(&number.to_le_bytes());
    }
    payload.extend_from_slice(&checkpoint.first_file.to_le_bytes());
    payload.extend_from_slice(&checkpoint.next_file.to_le_bytes());
    checkpoint.replicas.encode(&mut payload);
    let len = u32::try_from(payload.len()).expect("far below 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&checkpoint.generation.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

fn decode(bytes: &[u8]) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
        return Slot::Unreadable(format!("{} bytes are no header", bytes.len()));
    };
    let crc = u32::from_le_bytes(header[28..32].try_into().expect("four bytes"));
    if &header[..4] != MAGIC || crc32fast::hash(&header[..28]) != crc {
        return Slot::Unreadable("the header's checksum is wrong".to_owned());
    }
    let mut from = Reader(&header[4..28]);
    let read = (|| {
        Some((
            from.u16()?,
            from.u16()?,
            from.u64()?,
            from.u32()?,
            from.u32()?,
            from.u32()?,
        ))
    })();
    let Some((format, _, generation, len, _, payload_crc)) = read else {
        return Slot::Unreadable("the header is short".to_owned());
    };
    if format > FORMAT {
        return Slot::Newer(format);
    }
    let Some(payload) = rest.get(..len as usize) else {
        return Slot::Unreadable(format!("{len} bytes are named, {} are there", rest.len()));
    };
    if crc32fast::hash(payload) != payload_crc {
        return Slot::Unreadable("the content's checksum is wrong".to_owned());
    }
    match decode_payload(generation, payload) {
        Some(checkpoint) => Slot::Valid(Box::new(checkpoint)),
        None => Slot::Unreadable("the content is not a checkpoint's".to_owned()),
    }
}

fn decode_payload(generation: u64, payload: &[u8]) -> Option<Checkpoint> {
    let mut from = Reader(payload);
    let checkpoint = Checkpoint {
        generation,
        lsn: from.u64()?,
        synced_lsn: from.u64()?,
        first_lsn: from.u64()?,
        epoch: from.u64()?,
        log_id: from.u64()?,
        first_file: from.u32()?,
        next_file: from.u32()?,
        replicas: Replicas::read(&mut from)?,
    };
    from.0.is_empty().then_some(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log_index::HardState,
        replicas::{Damage, ReplicaKey, ReplicaState},
        storage::simulated::SimulatedDisk,
    };
    use bytes::Bytes;

    fn checkpoint(generation: u64) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            generation,
            lsn: 40,
            synced_lsn: 39,
            first_lsn: 12,
            first_file: 3,
            epoch: 5,
            next_file: 9,
            log_id: 77,
            replicas: Replicas {
                next_replica: 8,
                ..Replicas::default()
            },
        };
        let state = ReplicaState {
            created_lsn: 2,
            hard_state: HardState {
                term: 3,
                vote: 4,
                commit: 5,
            },
            compacted: (6, 2),
            flushed: (7, 3),
            segments: [(1, Bytes::from_static(b"meta"))].into(),
            damage: Some(Damage {
                lsn: 9,
                kept_to: 5,
                seen_to: 8,
                reason: "a bit".to_owned(),
            }),
        };
        checkpoint.replicas.all.insert(
            ReplicaKey {
                shard: 1,
                replica: 7,
            },
            state,
        );
        checkpoint
    }

    #[test]
    fn empty_valid_and_unreadable_are_three_answers() {
        let disk = SimulatedDisk::new();
        assert_eq!(read(&disk).unwrap(), [Slot::Empty, Slot::Empty]);
        create(&disk).unwrap();
        write(&disk, &checkpoint(2), Planted::default()).unwrap();
        assert_eq!(
            read(&disk).unwrap(),
            [Slot::Valid(Box::new(checkpoint(2))), Slot::Empty]
        );
        write(&disk, &checkpoint(3), Planted::default()).unwrap();
        disk.flip(SLOTS[0], 40, 1).unwrap();
        let [first, second] = read(&disk).unwrap();
        assert!(matches!(first, Slot::Unreadable(_)));
        assert_eq!(second, Slot::Valid(Box::new(checkpoint(3))));
    }

    #[test]
    fn every_flipped_bit_of_a_slot_makes_it_unreadable() {
        let bytes = encode(&checkpoint(2));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&bytes), Slot::Unreadable(_)), "bit {bit}");
        }
        for len in 1..bytes.len() {
            assert!(
                matches!(decode(&bytes[..len]), Slot::Unreadable(_)),
                "length {len}"
            );
        }
    }
}
