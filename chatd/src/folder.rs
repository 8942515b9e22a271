//! A directory that is ours alone: nobody else may look into it, and nothing in it leads
//! out of it.
//!
//! The directory itself may be a symbolic link, as operators make them; below it no link
//! is followed, so that whoever could once write there cannot have us write elsewhere.
//! Modes that are too wide are set back when the owner is this process's user, which is
//! what volumes with a group (`fsGroup`) and older versions leave. What somebody else owns
//! is refused: a volume's root often is another's, and a folder inside it would be ours.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use crate::descriptors;

/// Of a directory.
const FOLDER_MODE: Mode = Mode::RWXU;
/// Of a file.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// What others may, and more.
const OTHERS: Mode = Mode::RWXG.union(Mode::RWXO);

/// Why a directory or a file in it is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It belongs to somebody else.
    #[error(
        "{path} belongs to user {owner}, and this process is user {user}: give it to that user, \
         or, if it is the root of a volume, name a folder inside it ({path}/chatd), which is \
         then made"
    )]
    Foreign {
        /// Which.
        path: String,
        /// Its owner.
        owner: u32,
        /// Us.
        user: u32,
    },
    /// It is a link, or no file.
    #[error(
        "{path} is a symbolic link or no plain file, and nothing but plain files is used in the \
         data directory: put what it leads to in its place"
    )]
    Link {
        /// Which.
        path: String,
    },
    /// The system says no.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl FolderError {
    /// What the system said, if it was the system.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { error, .. } => error.kind(),
            Self::Foreign { .. } | Self::Link { .. } => io::ErrorKind::PermissionDenied,
        }
    }
}

/// An opened directory.
#[derive(Debug)]
pub struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens it, and makes it if it is missing, with its parents.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |error| io_error(path, error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = descriptors::retry(|| Ok(fs::open(path, flags, Mode::empty())?));
        Self::own(opened.map_err(failed)?, path.into())
    }

    /// A directory in it, made if it is missing.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn folder(&self, name: &str) -> Result<Self, FolderError> {
        let path = self.path.join(name);
        match fs::mkdirat(&self.descriptor, name, FOLDER_MODE) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io_error(&path, error.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::own(self.open_at(name, flags)?, path)
    }

    fn own(descriptor: OwnedFd, path: PathBuf) -> Result<Self, FolderError> {
        take(&descriptor, FileType::Directory, FOLDER_MODE, &path)?;
        Ok(Self { descriptor, path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in it for reading and writing, and makes it if it is missing.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open_or_create(&self, name: &str) -> Result<File, FolderError> {
        self.file(name, OFlags::RDWR | OFlags::CREATE)
    }

    /// The bytes of a file in it, at most so many; `None` if there is no such file.
    ///
    /// # Errors
    /// [`FolderError`]; `FileTooLarge` for more bytes.
    pub fn read(&self, name: &str, at_most: u64) -> Result<Option<Vec<u8>>, FolderError> {
        let file = match self.file(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        let failed = |error| io_error(&self.path.join(name), error);
        file.take(at_most + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > at_most {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(bytes))
    }

    /// Writes a file in it: a crash leaves the old bytes or the new ones.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        let new = format!("{name}.new");
        // What a crash left, whatever it is; a link itself and not what it leads to.
        match fs::unlinkat(&self.descriptor, &*new, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(io_error(&self.path.join(new), error.into())),
        }
        let mut file = self.file(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written
            .and_then(|()| {
                fs::renameat(&self.descriptor, &*new, &self.descriptor, name)?;
                Ok(fs::fsync(&self.descriptor)?)
            })
            .map_err(|error| io_error(&self.path.join(name), error))
    }

    fn file(&self, name: &str, flags: OFlags) -> Result<File, FolderError> {
        // A pipe in the place of a file is not waited for.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let descriptor = self.open_at(name, flags)?;
        let path = self.path.join(name);
        take(&descriptor, FileType::RegularFile, FILE_MODE, &path)?;
        Ok(descriptor.into())
    }

    fn open_at(&self, name: &str, flags: OFlags) -> Result<OwnedFd, FolderError> {
        let opened =
            descriptors::retry(|| Ok(fs::openat(&self.descriptor, name, flags, FILE_MODE)?));
        opened.map_err(|error| {
            let path = self.path.join(name);
            match rustix::io::Errno::from_io_error(&error) {
                Some(rustix::io::Errno::LOOP) => FolderError::Link {
                    path: path.display().to_string(),
                },
                _ => io_error(&path, error),
            }
        })
    }
}

/// What was opened is what was wanted, ours, and nobody else's to read.
fn take(opened: &OwnedFd, kind: FileType, mode: Mode, path: &Path) -> Result<(), FolderError> {
    let failed = |error: rustix::io::Errno| io_error(path, error.into());
    let found = fs::fstat(opened.as_fd()).map_err(failed)?;
    if FileType::from_raw_mode(found.st_mode) != kind {
        return Err(FolderError::Link {
            path: path.display().to_string(),
        });
    }
    let user = rustix::process::geteuid().as_raw();
    if found.st_uid != user {
        return Err(FolderError::Foreign {
            path: path.display().to_string(),
            owner: found.st_uid,
            user,
        });
    }
    if Mode::from_raw_mode(found.st_mode).intersects(OTHERS) {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", found.st_mode & 0o7777),
            "others could look into what is this node's alone: its mode is set back");
        fs::fchmod(opened, mode).map_err(failed)?;
    }
    Ok(())
}

fn io_error(path: &Path, error: io::Error) -> FolderError {
    FolderError::Io {
        path: path.display().to_string(),
        error,
    }
}

#[cfg(test)]
mod tests;
