//! `chatctl inspect`: what is in the data directory of a stopped node: its log files
//! frame by frame, its segments, the checksums of both, and a readable dump.
//!
//! Reads only, except with `--accept-loss`, which asks for the shard by number and for
//! `--yes`. A damaged log is cut where it ends without a gap: what was acknowledged behind it
//! is gone. Segments with damaged ends are rebuilt from their blocks: nothing is. A shard with
//! a damaged block can only begin empty: that is done when the number of rows that are lost,
//! which the first try says, is repeated with `--begin-empty`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chat_client::ids::UserId;
use clap::Args;
use logstore::{
    engine, inspect,
    loss::{self, Accepted, LossError, WholeLoss},
    segment::Kind,
    storage::{Storage, disk::Disk},
};
use serde_json::json;

use crate::{
    failure::{FAILED, FOUND, Failure},
    options::{Format, Global},
    output,
};

mod log;
mod rows;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The data directory.
    #[arg(default_value = "./chatd-data")]
    data: PathBuf,
    /// Read everything and check every checksum.
    #[arg(long)]
    verify: bool,
    /// A line for each record of the log.
    #[arg(long)]
    records: bool,
    /// The blocks, inboxes and rows of one segment file, as the summary names it.
    #[arg(long, value_name = "FILE")]
    segment: Option<String>,
    /// Of rows and records, only those of this person.
    #[arg(long, value_name = "NAME")]
    of: Option<String>,
    /// The app of that person.
    #[arg(long, value_name = "APP", default_value = "default", requires = "of")]
    app: String,
    /// Give up what is lost of this damaged shard, and let the rest go on.
    #[arg(long, value_name = "SHARD", requires = "yes")]
    accept_loss: Option<u16>,
    /// Yes, what was acknowledged and is damaged shall be gone.
    #[arg(long)]
    yes: bool,
    /// With --accept-loss, where nothing else is left: the shard begins empty, and so many
    /// rows are lost, as it said before.
    #[arg(long, value_name = "ROWS", requires = "accept_loss")]
    begin_empty: Option<u64>,
}

impl Options {
    /// The inbox that is asked for.
    fn inbox(&self) -> Option<u64> {
        self.of
            .as_ref()
            .map(|name| UserId::of(&self.app, name).key().0)
    }
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<(), Failure> {
    if !options.data.is_dir() {
        return Err(
            Failure::usage(format!("{} is no directory", options.data.display()))
                .hint("name the data directory of the node, the one it was started with as --data"),
        );
    }
    let _stopped = lock(&options.data)?;
    let storage: Arc<dyn Storage> =
        Arc::new(Disk::new(&options.data).map_err(|error| {
            Failure::new(FAILED, format!("{}: {error}", options.data.display()))
        })?);
    if let Some(shard) = options.accept_loss {
        return accept_loss(global, storage, shard, options.begin_empty);
    }
    if let Some(file) = &options.segment {
        return segment(global, options, &storage, file);
    }
    let mut findings = log::print(global, options)?;
    findings += segments(global, options, &storage)?;
    if findings > 0 {
        return Err(Failure::new(FOUND, format!("{findings} findings")).hint(
            "a copy of the directory keeps what can still be read; a shard that the node calls \
             damaged goes on only after --accept-loss",
        ));
    }
    Ok(())
}

/// The node's own lock: nobody looks into files that are being written.
fn lock(data: &Path) -> Result<Option<std::fs::File>, Failure> {
    let path = data.join("LOCK");
    let Ok(file) = std::fs::File::open(&path) else {
        return Ok(None);
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::new(
            FAILED,
            format!("a node uses {}", data.display()),
        )
        .hint("stop it first: kill -TERM, or Ctrl-C in its terminal")),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(Failure::new(FAILED, format!("{}: {error}", path.display())))
        }
    }
}

fn segments(
    global: &Global,
    options: &Options,
    storage: &Arc<dyn Storage>,
) -> Result<usize, Failure> {
    let paths = inspect::segments(&**storage)?;
    let mut rows = Vec::new();
    let mut findings = 0;
    let bar = output::bar(global.output, paths.len() as u64, "segments");
    for path in &paths {
        let mut found = Vec::new();
        match inspect::describe(&**storage, path) {
            Ok(description) => {
                let meta = &description.meta;
                rows.push((
                    path.clone(),
                    meta.name.to_string(),
                    meta.file_bytes,
                    meta.rows,
                    meta.postings,
                ));
            }
            Err(error) => found.push(error.to_string()),
        }
        if options.verify && found.is_empty() {
            match inspect::verify(&**storage, path) {
                Ok(list) => found.extend(
                    list.iter()
                        .map(|finding| format!("{:?}: {}", finding.part, finding.reason)),
                ),
                Err(error) => found.push(error.to_string()),
            }
        }
        for text in &found {
            finding(global, path, text);
        }
        findings += found.len();
        bar.inc(1);
    }
    bar.finish_and_clear();
    match global.output {
        Format::Json => {
            for (path, name, bytes, rows, postings) in rows {
                output::json(&json!({"segment": {
                    "path": path, "name": name, "bytes": bytes, "rows": rows, "postings": postings,
                }}));
            }
        }
        Format::Table if paths.is_empty() => output::say("no segments: everything is in the log"),
        Format::Table => output::table(
            &["segment", "holds", "size", "rows", "postings"],
            rows.into_iter()
                .map(|(path, name, bytes, rows, postings)| {
                    vec![
                        path,
                        name,
                        output::bytes(bytes),
                        rows.to_string(),
                        postings.to_string(),
                    ]
                })
                .collect(),
        ),
    }
    if options.verify && global.output == Format::Table {
        output::say(&format!(
            "{} segments verified, {findings} findings",
            paths.len()
        ));
    }
    Ok(findings)
}

/// Something that is not as it was written.
fn finding(global: &Global, place: &str, text: &str) {
    match global.output {
        Format::Json => output::json(&json!({"finding": {"in": place, "what": text}})),
        Format::Table => output::say(&format!("FOUND {place}: {text}")),
    }
}

const fn block_kind(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Rows) => "rows",
        Some(Kind::Bodies) => "bodies",
        Some(Kind::Inboxes) => "inboxes",
        Some(Kind::Postings) => "postings",
        Some(Kind::Summary) => "summary",
        Some(_) => "other",
        None => "unreadable",
    }
}

fn segment(
    global: &Global,
    options: &Options,
    storage: &Arc<dyn Storage>,
    file: &str,
) -> Result<(), Failure> {
    let paths = inspect::segments(&**storage)?;
    let path = paths
        .iter()
        .find(|path| *path == file || path.ends_with(&format!("/{file}")))
        .ok_or_else(|| {
            Failure::usage(format!("there is no segment {file}"))
                .hint("`chatctl inspect` without --segment lists them")
        })?;
    let damaged = |error: logstore::reads::ReadError| Failure::new(FOUND, error.to_string());
    let description = inspect::describe(&**storage, path).map_err(damaged)?;
    if global.output == Format::Table {
        output::table(
            &["block", "holds", "at", "stored", "content"],
            description
                .blocks
                .iter()
                .map(|block| {
                    vec![
                        block.number.to_string(),
                        block_kind(block.kind).to_owned(),
                        block.offset.to_string(),
                        block.stored_bytes.to_string(),
                        block.content_bytes.to_string(),
                    ]
                })
                .collect(),
        );
    }
    let wanted = options.inbox();
    inspect::rows(storage, path, |key, row| {
        if wanted.is_none_or(|inbox| inbox == key.inbox) {
            rows::print(global.output, &key, row.as_ref());
        }
    })
    .map_err(damaged)
}

fn accept_loss(
    global: &Global,
    storage: Arc<dyn Storage>,
    shard: u16,
    begin_empty: Option<u64>,
) -> Result<(), Failure> {
    let failed = |error: LossError| Failure::new(FAILED, error.to_string());
    let log = engine::Options::of_directory(&*storage)?;
    match loss::accept_loss(Arc::clone(&storage), log.clone(), shard) {
        Ok(Accepted::Cut(lost)) => match global.output {
            Format::Json => output::json(&json!({"accepted": {
                "shard": shard,
                "keptTo": lost.kept_to.to_string(),
                "seenTo": lost.seen_to.to_string(),
                "reason": lost.reason,
            }})),
            Format::Table => output::say(&format!(
                "shard {shard} ends at position {} now; positions up to {} are gone ({}). \
                 Start the node: it serves the shard again, under a new generation",
                lost.kept_to, lost.seen_to, lost.reason
            )),
        },
        Ok(Accepted::Rebuilt(paths)) => match global.output {
            Format::Json => output::json(&json!({"rebuilt": {"shard": shard, "segments": paths}})),
            Format::Table => output::say(&format!(
                "nothing is lost: every block of shard {shard} is whole, and the ends of {} were \
                 written again. Start the node: it serves the shard again",
                paths.join(", ")
            )),
        },
        Err(LossError::Whole(lost)) if begin_empty == Some(lost.rows()) => {
            let new = loss::begin_empty(storage, log, &lost).map_err(failed)?;
            match global.output {
                Format::Json => output::json(&json!({"beganEmpty": {
                    "shard": shard, "replica": new.replica, "rows": lost.rows(),
                }})),
                Format::Table => output::say(&format!(
                    "shard {shard} begins empty. Start the node: it serves the shard again, under \
                     a new generation"
                )),
            }
        }
        Err(LossError::Whole(lost)) => {
            say_what_is_lost(global, shard, &lost);
            return Err(Failure::new(
                FOUND,
                format!("shard {shard} can only begin empty: nothing was done"),
            )
            .hint(format!(
                "a copy of the directory keeps what can still be read; to go on without all of it, \
                 repeat the command with --begin-empty {}",
                lost.rows()
            )));
        }
        Err(error) => return Err(failed(error)),
    }
    Ok(())
}

/// All of a shard, segment by segment.
fn say_what_is_lost(global: &Global, shard: u16, lost: &WholeLoss) {
    for segment in &lost.segments {
        match global.output {
            Format::Json => output::json(&json!({"lost": {
                "shard": shard, "segment": segment.path, "rows": segment.rows,
                "postings": segment.postings, "damage": segment.damage,
            }})),
            Format::Table => output::say(&format!(
                "LOST {}: {} rows, {} postings ({})",
                segment.path,
                segment.rows,
                segment.postings,
                segment
                    .damage
                    .as_deref()
                    .unwrap_or("whole, and goes with the others"),
            )),
        }
    }
    if global.output == Format::Table {
        output::say(&format!(
            "shard {shard}: {} rows in {} segments, everything up to position {}: the inboxes of \
             its users, its groups, and what it would know again as a duplicate",
            lost.rows(),
            lost.segments.len(),
            lost.last_position
        ));
    }
}
