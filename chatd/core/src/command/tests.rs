use super::*;

fn batch() -> Bytes {
    let mut batch = BatchBuilder::new(1_800_000_000_000, 7);
    batch.push(&Flush {}.into(), b"");
    batch.push(
        &Send {
            app: "default".into(),
            to: 5,
            ..Default::default()
        }
        .into(),
        b"body",
    );
    batch.finish()
}

#[test]
fn a_batch_reads_back_and_its_bodies_stand_where_it_says() {
    let payload = batch();
    let read = decode(&payload).unwrap();
    assert_eq!(
        (read.ts_ms, read.epoch, read.items.len()),
        (1_800_000_000_000, 7, 2)
    );
    let send = read.items[1].as_ref().unwrap();
    let at = send.body_offset as usize;
    assert_eq!(&payload[at..at + 4], b"body");
    assert_eq!(send.body, &b"body"[..]);
}

#[test]
fn no_cut_of_a_batch_is_a_batch() {
    let payload = batch();
    for cut in 0..payload.len() {
        assert!(decode(&payload.slice(..cut)).is_err(), "cut at {cut}");
    }
}

#[test]
fn an_unknown_kind_stops_unless_it_is_skippable() {
    let mut payload = BytesMut::from(&batch()[..]);
    payload[BATCH_HEADER_BYTES] = 200;
    assert_eq!(
        decode(&payload.clone().freeze()),
        Err(BatchError::Kind(200))
    );
    payload[BATCH_HEADER_BYTES + 1] = FLAG_SKIPPABLE;
    assert_eq!(decode(&payload.freeze()).unwrap().items[0], None);
}

/// `batch()` as each format wrote it. They must be read for ever, and say by which rules.
#[test]
fn a_batch_of_every_format_is_read_and_names_its_rules() {
    const BEHIND_THE_FORMAT: &str = "000001a3185c5000 00000007 00000002 \
         0b 00 00000000 00000000 \
         04 00 00000012 00000004 0a0764656661756c74 290500000000000000 626f6479";
    let hex: String = BEHIND_THE_FORMAT.split_whitespace().collect();
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let stored = |format: u8| Bytes::from([vec![format], bytes.clone()].concat());
    assert_eq!(stored(2), batch(), "what is written is of format 2");
    let written = decode(&batch()).unwrap();
    assert_eq!(written.rules, Rules::Two);
    let first = decode(&stored(1)).unwrap();
    assert_eq!(first.rules, Rules::One);
    assert_eq!((first.ts_ms, first.epoch), (written.ts_ms, written.epoch));
    assert_eq!(first.items, written.items);
    for format in [0, 3, 255] {
        assert_eq!(decode(&stored(format)), Err(BatchError::Format(format)));
    }
}
