//! Bugs that tests plant on purpose, to see that the crash tests find them.
//!
//! A test that never failed proves little. Each of these is a mistake that some
//! store has made; `tests/planted.rs` shows that the suite catches every one. They
//! are chosen by [`Options::plant`](crate::engine::Options::plant), which is `None`
//! everywhere else.

/// A bug to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A new log file's name is not made durable.
    SkipDirSync,
    /// A commit returns before its sync.
    AckBeforeSync,
    /// The checksum of a frame does not cover lengths, counts and record headers.
    CrcWithoutLength,
    /// A failed sync is tried again, and the second answer is believed.
    RetrySync,
    /// The unproven tail is served after a start without being written again.
    NoTailCopy,
    /// A file is reused before the manifest says that it is not needed.
    RecycleBeforeManifest,
    /// Both generations of the manifest go into one slot.
    ManifestInOneSlot,
    /// Damage below a proven frame is cut away like a torn tail.
    CutProvenDamage,
    /// Bodies are believed without their checksum.
    BodyUnchecked,
    /// Copies take the place of their frame and not of their origin.
    MovedOutOfOrder,
    /// A probe passes over the segment whose newest id is as old as the one it looks for.
    DedupFilterOffByOneSegment,
    /// The names of new segments are not made durable before the log names them.
    SkipSegmentDirSync,
    /// New segments get their name before their bytes are durable.
    SkipSegmentSync,
}
