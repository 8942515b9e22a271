//! Writing a frozen memtable as segments: the one long piece of work of a shard,
//! and it needs nothing of the shard while it runs.
//!
//! Each file is written under a temporary name, synced, renamed; then the
//! directory is synced once. Only after that may the log commit the segments: a
//! file that the log names is whole. One that it does not name is rubbish of a
//! crash, and [`sweep`] removes it.

use crate::{
    plant::is_planted,
    reads::Frozen,
    replicas::{ReplicaKey, SegmentRef},
    segment::{
        Name, ReadError, SEGMENT_DIR, SegmentFiles, SegmentMeta, SegmentOptions,
        builder::{self, BuildError},
        inbox::Head,
        reader::Segment,
    },
    storage::Storage,
};
use bytes::Bytes;
use std::{collections::BTreeSet, io, sync::Arc};

/// What a file is called until it is whole.
const UNFINISHED: &str = ".tmp";

/// A flush that waits to be done. See the [module](self).
pub struct FlushJob {
    key: ReplicaKey,
    frozen: Arc<Frozen>,
    older: Arc<Vec<Arc<Segment>>>,
    files: Arc<SegmentFiles>,
    options: SegmentOptions,
}

/// A flush that is done but not yet known to the log: commit [`Flushed::added`] with
/// the other fields, then [`Shard::install`](crate::shard::Shard::install).
#[derive(Debug)]
pub struct Flushed {
    /// Whose.
    pub key: ReplicaKey,
    /// The segments hold everything up to here.
    pub position: u64,
    /// The term of that position.
    pub term: u64,
    pub(crate) segments: Vec<SegmentMeta>,
}

/// Why a flush was not done. The memtable stays, so nothing is lost, but the log
/// cannot let go of it either.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// There is no room. Try again when there is.
    #[error("no room for segment {path}: free disk space; nothing is lost meanwhile")]
    DiskFull {
        /// The file.
        path: String,
    },
    /// A write or a sync failed: the node must stop, nothing is known of the disk.
    #[error("writing segment {path} failed: {source}; the node must stop")]
    Disk {
        /// The file.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// An older segment, which the new one continues, cannot be read: repair it.
    #[error("a flush needs an older segment: {0}")]
    Older(ReadError),
}

impl Flushed {
    /// The new segments as the log's `segments` record has them.
    #[must_use]
    pub fn added(&self) -> Vec<SegmentRef> {
        let segments = self.segments.iter();
        segments
            .map(|meta| SegmentRef {
                id: meta.id(),
                meta: Bytes::from(meta.encode()),
            })
            .collect()
    }

    /// The new segments.
    #[must_use]
    pub fn segments(&self) -> &[SegmentMeta] {
        &self.segments
    }
}

impl FlushJob {
    pub(crate) fn new(
        key: ReplicaKey,
        frozen: Arc<Frozen>,
        older: Arc<Vec<Arc<Segment>>>,
        files: Arc<SegmentFiles>,
        options: SegmentOptions,
    ) -> Self {
        Self {
            key,
            frozen,
            older,
            files,
            options,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> ReplicaKey {
        self.key
    }

    /// The segments will hold everything up to here.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.frozen.position
    }

    /// Bytes of the memtable that it writes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.frozen.table.bytes()
    }

    /// Does the work: some tens of milliseconds for 16 MiB, mostly waiting for the
    /// disk. A memtable without rows gives no segment.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn run(self) -> Result<Flushed, FlushError> {
        let Frozen {
            table,
            position,
            term,
        } = &*self.frozen;
        let rows: Vec<_> = table.rows().collect();
        let mut segments: Vec<SegmentMeta> = Vec::new();
        // The chain of an inbox that is cut between two parts goes on in the second.
        let mut chain: Option<(u64, Head)> = None;
        let parts = builder::parts(&rows, self.options.target_bytes);
        for (part, range) in parts.into_iter().enumerate() {
            let part = u16::try_from(part).expect("a memtable is not thousands of segments");
            let name = Name {
                shard: self.key.shard,
                position: *position,
                part,
                level: 0,
            };
            let rows = &rows[range];
            let mut heads = |inbox| match chain {
                Some((cut, head)) if cut == inbox => Ok(Some(head)),
                _ => self.head(inbox),
            };
            let (meta, last) = self.write(rows, name, &mut heads)?;
            chain = last.or(chain);
            segments.push(meta);
        }
        if !segments.is_empty() && !is_planted!(self.files.plant, SkipSegmentDirSync) {
            let synced = self.files.storage.sync_dir(SEGMENT_DIR);
            synced.map_err(|source| FlushError::Disk {
                path: SEGMENT_DIR.to_owned(),
                source,
            })?;
        }
        Ok(Flushed {
            key: self.key,
            position: *position,
            term: *term,
            segments,
        })
    }

    /// Writes one segment; gives also the last inbox's head of chain, if it has one.
    fn write(
        &self,
        rows: &builder::Rows<'_>,
        name: Name,
        heads: &mut builder::Heads<'_>,
    ) -> Result<(SegmentMeta, Option<(u64, Head)>), FlushError> {
        let storage = &*self.files.storage;
        let path = name.path(self.key.replica);
        let unfinished = format!("{path}{UNFINISHED}");
        let disk = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull => FlushError::DiskFull { path: path.clone() },
            _ => FlushError::Disk {
                path: path.clone(),
                source,
            },
        };
        let file = match storage.create(&unfinished) {
            // A crash or a full disk ended an earlier try.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                storage.remove(&unfinished).map_err(disk)?;
                storage.create(&unfinished)
            }
            created => created,
        };
        let file = file.map_err(disk)?;
        let built = builder::build(rows, name, &self.options, heads, &*file);
        let built = built.map_err(|error| match error {
            BuildError::Disk(error) => disk(error),
            BuildError::Read(error) => FlushError::Older(error),
        })?;
        if !is_planted!(self.files.plant, SkipSegmentSync) {
            file.sync().map_err(disk)?;
        }
        storage.rename(&unfinished, &path).map_err(disk)?;
        Ok(built)
    }

    /// The head of an inbox's chain in the newest segment that has one.
    fn head(&self, inbox: u64) -> Result<Option<Head>, ReadError> {
        for segment in self.older.iter().rev() {
            let record = segment.record(inbox)?;
            if let Some(head) = record.and_then(|record| record.head) {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }
}

/// Removes the files among the segments that no replica needs: rubbish of crashes, and
/// segments of replicas that are gone. `found` are the replicas that go on; what belongs
/// to one of `kept` stays whatever it is: a damaged replica's files are needed for its
/// repair. Called at a start, before anything is flushed. Gives the paths removed.
///
/// # Errors
/// What the disk says.
pub fn sweep<'a>(
    storage: &dyn Storage,
    found: impl IntoIterator<Item = (ReplicaKey, &'a [SegmentRef])>,
    kept: &[ReplicaKey],
) -> io::Result<Vec<String>> {
    let mut named = BTreeSet::new();
    let mut kept: Vec<_> = kept.iter().map(|key| prefix(*key)).collect();
    for (key, segments) in found {
        let metas = segments
            .iter()
            .map(|segment| SegmentMeta::decode(&segment.meta));
        match metas.collect::<Option<Vec<_>>>() {
            Some(metas) => named.extend(metas.iter().map(|meta| meta.path(key.replica))),
            // A newer version described them; it must find them again.
            None => kept.push(prefix(key)),
        }
    }
    let names = match storage.list(SEGMENT_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    let paths = names
        .into_iter()
        .map(|name| format!("{SEGMENT_DIR}/{name}"));
    let unneeded = |path: &String| {
        !named.contains(path) && !kept.iter().any(|prefix| path.starts_with(prefix))
    };
    let removed: Vec<_> = paths.filter(unneeded).collect();
    removed.iter().try_for_each(|path| storage.remove(path))?;
    Ok(removed)
}

/// What the paths of a replica's segments begin with.
fn prefix(ReplicaKey { shard, replica }: ReplicaKey) -> String {
    format!("{SEGMENT_DIR}/{shard:04}-{replica:08}-")
}
