//! The real disk: [`Storage`] over a directory of a file system.
//!
//! Nothing is buffered and no write or sync is tried again here: a short write or a failed
//! sync is reported as it is, for the engine to stop on. Only opening is, when the process
//! has no descriptor left ([`Descriptors`]).
//!
//! The directory belongs to one user: it is readable by nobody else, neither are its files,
//! and modes that are wider are set back when they are opened. What another user owns is
//! not used, and no symbolic link below the directory is followed; the directory itself may
//! be one. Known limit: what `fdatasync` promises is what the device promises; a disk that
//! lies about its cache is not noticed before its frames fail their checks.

use crate::{
    mmap,
    storage::{
        File, Map, Storage,
        descriptors::Descriptors,
        seal::{Sealed, Written},
    },
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fstatvfs},
    io::Errno,
};
use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Of the directory and its folders.
const FOLDER_MODE: u32 = 0o700;
/// Of its files.
const FILE_MODE: u32 = 0o600;

/// A data directory on a file system.
#[derive(Debug)]
pub struct Disk {
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    folder: fs::File,
    path: PathBuf,
    descriptors: Arc<Descriptors>,
    /// Where faults of maps are noted; opened with the first map.
    faults: OnceLock<Arc<fs::File>>,
}

impl Disk {
    /// Takes a directory as the data directory, and creates it if need be.
    ///
    /// # Errors
    /// What the file system says; and if it belongs to another user.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let path = root.into();
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            if let Some(parent) = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        let folder = fs::File::open(&path)?;
        make_own(&folder, &path, FOLDER_MODE)?;
        let descriptors = Arc::new(Descriptors::default());
        descriptors.fill(&folder);
        let faults = OnceLock::new();
        Ok(Self {
            root: Arc::new(Root {
                folder,
                path,
                descriptors,
                faults,
            }),
        })
    }

    /// The descriptors that are kept back for it.
    #[must_use]
    pub fn descriptors(&self) -> Arc<Descriptors> {
        Arc::clone(&self.root.descriptors)
    }
}

/// Refuses what another user owns, and takes from everybody else what it is too open for.
fn make_own(file: &fs::File, path: &Path, mode: u32) -> io::Result<()> {
    let metadata = file.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} belongs to user {}, and this process runs as user {own}: name a folder \
                 inside it that is this user's own, or run as its owner",
                path.display(),
                metadata.uid()
            ),
        ));
    }
    if metadata.mode() & 0o777 & !mode != 0 {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

impl Root {
    /// The folder of a path below the directory, and the name in it.
    fn place<'a>(&self, path: &'a str) -> io::Result<(Option<OwnedFd>, &'a str)> {
        let mut folder = None;
        let mut name = path;
        while let Some((first, rest)) = name.split_once('/') {
            let opened = {
                let within = folder.as_ref().map_or(self.folder.as_fd(), AsFd::as_fd);
                self.open_at(within, first, OFlags::RDONLY | OFlags::DIRECTORY)?
            };
            folder = Some(opened);
            name = rest;
        }
        Ok((folder, name))
    }

    /// Opens a name in a folder, not what it links to.
    fn open_at(&self, folder: BorrowedFd<'_>, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(FILE_MODE);
        let opened = rustix::fs::openat(folder, name, flags, mode);
        opened.map_err(|errno| self.explain(folder, name, errno))
    }

    /// Links are told from what else goes wrong.
    fn explain(&self, folder: BorrowedFd<'_>, name: &str, errno: Errno) -> io::Error {
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let link =
            found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink);
        if link && matches!(errno, Errno::LOOP | Errno::NOTDIR) {
            return io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{name} in the data directory {} is a symbolic link, and none is followed \
                     there: put what it links to in its place",
                    self.path.display()
                ),
            );
        }
        errno.into()
    }

    /// Opens a file, out of the reserve of descriptors if need be.
    fn open(&self, path: &str, flags: OFlags) -> io::Result<fs::File> {
        let file = self.descriptors.open(&self.folder, || {
            let (folder, name) = self.place(path)?;
            let within = folder.as_ref().map_or(self.folder.as_fd(), AsFd::as_fd);
            Ok(fs::File::from(self.open_at(within, name, flags)?))
        })?;
        make_own(&file, &self.path.join(path), FILE_MODE)?;
        Ok(file)
    }

    /// Opens a folder; `""` is the directory itself.
    fn open_folder(&self, path: &str) -> io::Result<fs::File> {
        let path = if path.is_empty() { "." } else { path };
        self.descriptors.open(&self.folder, || {
            let (folder, name) = self.place(path)?;
            let within = folder.as_ref().map_or(self.folder.as_fd(), AsFd::as_fd);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            Ok(fs::File::from(self.open_at(within, name, flags)?))
        })
    }

    /// Does something with a name in its folder.
    fn at<T>(
        &self,
        path: &str,
        act: impl Fn(BorrowedFd<'_>, &str) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        self.descriptors.open(&self.folder, || {
            let (folder, name) = self.place(path)?;
            let within = folder.as_ref().map_or(self.folder.as_fd(), AsFd::as_fd);
            Ok(act(within, name)?)
        })
    }

    fn faults(&self) -> io::Result<&Arc<fs::File>> {
        if let Some(faults) = self.faults.get() {
            return Ok(faults);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
        let faults = self.open(mmap::FAULTS, flags)?;
        Ok(self.faults.get_or_init(|| Arc::new(faults)))
    }
}

impl Storage for Disk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = Written::new(self.root.open(path, OFlags::RDWR)?)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = Written::new(self.root.open(path, flags)?)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn map(&self, path: &str) -> io::Result<Arc<dyn Map>> {
        let file = Sealed::new(self.root.open(path, OFlags::RDONLY)?)?;
        // On a full disk there may be no room for the note; reads go on without.
        mmap::map(file, path, self.root.faults().ok())
    }

    fn read(&self, path: &str) -> io::Result<Arc<dyn Map>> {
        let file = self.root.open(path, OFlags::RDONLY)?;
        let len = file.metadata()?.len();
        Ok(Arc::new(Calls { file, len }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.root.at(from, |from_folder, from_name| {
            let (folder, name) = self.root.place(to).map_err(|error| {
                Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
            })?;
            let within = folder.as_ref();
            let within = within.map_or(self.root.folder.as_fd(), AsFd::as_fd);
            rustix::fs::renameat(from_folder, from_name, within, name)
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.root.at(path, |folder, name| {
            rustix::fs::unlinkat(folder, name, AtFlags::empty())
        })
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let folder = self.root.open_folder(dir)?;
        let mut names = Vec::new();
        for entry in Dir::new(OwnedFd::from(folder))? {
            // A name that is not UTF-8 is none of ours.
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut made = String::new();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            let parent = made.clone();
            if !made.is_empty() {
                made.push('/');
            }
            made.push_str(part);
            let mode = Mode::from_raw_mode(FOLDER_MODE);
            match self.root.at(&made, |folder, name| {
                rustix::fs::mkdirat(folder, name, mode)
            }) {
                Ok(()) => self.root.open_folder(&parent)?.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            let folder = self.root.open_folder(&made)?;
            make_own(&folder, &self.root.path.join(&made), FOLDER_MODE)?;
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.root.open_folder(dir)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = fstatvfs(&self.root.folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Reads as far as the file goes.
fn read_at(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

struct DiskFile {
    file: Written,
}

impl File for DiskFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let file = self.file.file();
        let written = file.write_at(bytes, offset)?;
        let rest = &bytes[written..];
        if rest.is_empty() {
            return Ok(());
        }
        // A disk that fills in the middle of a write says so only to who asks for the rest.
        file.write_at(rest, offset + written as u64)?;
        Err(io::ErrorKind::WriteZero.into())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(self.file.file(), buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.file().sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.file().metadata()?.len())
    }
}

/// A file that is read by calls, where a map would do.
struct Calls {
    file: fs::File,
    len: u64,
}

impl Map for Calls {
    fn copy(&self, buffer: &mut [u8], offset: u64) -> bool {
        read_at(&self.file, buffer, offset).is_ok_and(|read| read == buffer.len())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

#[cfg(test)]
mod tests;
