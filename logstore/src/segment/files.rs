//! The segment files of a node: opened when they are first read, mapped, and a
//! bounded number of them at once.
//!
//! At the bound the map that was not used for longest goes; a reader that is in it
//! keeps it until its copy is done. Closed segments cost their [`SegmentMeta`] and
//! nothing else.

use super::{
    block::{self, Kind, Salt},
    encoding::Input,
    footer::{FOOTER_BYTES, Footer, HEADER_BYTES, Name, PLACE_BYTES, SEGMENT_DIR, Summary, header},
};
use crate::{
    cache::BlockCache,
    mmap::FAULTS,
    plant::Planted,
    storage::{Map, Storage},
};
use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Why a read gave no answer. None of these means that a row is absent.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A part of a segment is not what was written.
    #[error(
        "{part} of {segment} is damaged ({reason}): repair the shard from a peer, or look at the file with `chatctl inspect`"
    )]
    Damaged {
        /// The file.
        segment: String,
        /// Where in it.
        part: Part,
        /// What did not fit.
        reason: &'static str,
    },
    /// The disk failed under the file in an earlier run, which ended that.
    #[error(
        "the disk failed under {segment} in an earlier run: check the disk; then repair the shard from a peer, or lift the fence with `chatctl inspect` if the file can be read again"
    )]
    Fenced {
        /// The file.
        segment: String,
    },
    /// The file could not be opened or mapped.
    #[error("cannot open {segment}: {source}")]
    Open {
        /// The file.
        segment: String,
        /// What the disk said.
        source: io::Error,
    },
    /// What it needs is not in memory. Only a read that does not wait says so: see
    /// [`Shard::at_hand`](crate::shard::Shard::at_hand).
    #[error("the read needs a block that is not in memory")]
    Cold,
}

/// A part of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The block of this number.
    Block(u32),
    /// The header at its beginning.
    Header,
    /// The footer at its end.
    Footer,
    /// The table of places.
    Places,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Block(number) => write!(f, "block {number}"),
            Self::Header => f.write_str("the header"),
            Self::Footer => f.write_str("the footer"),
            Self::Places => f.write_str("the table of places"),
        }
    }
}

/// Bounds on what is mapped.
#[derive(Clone, Copy, Debug)]
pub struct MapLimits {
    /// Files at once. Default: 512.
    pub maps: usize,
    /// Bytes at once; a file that is larger is mapped alone. Default: 64 GiB of
    /// address space.
    pub bytes: u64,
}

impl Default for MapLimits {
    fn default() -> Self {
        Self {
            maps: 512,
            bytes: 64 << 30,
        }
    }
}

/// The segment files of a node: opened when they are first read, mapped, and a
/// bounded number of them at once. One for all shards of a data directory.
pub struct SegmentFiles {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) cache: BlockCache,
    pub(crate) plant: Planted,
    limits: MapLimits,
    maps: Mutex<Maps>,
    next_id: AtomicU64,
    /// Files that are not to be opened.
    fenced: BTreeSet<String>,
    access: Access,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Through a map: a bad sector ends the process.
    Map,
    /// By calls: a bad sector is an error. For scrubs and for looking into files.
    Read,
}

#[derive(Default)]
struct Maps {
    open: HashMap<u64, (Arc<Open>, u64)>,
    bytes: u64,
    uses: u64,
}

/// An open segment file, its footer and summary verified.
pub(crate) struct Open {
    map: Arc<dyn Map>,
    pub(crate) footer: Footer,
    pub(crate) summary: Summary,
    salt: Salt,
}

impl SegmentFiles {
    /// The segments of a data directory; creates their folder if need be.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(
        storage: Arc<dyn Storage>,
        cache: BlockCache,
        limits: MapLimits,
    ) -> io::Result<Arc<Self>> {
        Self::with(storage, cache, limits, Planted::default())
    }

    /// The same with a bug, for the tests that must find it.
    ///
    /// # Errors
    /// What the disk says.
    #[cfg(feature = "plant")]
    pub fn planted(
        storage: Arc<dyn Storage>,
        cache: BlockCache,
        limits: MapLimits,
        plant: Option<crate::plant::Plant>,
    ) -> io::Result<Arc<Self>> {
        Self::with(storage, cache, limits, plant.into())
    }

    fn with(
        storage: Arc<dyn Storage>,
        cache: BlockCache,
        limits: MapLimits,
        plant: Planted,
    ) -> io::Result<Arc<Self>> {
        storage.create_dir(SEGMENT_DIR)?;
        storage.sync_dir("")?;
        let fenced = fenced(&*storage)?;
        let access = Access::Map;
        let files = Self {
            plant,
            limits,
            fenced,
            access,
            ..Self::bare(storage, cache)
        };
        Ok(Arc::new(files))
    }

    /// Segments that are only looked at: nothing is created, and fences are no matter.
    pub(crate) fn reading(storage: Arc<dyn Storage>, cache: BlockCache) -> Arc<Self> {
        Arc::new(Self::bare(storage, cache))
    }

    fn bare(storage: Arc<dyn Storage>, cache: BlockCache) -> Self {
        Self {
            storage,
            cache,
            plant: Planted::default(),
            limits: MapLimits::default(),
            maps: Mutex::default(),
            next_id: AtomicU64::new(0),
            fenced: BTreeSet::new(),
            access: Access::Read,
        }
    }

    /// Maps that are open now, and their bytes.
    #[must_use]
    pub fn mapped(&self) -> (usize, u64) {
        let maps = self.maps();
        (maps.open.len(), maps.bytes)
    }

    /// The cache of decompressed blocks.
    #[must_use]
    pub fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// A number for a new handle.
    pub(crate) fn handle(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A file that is open already.
    pub(crate) fn opened(&self, id: u64) -> Option<Arc<Open>> {
        let mut maps = self.maps();
        maps.uses += 1;
        let uses = maps.uses;
        let (open, used) = maps.open.get_mut(&id)?;
        *used = uses;
        Some(open.clone())
    }

    pub(crate) fn open(&self, id: u64, path: &str, name: Name) -> Result<Arc<Open>, ReadError> {
        if let Some(open) = self.opened(id) {
            return Ok(open);
        }
        if self.fenced.contains(path) {
            return Err(ReadError::Fenced {
                segment: path.to_owned(),
            });
        }
        let open = Arc::new(Open::new(&*self.storage, path, Some(name), self.access)?);
        let mut maps = self.maps();
        let uses = maps.uses;
        if let Some((open, _)) = maps.open.get(&id) {
            return Ok(open.clone());
        }
        let bytes = open.map.len();
        while !maps.open.is_empty()
            && (maps.open.len() >= self.limits.maps || maps.bytes + bytes > self.limits.bytes)
        {
            let oldest = maps
                .open
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(id, _)| *id);
            maps.close(oldest.expect("it is not empty"));
        }
        maps.bytes += bytes;
        maps.open.insert(id, (open.clone(), uses));
        Ok(open)
    }

    /// Unmaps a segment that nobody will read again.
    pub(crate) fn close(&self, id: u64) {
        self.maps().close(id);
    }

    /// A thread that panicked inside leaves a list that may lack a map, no more.
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    fn close(&mut self, id: u64) {
        if let Some((open, _)) = self.open.remove(&id) {
            self.bytes -= open.map.len();
        }
    }
}

impl Open {
    /// Opens a file; `name` is who it must be, if that is known.
    pub(crate) fn new(
        storage: &dyn Storage,
        path: &str,
        name: Option<Name>,
        access: Access,
    ) -> Result<Self, ReadError> {
        let map = match access {
            Access::Map => storage.map(path),
            Access::Read => storage.read(path),
        };
        let map = map.map_err(|source| ReadError::Open {
            segment: path.to_owned(),
            source,
        })?;
        let damaged = |part, reason| ReadError::Damaged {
            segment: path.to_owned(),
            part,
            reason,
        };
        let mut bytes = [0; FOOTER_BYTES];
        let end = map.len().checked_sub(FOOTER_BYTES as u64);
        if !end.is_some_and(|at| map.copy(&mut bytes, at)) {
            return Err(damaged(Part::Footer, "the file is shorter than one"));
        }
        let footer = Footer::decode(&bytes).map_err(|reason| damaged(Part::Footer, reason))?;
        let places = u64::from(footer.blocks) * PLACE_BYTES as u64;
        if name.is_some_and(|name| name != footer.name)
            || footer.file_bytes != map.len()
            || footer.places.checked_add(places) != end
            || footer.blocks == 0
        {
            return Err(damaged(Part::Footer, "it belongs to another file"));
        }
        let mut bytes = [0; HEADER_BYTES];
        if !map.copy(&mut bytes, 0) || bytes != header(&footer.name) {
            return Err(damaged(Part::Header, "it does not fit the footer"));
        }
        let salt = footer.name.salt();
        let number = footer.blocks - 1;
        let part = Part::Block(number);
        let content = read(&*map, &footer, &salt, number, Kind::Summary)
            .map_err(|reason| damaged(part, reason))?;
        let summary = Summary::decode(&content).ok_or(damaged(part, "the summary's fields"))?;
        Ok(Self {
            map,
            footer,
            summary,
            salt,
        })
    }

    /// Where a block stands; `None` if there is none of the number.
    pub(crate) fn place(&self, number: u32) -> Option<(u64, u32)> {
        place(&*self.map, &self.footer, number)
    }

    /// Whether a block can be copied without waiting for the disk, as far as can be
    /// told: a page may leave memory at any moment.
    pub(crate) fn is_at_hand(&self, number: u32) -> bool {
        let at = self.footer.places + u64::from(number) * PLACE_BYTES as u64;
        self.map.is_resident(at, PLACE_BYTES as u64)
            && self
                .place(number)
                .is_none_or(|(at, len)| self.map.is_resident(at, u64::from(len)))
    }

    /// Copies a block and verifies the copy.
    pub(crate) fn read(&self, number: u32, kind: Kind) -> Result<Vec<u8>, &'static str> {
        read(&*self.map, &self.footer, &self.salt, number, kind)
    }

    /// Copies a block of any kind and verifies the copy.
    pub(crate) fn read_any(&self, number: u32) -> Result<block::Opened, &'static str> {
        let bytes = copy(&*self.map, &self.footer, number)?;
        block::open(&self.salt, number, &bytes)
    }

    /// The table of places as it stands in the file.
    pub(crate) fn places(&self) -> Option<Vec<u8>> {
        let mut places = vec![0; self.footer.blocks as usize * PLACE_BYTES];
        self.map
            .copy(&mut places, self.footer.places)
            .then_some(places)
    }
}

/// The segments under which the disk failed in earlier runs.
pub(crate) fn fenced(storage: &dyn Storage) -> io::Result<BTreeSet<String>> {
    let file = match storage.open(FAULTS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        file => file?,
    };
    // A line a death; one that is cut short names no file.
    let len = file.len()?.min(1 << 20);
    let mut bytes = vec![0; usize::try_from(len).expect("at most a MiB")];
    file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes)
        .lines()
        .map(str::to_owned)
        .collect())
}

fn place(map: &dyn Map, footer: &Footer, number: u32) -> Option<(u64, u32)> {
    let mut bytes = [0; PLACE_BYTES];
    let at = footer.places + u64::from(number) * PLACE_BYTES as u64;
    let there = number < footer.blocks && map.copy(&mut bytes, at);
    let mut input = Input(&bytes);
    if there {
        Some((input.u64()?, input.u32()?))
    } else {
        None
    }
}

fn copy(map: &dyn Map, footer: &Footer, number: u32) -> Result<Vec<u8>, &'static str> {
    let (at, len) = place(map, footer, number).ok_or("there is no such block")?;
    if at
        .checked_add(u64::from(len))
        .is_none_or(|end| end > footer.places)
    {
        return Err("its place is beyond the blocks");
    }
    let mut bytes = vec![0; len as usize];
    map.copy(&mut bytes, at)
        .then_some(bytes)
        .ok_or("its place is beyond the file")
}

fn read(
    map: &dyn Map,
    footer: &Footer,
    salt: &Salt,
    number: u32,
    kind: Kind,
) -> Result<Vec<u8>, &'static str> {
    let opened = block::open(salt, number, &copy(map, footer, number)?)?;
    if opened.kind == kind {
        Ok(opened.content)
    } else {
        Err("another kind of block")
    }
}
