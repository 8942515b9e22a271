//! Bugs that tests plant on purpose, to see that the crash tests find them.
//!
//! A test that never failed proves little. Each of these is a mistake that some
//! store has made; `tests/suite/planted.rs` shows that the suite catches every one. They
//! are compiled only with the feature `plant`, which nothing but this crate's own tests
//! turns on (a dev-dependency on itself); a build without debug assertions, as every release
//! is, does not compile with it. Without it [`Planted`] is empty and asks nothing.

#[cfg(all(feature = "plant", not(debug_assertions)))]
compile_error!("the feature `plant` of logstore is for its tests: no release has bugs planted");

/// Which bug is planted, if any: see [`Options::plant`](crate::engine::Options::plant).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    #[cfg(feature = "plant")]
    bug: Option<Plant>,
}

#[cfg(feature = "plant")]
impl From<Option<Plant>> for Planted {
    fn from(bug: Option<Plant>) -> Self {
        Self { bug }
    }
}

impl Planted {
    /// Whether it is this one.
    #[cfg(feature = "plant")]
    pub(crate) fn is(self, bug: Plant) -> bool {
        self.bug == Some(bug)
    }

    /// Whether it is any that could be named.
    #[cfg(not(feature = "plant"))]
    pub(crate) const fn is_none(self) -> bool {
        let Self {} = self;
        true
    }
}

/// Whether a bug is planted: false at compile time without the feature.
#[cfg(feature = "plant")]
macro_rules! is_planted {
    ($planted:expr, $bug:ident) => {
        $planted.is($crate::plant::Plant::$bug)
    };
}

/// Whether a bug is planted: false at compile time without the feature.
#[cfg(not(feature = "plant"))]
macro_rules! is_planted {
    ($planted:expr, $bug:ident) => {
        !$planted.is_none()
    };
}

pub(crate) use is_planted;

/// A bug to plant.
#[cfg(feature = "plant")]
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
