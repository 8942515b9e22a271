//! What opening a data directory takes, and why it may fail: shared by the scan that
//! finds out ([`crate::recovery`]) and the engine that then writes.

use crate::{
    plant::Planted,
    storage::Storage,
    wal::{self, scan::ScanError},
};
use std::io;

/// How a data directory is used. Plain data; [`open`](crate::engine::open) checks the bounds.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a log file: a multiple of 4,096, at least 32 KiB, at most 4 GiB.
    pub file_bytes: u64,
    /// Empty log files to keep ready besides the two in reserve.
    pub pool_files: usize,
    /// Bound of the log, empty files included; at least six files. At the bound
    /// entries are refused with [`LogError::Full`](crate::engine::LogError::Full) until files can be reused.
    /// A start prepares a file to write and the reserve also beyond it, three files at
    /// most: whatever stopped the log, it gets out again.
    pub budget_bytes: u64,
    /// Below this many free bytes on the disk entries are refused.
    pub stop_free_bytes: u64,
    /// From this many free bytes on they are taken again.
    pub resume_free_bytes: u64,
    /// Files that are allocated to be given up on a full disk, for compaction.
    pub ballast_files: u32,
    /// Bytes of each of them.
    pub ballast_bytes: u64,
    /// Whether segments are compressed.
    pub compression: bool,
    /// Threads that scan log files at a start; 1 scans on the caller's.
    pub scan_threads: usize,
    /// A random number, used when the directory is created: frames carry it, so that
    /// nothing from elsewhere is taken for one.
    pub log_id: u64,
    /// A bug for the tests to find.
    #[doc(hidden)]
    pub plant: Planted,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            pool_files: 2,
            budget_bytes: 1 << 30,
            stop_free_bytes: 256 << 20,
            resume_free_bytes: 512 << 20,
            ballast_files: 0,
            ballast_bytes: 64 << 20,
            compression: true,
            scan_threads: 2,
            log_id: 0,
            plant: Planted::default(),
        }
    }
}

impl Options {
    /// Those with which a directory can be opened by whoever was not told with which it
    /// is used: files as large as the ones that are there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn of_directory(storage: &dyn Storage) -> io::Result<Self> {
        let mut options = Self::default();
        let names = match storage.list(wal::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let numbers = names.iter().filter_map(|name| wal::file_number(name));
        if let Some(number) = numbers.max() {
            options.file_bytes = storage.open(&wal::file_path(number))?.len()?;
        }
        let least = options.file_bytes.saturating_mul(6);
        options.budget_bytes = options.budget_bytes.max(least);
        Ok(options)
    }
}

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was written by a newer version.
    #[error(
        "the data is of format {found} and this version reads up to {known}: \
         start the version that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The format found.
        found: u16,
        /// The newest this build reads.
        known: u16,
    },
    /// The log holds a record that this version does not know and may not skip.
    #[error(
        "the log holds a record of kind {kind}, which needs format {needs}; this version \
         knows formats up to {known}: start the version that wrote it, or a newer one"
    )]
    NewerKind {
        /// The kind.
        kind: u8,
        /// The format that brought it.
        needs: u16,
        /// The newest this build knows.
        known: u16,
    },
    /// The directory cannot be written.
    #[error("the data directory cannot be written: {0}; check its owner and how it is mounted")]
    NotWritable(io::Error),
    /// There is no room even to create the directory's first files.
    #[error("the disk is full: a new data directory needs at least {needed} bytes")]
    DiskFull {
        /// Bytes that were wanted.
        needed: u64,
    },
    /// No slot of the manifest is sound.
    #[error(
        "the manifest cannot be read ({reason}), so where the log begins is not known: \
         restore the data directory, or replace the node"
    )]
    Manifest {
        /// What is wrong.
        reason: String,
    },
    /// An option is out of its bounds.
    #[error("{0}")]
    Options(&'static str),
    /// The disk failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn newer(found: u16) -> Self {
        Self::NewerFormat {
            found,
            known: wal::frame::FORMAT,
        }
    }

    pub(crate) fn io(doing: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable(source)
            }
            _ => Self::Io { doing, source },
        }
    }
}

impl From<ScanError> for OpenError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Newer { format, .. } => Self::newer(format),
            ScanError::Io { source, .. } => Self::io("reading a log file", source),
        }
    }
}
