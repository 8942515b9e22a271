//! The write-ahead log: files of one size, zeroed once, filled with frames and
//! recycled. [`frame`] is the layout, `writer` puts frames down, [`scan`] finds
//! them again, `pool` keeps empty files ready.
//!
//! A commit in steady state overwrites zeroed, allocated blocks: it changes no
//! metadata of the file system, so a sync is one write to the device.

pub mod frame;
pub(crate) mod pool;
pub mod scan;
pub(crate) mod writer;

/// The directory of the log's files.
pub(crate) const DIRECTORY: &str = "wal";

/// The name of the file with a number.
pub(crate) fn file_path(number: u32) -> String {
    format!("{DIRECTORY}/{number:08}.wal")
}

/// The number of a name in the directory, if it is a log file's.
pub(crate) fn file_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".wal")?;
    if digits.len() != 8 {
        None
    } else {
        digits.parse().ok()
    }
}
