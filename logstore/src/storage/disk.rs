//! The real disk: [`Storage`] over a directory of a file system.
//!
//! Nothing is buffered and nothing is retried here: a short write or a failed
//! sync is reported as it is, for the engine to stop on. Known limit: what
//! `fdatasync` promises is what the device promises; a disk that lies about its
//! cache is not noticed before its frames fail their checks.

use crate::{
    mmap,
    storage::{File, Map, Storage},
};
use rustix::fs::statvfs;
use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// A data directory on a file system.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// Where faults of maps are noted; opened with the first map.
    faults: Arc<OnceLock<Arc<fs::File>>>,
}

impl Disk {
    /// Takes a directory as the data directory, and creates it if need be.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        if !root.is_dir() {
            fs::create_dir_all(&root)?;
            if let Some(parent) = root
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                sync_directory(parent)?;
            }
        }
        Ok(Self {
            root,
            faults: Arc::default(),
        })
    }

    fn file(&self, file: fs::File, path: &str) -> Arc<dyn File> {
        Arc::new(DiskFile {
            file,
            path: path.to_owned(),
            root: self.root.clone(),
            faults: Arc::clone(&self.faults),
        })
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

impl Storage for Disk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(self.at(path))?;
        Ok(self.file(file, path))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.at(path))?;
        Ok(self.file(file, path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(dir))? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut made = self.root.clone();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            let parent = made.clone();
            made.push(part);
            match fs::create_dir(&made) {
                Ok(()) => sync_directory(&parent)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sync_directory(&self.at(dir))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct DiskFile {
    file: fs::File,
    path: String,
    root: PathBuf,
    faults: Arc<OnceLock<Arc<fs::File>>>,
}

impl DiskFile {
    fn faults(&self) -> io::Result<&Arc<fs::File>> {
        if let Some(faults) = self.faults.get() {
            return Ok(faults);
        }
        let path = self.root.join(mmap::FAULTS);
        let faults = fs::File::options().create(true).append(true).open(path)?;
        Ok(self.faults.get_or_init(|| Arc::new(faults)))
    }
}

impl File for DiskFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let written = self.file.write_at(bytes, offset)?;
        let rest = &bytes[written..];
        if rest.is_empty() {
            return Ok(());
        }
        // A disk that fills in the middle of a write says so only to who asks for the rest.
        self.file.write_at(rest, offset + written as u64)?;
        Err(io::ErrorKind::WriteZero.into())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        // On a full disk there may be no room for the note; reads go on without.
        mmap::map(&self.file, &self.path, self.faults().ok())
    }
}
