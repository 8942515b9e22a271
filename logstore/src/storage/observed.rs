//! A disk that says when a call to it begins and ends, so that whoever watches a thread
//! can tell one that waits for the disk from one that hangs.
//!
//! A copy out of a map counts as a call: it may wait for a page. Asking whether pages are
//! in memory does not.

use crate::storage::{File, Map, Storage};
use std::{io, sync::Arc};

/// Who is told, on the thread that calls.
pub trait Observer: Send + Sync {
    /// A call begins.
    fn begins(&self);

    /// It has ended, well or not.
    fn ends(&self);
}

/// Another storage, observed.
pub struct Observed {
    inner: Arc<dyn Storage>,
    observer: Arc<dyn Observer>,
}

impl Observed {
    /// Tells `observer` of every call to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, observer: Arc<dyn Observer>) -> Self {
        Self { inner, observer }
    }

    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(ObservedFile {
            inner: file,
            observer: Arc::clone(&self.observer),
        })
    }

    fn view(&self, map: Arc<dyn Map>) -> Arc<dyn Map> {
        Arc::new(ObservedMap {
            inner: map,
            observer: Arc::clone(&self.observer),
        })
    }
}

/// A call, until it is dropped.
struct Call<'a>(&'a dyn Observer);

impl<'a> Call<'a> {
    fn begin(observer: &'a Arc<dyn Observer>) -> Self {
        observer.begins();
        Self(&**observer)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.ends();
    }
}

impl Storage for Observed {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let _call = Call::begin(&self.observer);
        Ok(self.file(self.inner.open(path)?))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let _call = Call::begin(&self.observer);
        Ok(self.file(self.inner.create(path)?))
    }

    fn map(&self, path: &str) -> io::Result<Arc<dyn Map>> {
        let _call = Call::begin(&self.observer);
        Ok(self.view(self.inner.map(path)?))
    }

    fn read(&self, path: &str) -> io::Result<Arc<dyn Map>> {
        let _call = Call::begin(&self.observer);
        Ok(self.view(self.inner.read(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let _call = Call::begin(&self.observer);
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let _call = Call::begin(&self.observer);
        self.inner.remove(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let _call = Call::begin(&self.observer);
        self.inner.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let _call = Call::begin(&self.observer);
        self.inner.create_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let _call = Call::begin(&self.observer);
        self.inner.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let _call = Call::begin(&self.observer);
        self.inner.free_bytes()
    }
}

struct ObservedFile {
    inner: Arc<dyn File>,
    observer: Arc<dyn Observer>,
}

impl File for ObservedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let _call = Call::begin(&self.observer);
        self.inner.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let _call = Call::begin(&self.observer);
        self.inner.read_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let _call = Call::begin(&self.observer);
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        let _call = Call::begin(&self.observer);
        self.inner.len()
    }
}

struct ObservedMap {
    inner: Arc<dyn Map>,
    observer: Arc<dyn Observer>,
}

impl Map for ObservedMap {
    fn copy(&self, buffer: &mut [u8], offset: u64) -> bool {
        let _call = Call::begin(&self.observer);
        self.inner.copy(buffer, offset)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn is_resident(&self, offset: u64, len: u64) -> bool {
        self.inner.is_resident(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::simulated::SimulatedDisk;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counts {
        begun: AtomicUsize,
        ended: AtomicUsize,
    }

    impl Observer for Counts {
        fn begins(&self) {
            self.begun.fetch_add(1, Ordering::Relaxed);
        }

        fn ends(&self) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_call_is_told_from_its_beginning_to_its_end_also_a_failed_one() {
        let counts = Arc::new(Counts::default());
        let disk = Observed::new(
            Arc::new(SimulatedDisk::new()),
            Arc::<Counts>::clone(&counts),
        );
        let calls = || {
            let begun = counts.begun.load(Ordering::Relaxed);
            assert_eq!(begun, counts.ended.load(Ordering::Relaxed));
            begun
        };
        disk.create_dir("a").unwrap();
        let file = disk.create("a/b").unwrap();
        file.write_at(b"bytes", 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir("a").unwrap();
        assert_eq!(calls(), 5);
        assert_eq!(file.read_at(&mut [0; 5], 0).unwrap(), 5);
        assert_eq!(file.len().unwrap(), 5);
        assert_eq!(calls(), 7);
        assert!(disk.open("a/none").is_err());
        assert_eq!(calls(), 8);
        drop(file);
        let mut copied = [0; 5];
        for map in [disk.map("a/b").unwrap(), disk.read("a/b").unwrap()] {
            assert!(map.copy(&mut copied, 0) && copied == *b"bytes");
        }
        assert_eq!(calls(), 12);
    }
}
