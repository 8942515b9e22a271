//! Who may write a file and who has mapped it: never both.
//!
//! A map is sound only while nobody changes the file, so a file that is mapped cannot be
//! opened for writing in this process, and one that is open for writing cannot be mapped:
//! the kernel does the same for programs that run (`ETXTBSY`). A map is made of a
//! [`Sealed`], and bytes are written through a [`Written`]; of one file there are only the
//! one or the other. Other processes are kept out by the lock file of the data directory.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A file, whatever it is called.
type Inode = (u64, u64);

/// Files in use, by this process: positive so many handles that may write, negative so
/// many maps. Bounded by the descriptors and maps there are.
static USES: Mutex<BTreeMap<Inode, i64>> = Mutex::new(BTreeMap::new());

fn uses() -> MutexGuard<'static, BTreeMap<Inode, i64>> {
    USES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One use of a file, until it is dropped.
#[derive(Debug)]
struct Use {
    inode: Inode,
    /// 1 or -1.
    step: i64,
}

impl Use {
    fn enter(file: &fs::File, step: i64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        let mut uses = uses();
        let count = uses.entry(inode).or_insert(0);
        if *count * step < 0 {
            return Err(io::Error::new(
                io::ErrorKind::ExecutableFileBusy,
                if step > 0 {
                    "the file is mapped, so it cannot be opened for writing"
                } else {
                    "the file is open for writing, so it cannot be mapped"
                },
            ));
        }
        *count += step;
        Ok(Self { inode, step })
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut uses = uses();
        if let Some(count) = uses.get_mut(&self.inode) {
            *count -= self.step;
            if *count == 0 {
                uses.remove(&self.inode);
            }
        }
    }
}

/// A file that may be written: there is no map of it.
#[derive(Debug)]
pub(crate) struct Written {
    file: fs::File,
    _use: Use,
}

impl Written {
    /// # Errors
    /// If there is a map of it.
    pub(crate) fn new(file: fs::File) -> io::Result<Self> {
        let entered = Use::enter(&file, 1)?;
        Ok(Self {
            file,
            _use: entered,
        })
    }

    pub(crate) fn file(&self) -> &fs::File {
        &self.file
    }
}

/// A file that nobody writes as long as this is there.
#[derive(Debug)]
pub(crate) struct Sealed {
    file: fs::File,
    _use: Use,
}

impl Sealed {
    /// # Errors
    /// If it is open for writing.
    pub(crate) fn new(file: fs::File) -> io::Result<Self> {
        let entered = Use::enter(&file, -1)?;
        Ok(Self {
            file,
            _use: entered,
        })
    }

    pub(crate) fn file(&self) -> &fs::File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_or_mapped_and_never_both() {
        let file = tempfile::tempfile().unwrap();
        let again = || file.try_clone().unwrap();
        let written = [(); 2].map(|()| Written::new(again()).unwrap());
        for writer in written {
            let busy = Sealed::new(again()).unwrap_err();
            assert_eq!(busy.kind(), io::ErrorKind::ExecutableFileBusy);
            drop(writer);
        }
        let sealed = [(); 2].map(|()| Sealed::new(again()).unwrap());
        for map in sealed {
            let busy = Written::new(again()).unwrap_err();
            assert_eq!(busy.kind(), io::ErrorKind::ExecutableFileBusy);
            drop(map);
        }
        drop(Written::new(again()).unwrap());
    }
}
