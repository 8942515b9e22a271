//! The write-ahead log, frame by frame: what docs/format.md describes, read without
//! opening the engine, which would write.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use logstore::wal::frame::{
    self, BLOCK, FrameHeader, HEADER, NotAFrame, RECORD, RecordHeader, Salt,
};
use serde_json::json;

use super::{Options, finding};
use crate::{
    failure::{FAILED, Failure},
    options::{Format, Global},
    output,
};

/// What one file holds.
#[derive(Default)]
struct Summary {
    frames: u64,
    records: u64,
    body_bytes: u64,
    first_lsn: u64,
    last_lsn: u64,
    /// The newest that is proven durable by a later frame.
    proven_lsn: u64,
    /// Frames of an earlier use of the file.
    older: u64,
    bad_bodies: Vec<String>,
    /// Blocks that are neither a frame nor empty.
    other_blocks: u64,
}

/// Prints the files; how many findings.
pub(super) fn print(global: &Global, options: &Options) -> Result<usize, Failure> {
    let files = files(&options.data)?;
    if files.is_empty() {
        return Err(
            Failure::usage(format!("{} has no log", options.data.display()))
                .hint("it is not the data directory of a node"),
        );
    }
    let bar = output::bar(global.output, files.len() as u64, "log files");
    let mut rows = Vec::new();
    let mut findings = 0;
    for path in &files {
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let summary = scan(path, options, |header, records| {
            if options.records {
                show(global.output, header, records);
            }
        })?;
        for bad in &summary.bad_bodies {
            finding(global, &name, bad);
        }
        findings += summary.bad_bodies.len();
        rows.push((name, summary));
        bar.inc(1);
    }
    bar.finish_and_clear();
    match global.output {
        Format::Json => {
            for (name, summary) in rows {
                output::json(&json!({"log": {
                    "file": name,
                    "frames": summary.frames,
                    "records": summary.records,
                    "bodyBytes": summary.body_bytes,
                    "firstLsn": summary.first_lsn.to_string(),
                    "lastLsn": summary.last_lsn.to_string(),
                    "provenLsn": summary.proven_lsn.to_string(),
                    "olderFrames": summary.older,
                    "otherBlocks": summary.other_blocks,
                }}));
            }
        }
        Format::Table => {
            let rows = rows
                .into_iter()
                .map(|(name, summary)| {
                    vec![
                        name,
                        summary.frames.to_string(),
                        summary.records.to_string(),
                        output::bytes(summary.body_bytes),
                        if summary.frames == 0 {
                            "-".to_owned()
                        } else {
                            format!("{}–{}", summary.first_lsn, summary.last_lsn)
                        },
                        summary.proven_lsn.to_string(),
                    ]
                })
                .collect();
            output::table(
                &["log file", "frames", "records", "bodies", "lsn", "proven"],
                rows,
            );
        }
    }
    Ok(findings)
}

fn files(data: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = data.join("wal");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(_) => return Ok(Vec::new()),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() && path.extension().is_none_or(|extension| extension != "tmp") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Goes from frame to frame; where there is none, from block to block.
fn scan(
    path: &Path,
    options: &Options,
    mut see: impl FnMut(&FrameHeader, &[RecordHeader]),
) -> Result<Summary, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(FAILED, format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut summary = Summary::default();
    let mut epoch = None;
    let mut log_id = None;
    let mut records = Vec::new();
    let mut at = 0;
    let mut bytes = Vec::new();
    while at < length {
        let Some(header) = frame_at(&file, at, length, &mut bytes, &mut records)
            .map_err(failed)?
            .filter(|header| *log_id.get_or_insert(header.log_id) == header.log_id)
        else {
            if bytes.iter().take(BLOCK).any(|byte| *byte != 0) {
                summary.other_blocks += 1;
            }
            at += BLOCK as u64;
            continue;
        };
        let body_bytes = header.body_bytes as usize;
        let size = frame::frame_bytes(records.len(), body_bytes) as u64;
        // A file is used again without being emptied: older frames stand behind the newest.
        if header.epoch < *epoch.get_or_insert(header.epoch) {
            summary.older += 1;
            at += size;
            continue;
        }
        epoch = Some(header.epoch);
        summary.frames += 1;
        summary.records += records.len() as u64;
        summary.body_bytes += body_bytes as u64;
        if summary.first_lsn == 0 {
            summary.first_lsn = header.lsn;
        }
        summary.last_lsn = summary.last_lsn.max(header.lsn);
        summary.proven_lsn = summary.proven_lsn.max(header.synced_lsn);
        if options.verify {
            verify(&file, at, &header, &records, &mut summary).map_err(failed)?;
        }
        see(&header, &records);
        at += size;
    }
    Ok(summary)
}

/// The frame that begins at `at`, if one does. Its first block is in `bytes` afterwards.
fn frame_at(
    file: &File,
    at: u64,
    length: u64,
    bytes: &mut Vec<u8>,
    records: &mut Vec<RecordHeader>,
) -> std::io::Result<Option<FrameHeader>> {
    let mut wanted = BLOCK;
    loop {
        let rest = usize::try_from(length - at).unwrap_or(usize::MAX);
        let take = wanted.min(rest);
        bytes.resize(take, 0);
        file.read_exact_at(bytes, at)?;
        match frame::decode(bytes, records) {
            Ok(header) => return Ok(Some(header)),
            Err(NotAFrame::Short { needed }) if needed > take && needed <= rest => wanted = needed,
            Err(_) => return Ok(None),
        }
    }
}

fn verify(
    file: &File,
    at: u64,
    header: &FrameHeader,
    records: &[RecordHeader],
    summary: &mut Summary,
) -> std::io::Result<()> {
    let salt = Salt::new(header.epoch, header.lsn);
    let mut from = at + (HEADER + records.len() * RECORD) as u64;
    for (index, record) in records.iter().enumerate() {
        let mut body = vec![0; record.length as usize];
        let sound = file.read_exact_at(&mut body, from).is_ok()
            && salt.body_crc(index, &body) == record.body_crc;
        if !sound {
            summary.bad_bodies.push(format!(
                "frame {} record {index}: the checksum of position {} of shard {} is wrong",
                header.lsn, record.position, record.shard
            ));
        }
        from += u64::from(record.length);
    }
    Ok(())
}

fn show(format: Format, header: &FrameHeader, records: &[RecordHeader]) {
    for record in records {
        match format {
            Format::Json => output::json(&json!({"record": {
                "lsn": header.lsn.to_string(),
                "kind": kind(record.kind),
                "shard": record.shard,
                "replica": record.replica,
                "position": record.position.to_string(),
                "term": record.term.to_string(),
                "bytes": record.length,
                "moved": record.flags & frame::MOVED != 0,
            }})),
            Format::Table => output::say(&format!(
                "frame {} epoch {}: {} shard {} replica {} position {} term {} {} bytes{}",
                header.lsn,
                header.epoch,
                kind(record.kind),
                record.shard,
                record.replica,
                record.position,
                record.term,
                record.length,
                if record.flags & frame::MOVED == 0 {
                    ""
                } else {
                    " (copied forward)"
                }
            )),
        }
    }
}

fn kind(kind: u8) -> String {
    use frame::kind as kinds;
    let name = match kind {
        kinds::ENTRY => "entry",
        kinds::HARD_STATE => "hard state",
        kinds::COMPACTED_TO => "compacted",
        kinds::REPLICA_CREATED => "replica created",
        kinds::REPLICA_RETIRED => "replica retired",
        kinds::SEGMENTS => "segments",
        kinds::INSTALLED => "installed",
        kinds::ERASED => "erased",
        kinds::DAMAGED => "damaged",
        kinds::LOSS_ACCEPTED => "loss accepted",
        other => return format!("kind {other}"),
    };
    name.to_owned()
}
