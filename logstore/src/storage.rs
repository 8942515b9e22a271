//! The seam to the operating system: everything the engine reads or writes goes
//! through [`Storage`] and [`File`], so that a test can hand it a disk that fails.
//!
//! Paths are relative to the data directory, with `/` between parts. What a
//! completed call promises is what POSIX promises and no more: bytes are durable
//! after [`File::sync`], names after [`Storage::sync_dir`] of their directory.

use std::{io, sync::Arc};

pub mod descriptors;
pub mod disk;
pub mod observed;
mod seal;
pub mod simulated;

pub(crate) use seal::Sealed;

/// A directory tree on some disk.
pub trait Storage: Send + Sync {
    /// Opens an existing file for reading and writing; `NotFound` if there is none, and
    /// `ExecutableFileBusy` while it is mapped.
    ///
    /// # Errors
    /// What the disk says.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Creates a file that does not exist yet; `AlreadyExists` if it does.
    ///
    /// # Errors
    /// What the disk says.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Maps a file that will never be written, cut or recycled again. While it is open for
    /// writing that is refused as `ExecutableFileBusy`, and the other way round: nothing
    /// can be written beside a map.
    ///
    /// # Errors
    /// What the disk says.
    fn map(&self, path: &str) -> io::Result<Arc<dyn Map>>;

    /// The same by calls: a sector that cannot be read is an error there and not the end
    /// of the process.
    ///
    /// # Errors
    /// What the disk says.
    fn read(&self, path: &str) -> io::Result<Arc<dyn Map>>;

    /// Renames a file, replacing one of that name.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file's name.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, sorted; `""` is the data directory itself.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Creates a directory with its parents; no error if it exists.
    ///
    /// # Errors
    /// What the disk says.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Makes creations, renames and removals in `dir` durable.
    ///
    /// # Errors
    /// What the disk says; the engine stops then.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Bytes that can still be allocated.
    ///
    /// # Errors
    /// What the disk says.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. Calls may come from several threads.
pub trait File: Send + Sync {
    /// Writes all of `bytes` at `offset`, extending the file if need be.
    ///
    /// # Errors
    /// A short write is `WriteZero`; nothing is known then of what was written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Reads at most `buffer.len()` bytes at `offset`; fewer only at the end.
    ///
    /// # Errors
    /// What the disk says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// `fdatasync`: what was written before is durable when this returns `Ok`.
    /// After an error nothing is known of any write since the last success: it
    /// must never be called again in the hope of a better answer.
    ///
    /// # Errors
    /// What the disk says.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the disk says.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are no bytes.
    ///
    /// # Errors
    /// What the disk says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A read-only view of a sealed file. Reads copy: no reference into the map
/// leaves a call.
pub trait Map: Send + Sync {
    /// Copies `buffer.len()` bytes from `offset`; false if they are not all there.
    fn copy(&self, buffer: &mut [u8], offset: u64) -> bool;

    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether these bytes are in memory, so that a copy of them does not wait for the
    /// disk. A hint: a page may leave at any moment. Whoever cannot tell says yes.
    fn is_resident(&self, _offset: u64, _len: u64) -> bool {
        true
    }

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
