//! Read-only maps of sealed files: the one place in the workspace with `unsafe`.
//!
//! A map saves a system call a read and lets the page cache be the cache. It is
//! safe to Rust only while nobody changes the file. In this process nobody can: a map
//! is made of a [`Sealed`], and as long as there is one, nothing of the file is open for
//! writing (`storage/seal.rs`). Other processes are kept out by the lock file of the
//! data directory. A segment is only removed as a whole, which leaves its pages in place
//! until the last map is gone. Reads copy: no reference into a map leaves this file, so a page that
//! changed on a failing disk is caught by the checksum of the copy.
//!
//! A page that the disk cannot give ends the process with SIGBUS. Before it does, a
//! handler appends the path of the file to [`FAULTS`] in the data directory; the next
//! start fences that file, so a node dies once of a bad sector and not in a loop. Maps
//! are entered in a table of [`WATCHED`] places for that; beyond it a map is good but
//! its fault is not noted.
#![expect(
    unsafe_code,
    reason = "a memory map and a signal handler have no safe interface"
)]

use crate::storage::{Map, Sealed};
use memmap2::Mmap;
use rustix::param::page_size;
use std::{
    fs, io, mem,
    os::fd::AsRawFd,
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering},
    },
};

/// The file of the data directory that names segments under which the disk failed, a
/// path a line.
pub(crate) const FAULTS: &str = "faults";

/// Maps whose faults are noted.
const WATCHED: usize = 1024;

/// Words of a path that are noted: paths of segments have 48 bytes.
const PATH_WORDS: usize = 8;

/// Pages whose residence is asked for in one call: a block has five.
const PAGES_A_CALL: usize = 64;

/// Maps a whole file. An empty file is an empty map. A fault in it is noted in
/// `faults`, which is open for appending, as `path`; without it, it is not.
pub(crate) fn map(
    sealed: Sealed,
    path: &str,
    faults: Option<&Arc<fs::File>>,
) -> io::Result<Arc<dyn Map>> {
    let file = sealed.file();
    if file.metadata()?.len() == 0 {
        return Ok(Arc::new(View {
            map: None,
            _watched: None,
            _sealed: sealed,
        }));
    }
    // SAFETY: as long as `sealed` is there, which the view keeps until it is unmapped, no
    // handle of this process can write the file or cut it: `Written` is refused. The lock
    // file of the data directory keeps other processes of ours out. So the bytes under the
    // map do not change and the file does not shrink while the map lives.
    let map = unsafe { Mmap::map(file)? };
    let watched = faults.and_then(|faults| Watched::enter(&map, path, faults));
    Ok(Arc::new(View {
        _watched: watched,
        map: Some(map),
        _sealed: sealed,
    }))
}

struct View {
    // Dropped in this order: the table forgets the place before it is unmapped, and the
    // file may be written again after that.
    _watched: Option<Watched>,
    map: Option<Mmap>,
    _sealed: Sealed,
}

impl Map for View {
    fn copy(&self, buffer: &mut [u8], offset: u64) -> bool {
        let bytes = self.map.as_deref().unwrap_or_default();
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
        self.map.as_ref().map_or(0, |map| map.len() as u64)
    }

    fn is_resident(&self, offset: u64, len: u64) -> bool {
        let Some(map) = &self.map else {
            return true;
        };
        let bound = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(map.len());
        let page = page_size();
        let (mut at, end) = (
            bound(offset) / page * page,
            bound(offset.saturating_add(len)),
        );
        let mut pages = [0; PAGES_A_CALL];
        while at < end {
            let count = (end - at).div_ceil(page).min(PAGES_A_CALL);
            let start = map[at..].as_ptr().cast_mut().cast();
            // SAFETY: `start` is the beginning of a page of a map that lives through the
            // call (the kernel maps whole pages, also behind the last byte), and `pages`
            // has a byte for each page asked for. `mincore` reads no byte of the map.
            let told = unsafe { libc::mincore(start, count * page, pages.as_mut_ptr()) };
            // No answer is no reason to treat a read otherwise than before.
            if told != 0 {
                return true;
            }
            if pages[..count].iter().any(|state| state & 1 == 0) {
                return false;
            }
            at += count * page;
        }
        true
    }
}

/// A map's place in the table, until it is dropped.
struct Watched {
    place: &'static Place,
    /// Open as long as its number stands in the table.
    _faults: Arc<fs::File>,
}

/// What the signal handler may look at: atomics only, since it cannot wait.
struct Place {
    /// 0: free. 1: being filled. Else where the map begins.
    start: AtomicUsize,
    len: AtomicUsize,
    faults: AtomicI32,
    path: [AtomicU64; PATH_WORDS],
}

impl Place {
    const fn free() -> Self {
        Self {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            faults: AtomicI32::new(-1),
            path: [const { AtomicU64::new(0) }; PATH_WORDS],
        }
    }
}

static TABLE: [Place; WATCHED] = [const { Place::free() }; WATCHED];

/// What SIGBUS did before: the standard library's own handler, as a rule.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

impl Watched {
    /// `None`: the table is full, or the path is too long for it.
    fn enter(map: &Mmap, path: &str, faults: &Arc<fs::File>) -> Option<Self> {
        install();
        let free = |place: &&Place| {
            place
                .start
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        };
        if path.len() > PATH_WORDS * 8 {
            return None;
        }
        let place = TABLE.iter().find(free)?;
        let mut bytes = [0; PATH_WORDS * 8];
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        for (word, bytes) in place.path.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        place.faults.store(faults.as_raw_fd(), Ordering::Relaxed);
        place.len.store(map.len(), Ordering::Relaxed);
        place.start.store(map.as_ptr().addr(), Ordering::Release);
        Some(Self {
            place,
            _faults: faults.clone(),
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.place.start.store(0, Ordering::Release);
    }
}

/// Sets the handler, once in a process.
fn install() {
    BEFORE.get_or_init(|| {
        // SAFETY: both structures are plain data for which zeros are valid; they are
        // filled before use and live through the call. `on_fault` has the signature
        // that SA_SIGINFO asks for and does only what a handler may do.
        unsafe {
            let mut before: libc::sigaction = mem::zeroed();
            let mut action: libc::sigaction = mem::zeroed();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                on_fault;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before);
            before
        }
    });
}

/// Notes which file it was, and lets the signal do what it did before when the same
/// instruction runs into it again.
extern "C" fn on_fault(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid `siginfo_t` to a SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() }.addr();
    let inside = |place: &&Place| {
        let start = place.start.load(Ordering::Acquire);
        start > 1 && address >= start && address - start < place.len.load(Ordering::Relaxed)
    };
    if let Some(place) = TABLE.iter().find(inside) {
        let mut line = [0; PATH_WORDS * 8 + 1];
        for (index, word) in place.path.iter().enumerate() {
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            line[index * 8..index * 8 + 8].copy_from_slice(&bytes);
        }
        let len = line
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(PATH_WORDS * 8);
        line[len] = b'\n';
        let faults = place.faults.load(Ordering::Relaxed);
        // SAFETY: `write` and `fsync` may be called in a handler; `line` has `len + 1`
        // bytes, and the file is open as long as the map is, which is being read.
        unsafe {
            libc::write(faults, line.as_ptr().cast(), len + 1);
            libc::fsync(faults);
        }
    }
    // SAFETY: `sigaction` may be called in a handler. `BEFORE` was filled when this one
    // was set, or is being filled: then the default, which ends the process.
    unsafe {
        let default: libc::sigaction = mem::zeroed();
        let before = BEFORE.get().unwrap_or(&default);
        libc::sigaction(libc::SIGBUS, before, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, os::unix::process::ExitStatusExt as _, process::Command};

    fn mapped(file: &fs::File, faults: &fs::File) -> Arc<dyn Map> {
        {
            let faults = Arc::new(faults.try_clone().unwrap());
            let sealed = Sealed::new(file.try_clone().unwrap()).unwrap();
            map(sealed, "segments/a.seg", Some(&faults)).unwrap()
        }
    }

    #[test]
    fn a_copy_is_whole_or_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let map = mapped(&file, &file);
        assert_eq!(map.len(), 10);
        let mut buffer = [0; 4];
        assert!(map.copy(&mut buffer, 6));
        assert_eq!(&buffer, b"6789");
        assert!(!map.copy(&mut buffer, 7));
        assert!(!map.copy(&mut buffer, u64::MAX));
    }

    #[test]
    fn pages_that_left_memory_are_told_from_those_that_are_there() {
        const BYTES: usize = 1 << 20;
        // Not in the folder for temporary files: that may be memory, which never leaves.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; BYTES]).unwrap();
        file.sync_all().unwrap();
        let warm = mapped(&file, &file);
        let len = BYTES as u64;
        assert!(warm.is_resident(0, len) && warm.is_resident(5_000, 1));
        drop(warm);
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let map = mapped(&file, &file);
        assert!(!map.is_resident(0, 1) && !map.is_resident(len - 1, 1));
        let mut one = [0];
        assert!(map.copy(&mut one, len - 1) && one == [7]);
        assert!(map.is_resident(len - 1, 1));
        // Neither what is behind the end nor nothing at all waits for the disk.
        assert!(map.is_resident(len, 10) && map.is_resident(u64::MAX, 1));
        assert!(map.is_resident(0, 0));
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        let file = tempfile::tempfile().unwrap();
        let map = mapped(&file, &file);
        assert!(map.is_empty());
        assert!(!map.copy(&mut [0], 0));
        assert!(map.copy(&mut [], 0));
    }

    #[test]
    fn the_table_is_left_when_maps_are_dropped() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut buffer = [0; 10];
        for _ in 0..WATCHED * 2 {
            assert!(mapped(&file, &file).copy(&mut buffer, 0));
        }
        // And beyond its end maps are good all the same.
        let maps: Vec<_> = (0..WATCHED + 10).map(|_| mapped(&file, &file)).collect();
        assert!(maps.iter().all(|map| map.copy(&mut buffer, 0)));
    }

    /// Run by the test below in a process of its own, which it ends.
    #[test]
    #[ignore = "it ends its process with SIGBUS"]
    fn read_behind_the_end_of_a_file() {
        let directory = std::env::var_os("FAULT_DIRECTORY").unwrap();
        let directory = std::path::Path::new(&directory);
        let path = directory.join("a.seg");
        fs::write(&path, [7; 100_000]).unwrap();
        let faults = fs::File::create(directory.join(FAULTS)).unwrap();
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let map = mapped(&file, &faults);
        file.set_len(0).unwrap();
        map.copy(&mut [0; 1], 50_000);
    }

    #[test]
    fn a_page_that_the_disk_cannot_give_is_noted_and_ends_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let ended = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "mmap::tests::read_behind_the_end_of_a_file",
            ])
            .env("FAULT_DIRECTORY", directory.path())
            .output()
            .unwrap();
        assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{ended:?}");
        let noted = fs::read_to_string(directory.path().join(FAULTS)).unwrap();
        assert_eq!(noted, "segments/a.seg\n");
    }
}
