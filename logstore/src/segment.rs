//! Segments: what a flush writes, immutable, sorted by key, read through maps.
//!
//! | file | job |
//! | --- | --- |
//! | `builder` | sorted rows → a file |
//! | `reader`, `cursor` | a key, a range, an inbox ← a file |
//! | `files` | which files are open and mapped, within bounds |
//! | `footer` | header, footer, summary, and what the log keeps of a segment |
//! | `table` | sorted entries in blocks with an index: rows, postings, groups, inboxes |
//! | `postings`, `inbox`, `filter` | what stands in those |
//! | `block` | the envelope that proves a block |
//! | `repair` | ends that are damaged ← blocks that are not |
//!
//! `docs/format.md` has every byte. Known limit: there is no compaction yet, so an
//! old inbox is read from as many segments as hold it.

pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod cursor;
pub(crate) mod encoding;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod footer;
pub(crate) mod inbox;
pub(crate) mod postings;
pub(crate) mod reader;
pub(crate) mod repair;
pub(crate) mod table;

pub use block::{Compression, Kind};
pub use builder::SegmentOptions;
pub use files::{MapLimits, Part, ReadError, SegmentFiles};
pub use footer::{Name, SEGMENT_DIR, SegmentMeta};
pub use repair::Unrepairable;
