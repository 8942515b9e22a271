//! A disk in memory that fails as disks fail, from a seed.
//!
//! It keeps for every file what is durable and, in order, what was written since;
//! for every directory which names are durable and which changes are not.
//! [`SimulatedDisk::crash`] takes the power away: of each unsynced write any set of
//! 512-byte pieces survives, in any order, and each unsynced change of a name
//! survives or not. A failed sync leaves its writes visible and never makes them
//! durable, as the page cache of Linux does. Known limit: directories themselves
//! are durable at once.

use crate::storage::{File, Map, Storage};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

/// What survives of a write survives in pieces of this size.
pub const SECTOR: usize = 512;

/// What goes wrong, and when: effects are counted from 1, each call that changes
/// the disk is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The effect does not happen, and nothing after it does: the power is off.
    PowerOff,
    /// The effect fails with EIO. A write leaves its first half, a sync leaves
    /// everything visible and nothing durable.
    Io,
    /// The effect fails with ENOSPC and does nothing.
    NoSpace,
    /// A write stops half-way and says so.
    Short,
    /// A write goes to this many bytes after its place and says nothing.
    Misdirected(u64),
    /// A write has this bit (of its bytes, modulo) flipped and says nothing.
    Flip(u64),
}

/// A disk shared by all its clones.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// A read of a map that had to wait for the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdRead {
    /// The name of the thread that waited.
    pub thread: String,
    /// A number of the file.
    pub file: usize,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    directories: BTreeSet<String>,
    effects: u64,
    trace: Vec<String>,
    faults: BTreeMap<u64, Fault>,
    off: bool,
    /// Rises at each restart: handles of an earlier life are dead.
    life: u64,
    capacity: Option<u64>,
    cold_reads: Vec<ColdRead>,
}

#[derive(Default, Clone)]
struct Inode {
    /// Pages of the maps that are in memory; without, all of them are.
    warm: Option<BTreeSet<usize>>,
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Handles of this life that may write, and maps.
    writers: usize,
    maps: usize,
}

#[derive(Clone)]
struct Change {
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Clone)]
enum NameChange {
    Create { path: String, inode: usize },
    Rename { from: String, to: String },
    Remove { path: String },
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedDisk {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new() -> Self {
        let mut state = State::default();
        state.directories.insert(String::new());
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Plans a fault for the effect with a number (see [`SimulatedDisk::effects`]).
    pub fn plan(&self, effect: u64, fault: Fault) {
        self.lock().faults.insert(effect, fault);
    }

    /// How many effects there have been.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.lock().effects
    }

    /// What the effects were, one line each.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    /// Bounds the bytes of all files; writes beyond it get ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Whether a planned [`Fault::PowerOff`] has come.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Takes the power away and gives it back: what was not synced survives in
    /// part, as the seed says. Handles from before are dead; plans are forgotten.
    pub fn crash(&self, seed: u64) {
        let mut random = Random(seed);
        let mut state = self.lock();
        for inode in &mut state.inodes {
            inode.crash(&mut random);
        }
        let mut names = state.durable_names.clone();
        for change in std::mem::take(&mut state.pending_names) {
            if random.chance() {
                change.apply(&mut names);
            }
        }
        state.names.clone_from(&names);
        state.durable_names = names;
        state.restart();
    }

    /// Ends the process and leaves the page cache: everything written stays
    /// visible, what was not synced is still not durable.
    pub fn kill(&self) {
        self.lock().restart();
    }

    /// Flips bits of a byte, durable and visible.
    ///
    /// # Errors
    /// If there is no such file or byte.
    pub fn flip(&self, path: &str, offset: usize, mask: u8) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.inode(path)?;
        for bytes in [&mut inode.current, &mut inode.durable] {
            *bytes.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)? ^= mask;
        }
        Ok(())
    }

    /// Overwrites durable and visible bytes.
    ///
    /// # Errors
    /// If there is no such file or range.
    pub fn overwrite(&self, path: &str, offset: usize, with: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.inode(path)?;
        for bytes in [&mut inode.current, &mut inode.durable] {
            bytes
                .get_mut(offset..offset + with.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?
                .copy_from_slice(with);
        }
        Ok(())
    }

    /// Nothing that is mapped is in memory any more; what is read comes back, page
    /// by page.
    pub fn evict(&self) {
        for inode in &mut self.lock().inodes {
            inode.warm = Some(BTreeSet::new());
        }
    }

    /// Reads of maps that had to wait for the disk since it began.
    #[must_use]
    pub fn cold_reads(&self) -> Vec<ColdRead> {
        self.lock().cold_reads.clone()
    }

    /// The visible bytes of a file.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        Ok(self.lock().inode(path)?.current.clone())
    }

    /// The names of all files.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// A disk of its own with the same content, pending writes included; no plans.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let state = self.lock();
        let mut copy = State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending_names: state.pending_names.clone(),
            directories: state.directories.clone(),
            capacity: state.capacity,
            ..State::default()
        };
        copy.close_all();
        Self {
            state: Arc::new(Mutex::new(copy)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn file(&self, state: &mut State, inode: usize) -> io::Result<Arc<dyn File>> {
        if state.inodes[inode].maps > 0 {
            return Err(io::ErrorKind::ExecutableFileBusy.into());
        }
        state.inodes[inode].writers += 1;
        Ok(Arc::new(SimulatedFile {
            state: Arc::clone(&self.state),
            inode,
            life: state.life,
        }))
    }

    fn view(&self, path: &str, is_map: bool) -> io::Result<Arc<dyn Map>> {
        let mut state = self.lock();
        state.powered()?;
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let found = &mut state.inodes[inode];
        if is_map && found.writers > 0 {
            return Err(io::ErrorKind::ExecutableFileBusy.into());
        }
        found.maps += usize::from(is_map);
        let len = found.current.len() as u64;
        Ok(Arc::new(SimulatedMap {
            state: Arc::clone(&self.state),
            inode,
            len,
            life: state.life,
            is_map,
        }))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state
        .lock()
        .expect("no call panics while it holds the disk")
}

impl State {
    fn used(&self) -> u64 {
        let live: BTreeSet<usize> = self.names.values().copied().collect();
        live.iter()
            .map(|inode| self.inodes[*inode].current.len() as u64)
            .sum()
    }

    fn inode(&mut self, path: &str) -> io::Result<&mut Inode> {
        let inode = *self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.inodes[inode])
    }

    fn restart(&mut self) {
        self.off = false;
        self.life += 1;
        self.faults.clear();
        self.close_all();
    }

    /// No handle of an earlier life counts.
    fn close_all(&mut self) {
        for inode in &mut self.inodes {
            (inode.writers, inode.maps) = (0, 0);
        }
    }

    fn powered(&self) -> io::Result<()> {
        if self.off {
            Err(io::Error::other("the power is off"))
        } else {
            Ok(())
        }
    }

    /// Counts an effect; says what is planned for it.
    fn effect(&mut self, what: impl FnOnce() -> String) -> io::Result<Option<Fault>> {
        self.powered()?;
        self.effects += 1;
        self.trace.push(what());
        match self.faults.remove(&self.effects) {
            Some(Fault::PowerOff) => {
                self.off = true;
                self.powered()?;
                Ok(None)
            }
            Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            other => Ok(other),
        }
    }

    /// An effect that either happens or fails as a whole.
    fn name_effect(&mut self, what: impl FnOnce() -> String) -> io::Result<()> {
        match self.effect(what)? {
            Some(Fault::Io) => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }
}

impl Inode {
    fn crash(&mut self, random: &mut Random) {
        let mut pieces = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            let Change { offset, bytes } = change;
            let mut at = 0;
            while at < bytes.len() {
                let upto = (SECTOR - (offset + at) % SECTOR).min(bytes.len() - at);
                let piece = bytes[at..at + upto].to_vec();
                pieces.push(Change {
                    offset: offset + at,
                    bytes: piece,
                });
                at += upto;
            }
        }
        // A shuffled order is any order; a coin for each piece is any subset. At the
        // extremes all or nothing survives, which a coin alone would hardly ever do.
        let keep = random.below(4);
        for index in (1..pieces.len()).rev() {
            pieces.swap(index, random.below(index + 1));
        }
        for piece in pieces {
            if keep == 0 || (keep != 1 && random.chance()) {
                piece.apply(&mut self.durable);
            }
        }
        self.current.clone_from(&self.durable);
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        let Self { offset, bytes } = self;
        if to.len() < offset + bytes.len() {
            to.resize(offset + bytes.len(), 0);
        }
        to[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename { from, to } => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove { path } => {
                names.remove(path);
            }
        }
    }

    fn directory(&self) -> &str {
        match self {
            Self::Create { path, .. } | Self::Remove { path } => parent(path),
            Self::Rename { to, .. } => parent(to),
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Storage for SimulatedDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.lock();
        state.powered()?;
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        self.file(&mut state, inode)
    }

    fn map(&self, path: &str) -> io::Result<Arc<dyn Map>> {
        self.view(path, true)
    }

    fn read(&self, path: &str) -> io::Result<Arc<dyn Map>> {
        self.view(path, false)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.lock();
        state.name_effect(|| format!("create {path}"))?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !state.directories.contains(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(path.to_owned(), inode);
        state.pending_names.push(NameChange::Create {
            path: path.to_owned(),
            inode,
        });
        self.file(&mut state, inode)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.name_effect(|| format!("rename {from} {to}"))?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state.pending_names.push(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.name_effect(|| format!("remove {path}"))?;
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.pending_names.push(NameChange::Remove {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.lock();
        state.powered()?;
        if !state.directories.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut names: BTreeSet<String> = BTreeSet::new();
        for path in state.names.keys().chain(&state.directories) {
            if !path.is_empty() && parent(path) == dir {
                names.insert(path.rsplit('/').next().unwrap_or(path).to_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.powered()?;
        let mut path = String::new();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
            state.directories.insert(path.clone());
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.name_effect(|| format!("sync_dir {dir}"))?;
        let pending = std::mem::take(&mut state.pending_names);
        for change in pending {
            if change.directory() == dir {
                change.apply(&mut state.durable_names);
            } else {
                state.pending_names.push(change);
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.lock();
        state.powered()?;
        Ok(state
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }
}

struct SimulatedFile {
    state: Arc<Mutex<State>>,
    inode: usize,
    life: u64,
}

impl SimulatedFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self
            .state
            .lock()
            .expect("no call panics while it holds the disk");
        state.powered()?;
        if state.life != self.life {
            return Err(io::Error::other("a handle from before the restart"));
        }
        Ok(state)
    }
}

impl File for SimulatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.lock()?;
        let mut offset = usize::try_from(offset).map_err(io::Error::other)?;
        let inode = self.inode;
        let fault =
            state.effect(|| format!("write inode {inode} at {offset} of {} bytes", bytes.len()))?;
        let mut bytes = bytes.to_vec();
        let mut result = Ok(());
        match fault {
            Some(Fault::Io) => {
                bytes.truncate(bytes.len() / 2);
                result = Err(io::Error::from_raw_os_error(5));
            }
            Some(Fault::Short) => {
                bytes.truncate(bytes.len() / 2);
                result = Err(io::ErrorKind::WriteZero.into());
            }
            Some(Fault::Misdirected(by)) => {
                offset += usize::try_from(by).map_err(io::Error::other)?;
            }
            Some(Fault::Flip(bit)) if !bytes.is_empty() => {
                let bit = usize::try_from(bit).map_err(io::Error::other)? % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            _ => {}
        }
        let grown = (offset + bytes.len()).saturating_sub(state.inodes[inode].current.len());
        if state
            .capacity
            .is_some_and(|capacity| state.used() + grown as u64 > capacity)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let change = Change { offset, bytes };
        change.apply(&mut state.inodes[inode].current);
        state.inodes[inode].pending.push(change);
        result
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.lock()?;
        let current = &state.inodes[self.inode].current;
        let offset = usize::try_from(offset)
            .map_err(io::Error::other)?
            .min(current.len());
        let read = buffer.len().min(current.len() - offset);
        buffer[..read].copy_from_slice(&current[offset..offset + read]);
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock()?;
        let inode = self.inode;
        let fault = state.effect(|| format!("sync inode {inode}"))?;
        let inode = &mut state.inodes[inode];
        let pending = std::mem::take(&mut inode.pending);
        if fault == Some(Fault::Io) {
            // Linux marks the pages clean: they stay visible and are never written.
            return Err(io::Error::from_raw_os_error(5));
        }
        for change in pending {
            change.apply(&mut inode.durable);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock()?.inodes[self.inode].current.len() as u64)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.life == self.life {
            state.inodes[self.inode].writers -= 1;
        }
    }
}

/// Reads the file as it is now: a bit that flips under a map is seen.
struct SimulatedMap {
    state: Arc<Mutex<State>>,
    inode: usize,
    len: u64,
    life: u64,
    is_map: bool,
}

impl SimulatedMap {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for SimulatedMap {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if self.is_map && state.life == self.life {
            state.inodes[self.inode].maps -= 1;
        }
    }
}

/// A page of a map.
const PAGE: usize = 4096;

impl Map for SimulatedMap {
    fn is_resident(&self, offset: u64, len: u64) -> bool {
        let state = self.lock();
        let bytes = &state.inodes[self.inode];
        let bound = |at: u64| {
            usize::try_from(at)
                .unwrap_or(usize::MAX)
                .min(bytes.current.len())
        };
        let (at, end) = (bound(offset), bound(offset.saturating_add(len)));
        let pages = at / PAGE..end.div_ceil(PAGE);
        let warm = bytes.warm.as_ref();
        warm.is_none_or(|warm| at == end || pages.into_iter().all(|page| warm.contains(&page)))
    }

    fn copy(&self, buffer: &mut [u8], offset: u64) -> bool {
        let mut state = self.lock();
        let Ok(offset) = usize::try_from(offset) else {
            return false;
        };
        if let Some(warm) = &mut state.inodes[self.inode].warm {
            let before = warm.len();
            warm.extend(offset / PAGE..offset.saturating_add(buffer.len()).div_ceil(PAGE));
            if warm.len() > before {
                let thread = std::thread::current().name().unwrap_or_default().to_owned();
                let file = self.inode;
                state.cold_reads.push(ColdRead { thread, file });
            }
        }
        let current = &state.inodes[self.inode].current;
        let Some(end) = offset.checked_add(buffer.len()) else {
            return false;
        };
        match current.get(offset..end) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    fn chance(&mut self) -> bool {
        self.next() & 1 == 0
    }
}

#[cfg(test)]
mod tests;
