//! Segment files that earlier versions wrote, opened for ever; and the bytes that
//! this version writes for the same rows, which must not change unnoticed.

use crate::fixture::{KEY, Put, Rig, files};
use logstore::{
    inspect,
    key::{Key, Order, Row},
    log_index::LogIndex,
    replicas::SegmentRef,
    segment::{Compression, SegmentOptions},
    shard::Shard,
    storage::{Storage as _, simulated::SimulatedDisk},
};
use std::collections::BTreeMap;

/// One of everything that version 1 can hold, spread over all kinds of blocks.
fn entries() -> Vec<Vec<Put>> {
    let mut entries = Vec::new();
    let body = |seed: u64, len: usize| -> Vec<u8> {
        (0..len as u64)
            .map(|at| ((at * (seed * 2 + 1)) >> 3).to_le_bytes()[0])
            .collect()
    };
    entries.push(vec![
        (
            Key::new(0, 120, b"shard"),
            b"row of the shard".to_vec(),
            None,
        ),
        (Key::new(1, 0, b""), b"a name".to_vec(), None),
        (Key::new(1, 3, &[7; 32]), Vec::new(), Some(body(1, 10))),
        (
            Key::new(1, 60, b"overlay"),
            b"edited".to_vec(),
            Some(body(2, 90)),
        ),
    ]);
    for sequence in 1..=70_u64 {
        let shared = body(sequence, 400);
        let mut rows = Vec::new();
        for inbox in [1, 2, 0x8000_0000_0000_0000, u64::MAX] {
            let header = sequence.to_le_bytes().repeat(3);
            rows.push((
                Key::append(inbox, 32, sequence),
                header,
                Some(shared.clone()),
            ));
            let family = if inbox == 1 { 41 } else { 40 };
            let posting = Key::posting(inbox, family, sequence % 3, sequence * 1000);
            rows.push((posting, sequence.to_be_bytes().to_vec(), None));
        }
        let mut sub = [0; 24];
        sub[8..14].copy_from_slice(&(1_767_225_600_000 + sequence).to_be_bytes()[2..]);
        sub[14..].fill(sequence.to_le_bytes()[0]);
        rows.push((Key::new(2, 64, &sub), sequence.to_be_bytes().to_vec(), None));
        rows.push((
            Key::append(5, 112, sequence),
            b"group".to_vec(),
            Some(body(sequence, 60)),
        ));
        entries.push(rows);
    }
    entries
}

fn build() -> (Rig, BTreeMap<Key, Row>) {
    let options = SegmentOptions {
        compression: Compression::Lz4,
        ..SegmentOptions::default()
    };
    let mut rig = Rig::new(options);
    let mut model = BTreeMap::new();
    for rows in entries() {
        for (key, header, body) in &rows {
            let row = Row {
                header: header.clone().into(),
                body: body.clone().map(Into::into),
            };
            model.insert(*key, row);
        }
        rig.put(rows, &[]);
    }
    let gone = Key::new(1, 0, b"");
    rig.put(Vec::new(), &[gone]);
    model.remove(&gone);
    rig.freeze_and_flush();
    (rig, model)
}

fn sample(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(name)
}

#[test]
fn this_version_writes_the_bytes_of_the_sample() {
    let (rig, _) = build();
    let written = rig.disk.bytes(&rig.disk.files()[0]).unwrap();
    let path = sample("segment-v1.seg");
    if std::env::var_os("WRITE_SAMPLES").is_some() {
        std::fs::write(&path, &written).unwrap();
        std::fs::write(sample("segment-v1.meta"), &rig.segments[0].meta).unwrap();
    }
    let kept = std::fs::read(path).unwrap();
    assert!(
        written == kept,
        "the format changed: give it a new version and a new sample"
    );
    let meta = std::fs::read(sample("segment-v1.meta")).unwrap();
    assert_eq!(rig.segments[0].meta, meta);
}

#[test]
fn a_segment_of_version_1_is_read() {
    let meta = std::fs::read(sample("segment-v1.meta")).unwrap();
    let decoded = logstore::segment::SegmentMeta::decode(&meta).unwrap();
    let disk = SimulatedDisk::new();
    let files = files(&disk, 0, 4);
    let path = decoded.path(KEY.replica);
    let sample_bytes = std::fs::read(sample("segment-v1.seg")).unwrap();
    let file = disk.create(&path).unwrap();
    file.write_at(&sample_bytes, 0).unwrap();
    // While it is open for writing it cannot be mapped.
    drop(file);
    assert_eq!(inspect::verify(&disk, &path).unwrap(), []);

    let segments = [SegmentRef {
        id: decoded.id(),
        meta: meta.into(),
    }];
    let position = decoded.name.position;
    let options = SegmentOptions::default();
    let shard = Shard::open(KEY, LogIndex::new(), position, &segments, &files, options).unwrap();
    let (_, model) = build();
    let (from, to) = (Key::first(0, 0), Key::last(u64::MAX, 255));
    let all = shard.range(&from, &to, Order::Rising, usize::MAX).unwrap();
    assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
    for (key, row) in &model {
        assert_eq!(shard.get(key).unwrap().as_ref(), Some(row), "{key:?}");
    }
    let kinds = inspect::describe(&disk, &path).unwrap().blocks;
    let mut kinds: Vec<_> = kinds
        .iter()
        .map(|block| block.kind.unwrap() as u8)
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(
        kinds,
        [1, 2, 3, 4, 5, 6, 7, 8],
        "the sample has every kind of block"
    );
}

#[test]
fn compression_changes_the_file_and_not_the_content() {
    let mut metas = Vec::new();
    for compression in [Compression::None, Compression::Lz4] {
        let mut rig = Rig::new(SegmentOptions {
            compression,
            ..SegmentOptions::default()
        });
        entries().into_iter().for_each(|rows| rig.put(rows, &[]));
        rig.freeze_and_flush();
        metas.push(rig.shard.segments().next().unwrap().clone());
    }
    assert!(metas[1].file_bytes < metas[0].file_bytes);
    assert_eq!(metas[0].digest, metas[1].digest);
}
