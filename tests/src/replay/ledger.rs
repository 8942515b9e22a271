//! What one device did and saw, in memory and, for a process that will be killed, also in
//! a journal on disk.
//!
//! A journal is lines of JSON, each written with one `write` before what it says is acted
//! on (an event is acknowledged after it is written). SIGKILL keeps what was written; a last
//! line cut short is left out.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::checker::{Marks, Seen};

/// One thing that a device did or saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// It is about to queue this line.
    Intent {
        /// The line.
        line: u32,
    },
    /// The line is in the client's queue.
    Queued {
        /// The line.
        line: u32,
    },
    /// SENT came.
    Acked {
        /// The line.
        line: u32,
        /// Its number.
        msg_id: i64,
        /// Its place in a group's log.
        group_seq: u64,
    },
    /// A final error came.
    Refused {
        /// The line.
        line: u32,
        /// The error's code.
        code: u32,
    },
    /// An event came.
    Event {
        /// See [`Seen`].
        inbox_seq: u64,
        /// See [`Seen`].
        msg_id: i64,
        /// See [`Seen`].
        body: u64,
        /// See [`Seen`].
        place: u32,
        /// See [`Seen`].
        message: u32,
        /// See [`Seen`].
        group_seq: u64,
        /// See [`Seen`].
        own: bool,
    },
    /// The device said that its user has seen everything up to this.
    Marked {
        /// Where.
        place: u32,
        /// Up to here.
        msg_id: i64,
    },
    /// An operation on a group has its answer.
    Operation {
        /// Which.
        operation: Operation,
        /// Its place in the group's log.
        group_seq: u64,
    },
}

/// An operation on a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    /// The creation of this place's group.
    Create(u32),
    /// The removal of this churn.
    Remove(u32),
    /// The addition of this churn.
    Add(u32),
}

impl From<Seen> for Record {
    fn from(seen: Seen) -> Self {
        Self::Event {
            inbox_seq: seen.inbox_seq,
            msg_id: seen.msg_id,
            body: seen.body,
            place: seen.place,
            message: seen.message,
            group_seq: seen.group_seq,
            own: seen.own,
        }
    }
}

/// Everything one device did and saw.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Lines that were to be queued, and whether they were.
    pub queued: HashMap<u32, bool>,
    /// Lines with SENT: number and place in a group's log.
    pub acked: HashMap<u32, (i64, u64)>,
    /// Lines that were refused, with the code.
    pub refused: HashMap<u32, u32>,
    /// Events, in order of arrival.
    pub events: Vec<Seen>,
    /// Own lines whose sent copy came.
    pub copies: HashSet<u32>,
    /// Seen up to, by place.
    pub marked: BTreeMap<u32, i64>,
    /// Answered operations, with their place in the group's log.
    pub operations: BTreeMap<Operation, u64>,
    /// The last marks told of others: checked to rise.
    pub told: HashMap<(u32, u32), Marks>,
    /// Things that must not happen and that no rule of the checker names.
    pub complaints: Vec<String>,
    journal: Option<File>,
}

/// Complaints of one device that are kept.
const COMPLAINTS: usize = 20;

impl Ledger {
    /// One that is also written to `path`, after what stands there already.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path, own: impl Fn(u32) -> bool) -> io::Result<Self> {
        let mut ledger = Self::load(path, own)?;
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        ledger.journal = Some(file);
        Ok(ledger)
    }

    /// What a journal says. `own` tells which lines are the device's user's.
    ///
    /// # Errors
    /// If the file cannot be read; one that is not there is empty.
    pub fn load(path: &Path, own: impl Fn(u32) -> bool) -> io::Result<Self> {
        let mut ledger = Self::default();
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        for line in text.split(|byte| *byte == b'\n') {
            if let Ok(record) = serde_json::from_slice(line) {
                ledger.apply(record, &own);
            }
        }
        Ok(ledger)
    }

    /// Notes several things at once, with one write.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub fn note(&mut self, records: &[Record], own: impl Fn(u32) -> bool) -> io::Result<()> {
        if let Some(journal) = &mut self.journal {
            // A line that was cut by a kill ends here, so that this one stands alone.
            let mut text = Vec::from(*b"\n");
            for record in records {
                serde_json::to_writer(&mut text, record)?;
                text.push(b'\n');
            }
            journal.write_all(&text)?;
        }
        for record in records {
            self.apply(*record, &own);
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, record: Record, own: &impl Fn(u32) -> bool) {
        match record {
            Record::Intent { line } => {
                self.queued.entry(line).or_insert(false);
            }
            Record::Queued { line } => {
                self.queued.insert(line, true);
            }
            Record::Acked {
                line,
                msg_id,
                group_seq,
            } => {
                self.acked.insert(line, (msg_id, group_seq));
            }
            Record::Refused { line, code } => {
                self.refused.insert(line, code);
            }
            Record::Event {
                inbox_seq,
                msg_id,
                body,
                place,
                message,
                group_seq,
                own: own_event,
            } => {
                if own(message) {
                    self.copies.insert(message);
                }
                self.events.push(Seen {
                    inbox_seq,
                    msg_id,
                    body,
                    place,
                    message,
                    group_seq,
                    own: own_event,
                });
            }
            Record::Marked { place, msg_id } => {
                let mark = self.marked.entry(place).or_default();
                *mark = (*mark).max(msg_id);
            }
            Record::Operation {
                operation,
                group_seq,
            } => {
                self.operations.insert(operation, group_seq);
            }
        }
    }

    /// A copy of its answers only.
    pub(super) fn answers(&self) -> Self {
        Self {
            acked: self.acked.clone(),
            refused: self.refused.clone(),
            operations: self.operations.clone(),
            ..Self::default()
        }
    }

    /// Notes something that must not happen.
    pub fn complain(&mut self, text: impl Into<String>) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(text.into());
        }
    }

    /// The last event it has.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.events.last().map_or(0, |event| event.inbox_seq)
    }

    /// Whether the line needs nothing more from this device.
    #[must_use]
    pub fn settled(&self, line: u32) -> bool {
        self.acked.contains_key(&line)
            || self.refused.contains_key(&line)
            || self.copies.contains(&line)
    }

    /// Lines that wait for their answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queued
            .keys()
            .filter(|line| !self.settled(**line))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_says_after_a_kill_what_was_noted_and_leaves_out_a_cut_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let own = |line| line == 7;
        let event = Record::Event {
            inbox_seq: 4,
            msg_id: 99,
            body: 1,
            place: 2,
            message: 7,
            group_seq: 0,
            own: true,
        };
        let mut ledger = Ledger::open(&path, own).unwrap();
        ledger
            .note(
                &[
                    Record::Intent { line: 7 },
                    Record::Queued { line: 7 },
                    event,
                ],
                own,
            )
            .unwrap();
        ledger.note(&[Record::Intent { line: 8 }], own).unwrap();
        drop(ledger);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"Queued\":{\"li").unwrap();
        let mut again = Ledger::open(&path, own).unwrap();
        assert_eq!(again.queued, HashMap::from([(7, true), (8, false)]));
        assert_eq!(
            (again.cursor(), again.settled(7), again.settled(8)),
            (4, true, false)
        );
        assert_eq!(again.waiting(), 1);
        again
            .note(
                &[Record::Acked {
                    line: 8,
                    msg_id: 5,
                    group_seq: 6,
                }],
                own,
            )
            .unwrap();
        drop(again);
        let last = Ledger::load(&path, own).unwrap();
        assert_eq!(
            last.acked,
            HashMap::from([(8, (5, 6))]),
            "the cut line harms no later one"
        );
        assert_eq!(last.events.len(), 1);
    }
}
