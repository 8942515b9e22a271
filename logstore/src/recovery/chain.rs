//! Which frames count, and in which order.
//!
//! Each frame names the one before it, so the frames that count are a chain from
//! the last one back to the checkpoint. Frames that the chain passes over were cut
//! away by an earlier start. A frame that is named and not there is damage if some
//! later frame proves that it was durable; otherwise it was torn by the crash, was
//! never acknowledged, and the chain ends before it.

use crate::{
    manifest::Checkpoint,
    plant::{Planted, is_planted},
    recovery::replay::TailRecord,
    replicas::Hole,
    wal::{
        frame::{FrameHeader, MOVED, Origin},
        scan::ScannedFile,
        writer::Numbers,
    },
};

/// A frame's place among the scanned files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) file: usize,
    pub(crate) frame: usize,
}

/// The frames that count.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// In order.
    pub(crate) frames: Vec<At>,
    /// What is not there: before which index of `frames` it belongs. In order.
    pub(crate) holes: Vec<(usize, Hole)>,
    /// Frames up to here were durable.
    pub(crate) proof: u64,
    /// How many sound frames were cut as torn.
    pub(crate) torn: usize,
    highest: u64,
    highest_epoch: u64,
    first_lsn: u64,
}

impl Chain {
    pub(crate) fn new(files: &[ScannedFile], checkpoint: &Checkpoint, plant: Planted) -> Self {
        let mut all: Vec<At> = Vec::new();
        for (file, scanned) in files.iter().enumerate() {
            all.extend((0..scanned.frames.len()).map(|frame| At { file, frame }));
        }
        let header = |at: &At| &files[at.file].frames[at.frame].header;
        all.sort_by_key(|at| header(at).lsn);
        let of_frames = |of: fn(&FrameHeader) -> u64| all.iter().map(|at| of(header(at))).max();
        let mut chain = Self {
            proof: of_frames(|header| header.synced_lsn)
                .unwrap_or(0)
                .max(checkpoint.synced_lsn),
            highest: of_frames(|header| header.lsn)
                .unwrap_or(0)
                .max(checkpoint.lsn),
            highest_epoch: of_frames(|header| header.epoch)
                .unwrap_or(0)
                .max(checkpoint.epoch),
            first_lsn: checkpoint.first_lsn,
            ..Self::default()
        };
        if is_planted!(plant, CutProvenDamage) {
            chain.proof = 0;
        }
        chain.link(&all, header);
        // Without the torn frame, frames that it would have replaced count again.
        while let Some(torn) = chain.torn_body(files) {
            let lsn = header(&torn).lsn;
            let sound = all.partition_point(|at| header(at).lsn < lsn);
            chain.torn += all.len() - sound;
            all.truncate(sound);
            chain.link(&all, header);
        }
        chain
    }

    /// Follows the frames back from the last one.
    fn link<'a>(&mut self, all: &[At], header: impl Fn(&At) -> &'a FrameHeader) {
        self.holes.clear();
        let below = |lsn: u64| {
            all.partition_point(|at| header(at).lsn < lsn)
                .checked_sub(1)
        };
        let before_all = self.first_lsn - 1;
        let hole = |before: Option<usize>, lsn| Hole {
            after: before.map_or(before_all, |index| header(&all[index]).lsn),
            lsn,
        };
        let mut backward: Vec<At> = Vec::new();
        let mut holes: Vec<(usize, Hole)> = Vec::new();
        let mut next = all.len().checked_sub(1);
        if self.proof >= self.first_lsn
            && next.is_none_or(|last| header(&all[last]).lsn < self.proof)
        {
            holes.push((0, hole(next, self.proof)));
        }
        while let Some(index) = next {
            backward.push(all[index]);
            let previous = header(&all[index]).previous_lsn;
            if previous < self.first_lsn {
                break;
            }
            next = below(previous + 1);
            if next.is_some_and(|index| header(&all[index]).lsn == previous) {
                continue;
            }
            if previous > self.proof {
                self.torn += backward.len();
                backward.clear();
                holes.clear();
            } else {
                holes.push((backward.len(), hole(next, previous)));
            }
        }
        let len = backward.len();
        backward.reverse();
        self.frames = backward;
        self.holes = holes
            .into_iter()
            .rev()
            .map(|(behind, hole)| (len - behind, hole))
            .collect();
    }

    /// The first frame with a wrong body that nothing proves: it counts as torn, with
    /// all after it. Bodies of proven frames are judged one by one.
    fn torn_body(&self, files: &[ScannedFile]) -> Option<At> {
        let torn = |at: &&At| {
            let file = &files[at.file];
            let mut records = file.records[file.frames[at.frame].records.clone()].iter();
            records.any(|record| record.body.is_none())
        };
        self.unproven(files).iter().find(torn).copied()
    }

    /// The records of the frames that nothing proves: they must be written again
    /// before anything is acknowledged that rests on them.
    pub(crate) fn tail(&self, files: &[ScannedFile]) -> Vec<TailRecord> {
        let mut tail = Vec::new();
        for at in self.unproven(files) {
            let file = &files[at.file];
            let frame = &file.frames[at.frame];
            for (index, record) in (0..).zip(&file.records[frame.records.clone()]) {
                let mut header = record.header;
                if header.flags & MOVED == 0 {
                    header.flags |= MOVED;
                    header.origin = Origin {
                        lsn: frame.header.lsn,
                        index,
                    };
                }
                let body = record
                    .body
                    .clone()
                    .expect("an unproven frame with a wrong body was cut");
                tail.push(TailRecord { header, body });
            }
        }
        tail
    }

    fn unproven(&self, files: &[ScannedFile]) -> &[At] {
        let proven = |at: &At| files[at.file].frames[at.frame].header.lsn <= self.proof;
        &self.frames[self.frames.partition_point(proven)..]
    }

    /// Where numbering goes on. A torn frame may have carried the number after the
    /// highest, so that one is left out.
    pub(crate) fn numbers(&self, files: &[ScannedFile], checkpoint: &Checkpoint) -> Numbers {
        let proven = self.frames.len() - self.unproven(files).len();
        let lsn = |at: &At| files[at.file].frames[at.frame].header.lsn;
        // A hole at the very end stays a hole: the next frame names it.
        let hole = self
            .holes
            .last()
            .filter(|(before, _)| *before == self.frames.len());
        let last = self.frames[..proven].last().map_or(self.first_lsn - 1, lsn);
        Numbers {
            log_id: checkpoint.log_id,
            epoch: self.highest_epoch + 1,
            next_lsn: self.highest.max(self.proof) + 2,
            previous_lsn: hole.map_or(last, |(_, hole)| hole.lsn),
            synced_lsn: self.proof,
        }
    }
}
