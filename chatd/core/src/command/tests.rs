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
