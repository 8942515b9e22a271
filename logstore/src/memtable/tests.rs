//! What a memtable keeps of the writes of an entry, and what it tells of an inbox.

use super::*;
use crate::key::Value;

fn at(position: u64, offset: u32, len: u32) -> BodyRef {
    BodyRef {
        position,
        offset,
        len,
        group: 1,
        order: position,
    }
}

fn put(key: Key, header: &'static [u8], body: Option<BodyRef>) -> Write {
    Write {
        key,
        value: Some(Value {
            header: Bytes::from_static(header),
            body,
        }),
    }
}

fn log(position: u64) -> Option<Bytes> {
    Some(Bytes::from(format!("payload of {position:04}")))
}

#[test]
fn a_body_is_read_from_the_payload_of_its_entry() {
    let mut table = Memtable::default();
    let (a, b) = (Key::append(1, 32, 1), Key::append(2, 32, 1));
    table.apply(
        7,
        vec![
            put(a, b"a", Some(at(7, 11, 4))),
            put(b, b"b", Some(at(7, 0, 7))),
        ],
        log,
    );
    let row = table.get(&a).unwrap().row().unwrap();
    assert_eq!(
        (&row.header[..], row.body.as_deref()),
        (&b"a"[..], Some(&b"0007"[..]))
    );
    assert_eq!(
        table.get(&b).unwrap().body().as_deref(),
        Some(&b"payload"[..])
    );
}

#[test]
fn the_rows_of_a_fan_out_share_one_body() {
    let mut table = Memtable::default();
    let writes = (1..=100).map(|inbox| put(Key::append(inbox, 32, 1), b"", Some(at(1, 0, 7))));
    table.apply(1, writes.collect(), log);
    assert_eq!((table.bodies.len(), table.payloads.len()), (1, 1));
}

#[test]
fn a_deleted_row_is_known_to_be_deleted() {
    let mut table = Memtable::default();
    let key = Key::new(1, 0, b"name");
    table.apply(1, vec![put(key, b"value", None)], log);
    table.apply(2, vec![Write { key, value: None }], log);
    assert!(table.get(&key).unwrap().header().is_none());
    assert!(table.get(&Key::new(1, 0, b"other")).is_none());
    assert_eq!(
        (table.first_position(), table.bytes()),
        (Some(1), ROW_BYTES + 5)
    );
    table.apply(3, vec![put(key, b"", None)], log);
    assert_eq!(table.get(&key).unwrap().header(), Some(&b""[..]));
}

#[test]
fn a_row_that_is_written_again_takes_no_more_room() {
    let mut table = Memtable::default();
    let key = Key::new(1, 0, b"head");
    for position in 1..=1000 {
        table.apply(position, vec![put(key, b"twelve bytes", None)], log);
    }
    assert_eq!(table.bytes(), ROW_BYTES + 12);
    table.apply(1001, vec![put(key, b"longer than before", None)], log);
    assert_eq!(table.bytes(), ROW_BYTES + 12 + 18);
    assert_eq!(
        table.get(&key).unwrap().header(),
        Some(&b"longer than before"[..])
    );
}

#[test]
fn groups_are_found_with_their_highest_order() {
    let mut table = Memtable::default();
    let posting = |inbox, group, order| put(Key::posting(inbox, 40, group, order), &[0; 8], None);
    let mut writes = vec![posting(4, 9, 1), posting(6, 9, 1)];
    writes.extend((1..=50).map(|order| posting(5, order % 3, order)));
    writes.push(posting(5, u64::MAX, 7));
    table.apply(1, writes, log);
    assert_eq!(
        table.groups(5, 40),
        [(0, 48), (1, 49), (2, 50), (u64::MAX, 7)]
    );
    assert_eq!(table.groups(5, 41), []);
}

#[test]
fn spans_name_the_inboxes_with_events_only() {
    let mut table = Memtable::default();
    let mut writes = vec![
        put(Key::new(2, 0, b""), b"", None),
        put(Key::new(3, 60, b""), b"", None),
    ];
    writes.extend([3, 4, 5].map(|seq| put(Key::append(4, 32, seq), b"", None)));
    writes.push(put(Key::append(u64::MAX, 32, 9), b"", None));
    table.apply(1, writes, log);
    let spans = [
        Span {
            inbox: 4,
            first: 3,
            last: 5,
        },
        Span {
            inbox: u64::MAX,
            first: 9,
            last: 9,
        },
    ];
    assert_eq!(table.spans(0, u64::MAX, 32, 10), spans);
    assert_eq!(table.spans(0, u64::MAX, 32, 1), spans[..1]);
    assert_eq!(table.spans(5, 9, 32, 10), []);
}

#[test]
#[should_panic(expected = "postings are not deleted one by one")]
fn a_posting_cannot_be_deleted() {
    Memtable::default().apply(
        1,
        vec![Write {
            key: Key::posting(1, 40, 1, 1),
            value: None,
        }],
        log,
    );
}
