//! Read-only maps of sealed files: the one place in the workspace with `unsafe`.
//!
//! A map saves a system call a read and lets the page cache be the cache. It is
//! safe to Rust only while nobody changes the file, so three rules hold: only
//! segments are mapped, and only under their final name, which they get after
//! they were written and synced; a segment is never written, cut or recycled
//! after that, only removed as a whole, which leaves its pages in place until the
//! last map is gone; and the data directory belongs to one process (its lock
//! file). Reads copy: no reference into a map leaves this file, so a page that
//! changed on a failing disk is caught by the checksum of the copy.
//!
//! Known limit: a page that the disk cannot give ends the process with SIGBUS.
//! That is a crash like any other: what was acknowledged is in the log.
#![expect(unsafe_code, reason = "a memory map has no safe interface")]

use crate::storage::Map;
use memmap2::Mmap;
use std::{fs, io, sync::Arc};

/// Maps a whole file. An empty file is an empty map.
pub(crate) fn map(file: &fs::File) -> io::Result<Arc<dyn Map>> {
    if file.metadata()?.len() == 0 {
        return Ok(Arc::new(Sealed(None)));
    }
    // SAFETY: `File::map` may be asked for sealed segments only. `flush::run` syncs
    // them and gives them their name before anyone can open them, nothing in this
    // crate opens a named segment for writing, and the lock file of the data
    // directory keeps other processes of ours out. So the bytes under the map do
    // not change and the file does not shrink while the map lives.
    let map = unsafe { Mmap::map(file)? };
    Ok(Arc::new(Sealed(Some(map))))
}

struct Sealed(Option<Mmap>);

impl Map for Sealed {
    fn copy(&self, buffer: &mut [u8], offset: u64) -> bool {
        let bytes = self.0.as_deref().unwrap_or_default();
        let Ok(start) = usize::try_from(offset) else {
            return false;
        };
        let Some(end) = start.checked_add(buffer.len()) else {
            return false;
        };
        let Some(source) = bytes.get(start..end) else {
            return false;
        };
        buffer.copy_from_slice(source);
        true
    }

    fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, |map| map.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_copy_is_whole_or_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let map = map(&file).unwrap();
        assert_eq!(map.len(), 10);
        let mut buffer = [0; 4];
        assert!(map.copy(&mut buffer, 6));
        assert_eq!(&buffer, b"6789");
        assert!(!map.copy(&mut buffer, 7));
        assert!(!map.copy(&mut buffer, u64::MAX));
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        let map = map(&tempfile::tempfile().unwrap()).unwrap();
        assert!(map.is_empty());
        assert!(!map.copy(&mut [0], 0));
        assert!(map.copy(&mut [], 0));
    }
}
