//! The data directory as a whole: that it is ours alone, that it can be written, and
//! who this node is.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
};

use chat_wire::ids::NodeId;

use super::last_words;
use crate::folder::{Folder, FolderError};

/// Held by the process that uses the directory, with its number in it.
const LOCK: &str = "LOCK";
/// The node's number, in hexadecimal.
const NODE: &str = "NODE";
/// Longest content of that file that is looked at.
const NODE_BYTES: u64 = 1_024;
/// What only this node knows, 32 bytes, readable by its owner.
const SECRET: &str = "SECRET";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another process has it.
    #[error(
        "the data directory {path} is in use by another process{}: stop it, or choose another \
         directory with --data", holder.as_ref().map_or_else(String::new, |pid| format!(" ({pid})"))
    )]
    InUse {
        /// Which.
        path: String,
        /// The number of that process.
        holder: Option<String>,
    },
    /// It cannot be written.
    #[error(
        "the data directory {path} cannot be written: {error}; check its owner and how it is \
         mounted, or choose another with --data"
    )]
    NotWritable {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It, or a file in it, is not ours alone.
    #[error("the data directory cannot be used: {0}")]
    NotOurs(FolderError),
    /// There is no room for the few files that a node needs besides its log.
    #[error(
        "the disk of the data directory {path} is full: free space, or choose another with --data"
    )]
    DiskFull {
        /// Which.
        path: String,
    },
    /// The node's number cannot be read.
    #[error(
        "{path} does not hold a node's number: restore it from a copy, or remove it to let the node draw a new one"
    )]
    Identity {
        /// Which file.
        path: String,
    },
}

impl DataError {
    fn write(path: &Path, error: io::Error) -> Self {
        let path = path.display().to_string();
        match error.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull { path },
            _ => Self::NotWritable { path, error },
        }
    }

    fn of(path: &Path, error: FolderError) -> Self {
        match error {
            FolderError::Io { error, .. } => Self::write(path, error),
            other => Self::NotOurs(other),
        }
    }
}

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct Data {
    folder: Folder,
    _lock: File,
    /// This node.
    pub node: NodeId,
}

impl Data {
    /// Makes the directory if it is missing, takes it, and learns who this node is,
    /// which `draw` decides at the first start.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn open(path: &Path, draw: impl FnOnce() -> u64) -> Result<Self, DataError> {
        let failed = |error| DataError::write(path, error);
        let folder = Folder::open(path).map_err(|error| DataError::of(path, error))?;
        let opened = folder.open_or_create(LOCK);
        let mut lock = opened.map_err(|error| DataError::of(path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = lock.take(64).read_to_string(&mut holder);
                return Err(DataError::InUse {
                    path: path.display().to_string(),
                    holder: read.ok().map(|_| format!("process {}", holder.trim())),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Only for people who wonder who it is: a full disk has no room for it, and a node
        // that serves reads does not need it.
        let noted = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        match noted {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            noted => noted.map_err(failed)?,
        }
        let node = identity(&folder, draw)?;
        Ok(Self {
            folder,
            _lock: lock,
            node,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The directory, for other files of the daemon.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The note of the last panic, for reading and writing.
    ///
    /// # Errors
    /// [`FolderError`]: a full disk has no room for a new file.
    pub fn note(&self) -> Result<File, FolderError> {
        self.folder.open_or_create(last_words::FILE)
    }

    /// 32 random bytes that are the same at every start. If they are lost or damaged new
    /// ones are drawn: all that hangs on them is that clients notice a restart at once.
    ///
    /// # Errors
    /// [`DataError::NotWritable`] or [`DataError::DiskFull`].
    pub fn secret(&self) -> Result<[u8; 32], DataError> {
        let failed = |error| DataError::of(self.path(), error);
        // A longer one is damaged, too.
        let found = match self.folder.read(SECRET, 32) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => None,
            found => found.map_err(failed)?,
        };
        if let Some(secret) = found.and_then(|bytes| bytes.try_into().ok()) {
            return Ok(secret);
        }
        let secret: [u8; 32] = rand::random();
        self.folder.replace(SECRET, &secret).map_err(failed)?;
        Ok(secret)
    }
}

fn identity(folder: &Folder, draw: impl FnOnce() -> u64) -> Result<NodeId, DataError> {
    let failed = |error| DataError::of(folder.path(), error);
    let Some(bytes) = folder.read(NODE, NODE_BYTES).map_err(failed)? else {
        let number = draw().max(1);
        let text = format!("{number:016x}\n");
        folder.replace(NODE, text.as_bytes()).map_err(failed)?;
        return Ok(NodeId(number));
    };
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .filter(|number| *number != 0)
        .map(NodeId)
        .ok_or_else(|| DataError::Identity {
            path: folder.path().join(NODE).display().to_string(),
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_node_keeps_its_number_and_another_directory_has_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/data");
        assert_eq!(Data::open(&path, || 7).unwrap().node, NodeId(7));
        assert_eq!(Data::open(&path, || 8).unwrap().node, NodeId(7));
    }

    #[test]
    fn a_node_keeps_its_secret_and_draws_another_for_a_damaged_one() {
        let folder = tempfile::tempdir().unwrap();
        let data = Data::open(folder.path(), || 7).unwrap();
        let secret = data.secret().unwrap();
        assert_eq!(data.secret().unwrap(), secret);
        fs::write(folder.path().join(SECRET), "short").unwrap();
        let other = data.secret().unwrap();
        assert_ne!(other, secret);
        assert_eq!(data.secret().unwrap(), other);
    }

    #[test]
    fn a_directory_in_use_is_refused_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let held = Data::open(folder.path(), || 7).unwrap();
        let error = Data::open(folder.path(), || 7).unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        assert!(Data::open(folder.path(), || 7).is_ok());
    }

    #[test]
    fn what_is_no_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "x").unwrap();
        let error = Data::open(&path, || 7).unwrap_err().to_string();
        assert!(
            error.contains("cannot be written") && error.contains("file"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_number_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NODE), "not hexadecimal").unwrap();
        assert!(matches!(
            Data::open(folder.path(), || 7),
            Err(DataError::Identity { .. })
        ));
    }
}
