use super::*;
use crate::store::{BodyPlace, Value};
use raft::{Config, RawNode};

fn entry(position: u64, term: u64, payload: &'static [u8]) -> LogEntry {
    LogEntry {
        position,
        term,
        kind: 0,
        payload: Bytes::from_static(payload),
    }
}

fn row(sub: &[u8], header: &'static [u8], body: Option<(u32, u32)>) -> Write {
    Write {
        key: Key::new(InboxKey(7), 40, sub),
        value: Some(Value {
            header: Bytes::from_static(header),
            body: body.map(|(offset, len)| BodyPlace {
                offset,
                len,
                group: 0,
                order: 0,
            }),
        }),
    }
}

fn posting(group: u64, order: u64) -> Write {
    let sub = [group.to_be_bytes(), order.to_be_bytes()].concat();
    row(&sub, b"", None)
}

#[test]
fn bodies_come_from_the_entry_that_was_applied() {
    let mut store = MemoryStore::new(ReplicaId(1));
    store.append(&[entry(1, 1, b"__hello")]);
    store.apply(1, vec![row(b"a", b"h", Some((2, 5)))]);
    let read = store
        .get(&Key::new(InboxKey(7), 40, b"a"))
        .unwrap()
        .unwrap();
    assert_eq!(read.body.as_deref(), Some(&b"hello"[..]));
}

#[test]
fn a_restart_keeps_what_was_persisted_and_flushed_and_nothing_else() {
    let mut store = MemoryStore::new(ReplicaId(1));
    store.append(&[entry(1, 1, b""), entry(2, 1, b""), entry(3, 1, b"")]);
    store.persist(
        &[entry(2, 1, b"")],
        Some(HardState {
            term: 1,
            vote: 1,
            commit: 1,
        }),
    );
    store.apply(1, vec![posting(1, 1)]);
    assert!(store.freeze(2));
    store.apply(2, vec![posting(1, 2)]);
    assert!(store.flush_done() && !store.flush_done());
    let store = store.restarted();
    assert_eq!((store.flushed(), store.last_position()), (1, 2));
    assert_eq!(store.rows().count(), 1);
}

#[test]
fn a_third_frozen_part_waits() {
    let mut store = MemoryStore::new(ReplicaId(1));
    assert!(store.freeze(1) && store.freeze(1));
    assert!(!store.freeze(1));
    store.flush_done();
    assert!(store.freeze(1));
}

#[test]
fn conversations_are_listed_newest_first_over_both_families() {
    let mut store = MemoryStore::new(ReplicaId(1));
    store.append(&[entry(1, 1, b"")]);
    let mut own = posting(2, 9);
    own.key = Key::new(InboxKey(7), 41, own.key.sub());
    store.apply(1, vec![posting(1, 5), posting(1, 7), posting(2, 3), own]);
    let list = |before, limit| {
        let heads = store.groups(InboxKey(7), &[40, 41], before, limit).unwrap();
        heads.iter().map(|h| (h.group, h.order)).collect::<Vec<_>>()
    };
    assert_eq!(list(None, 9), [(2, 9), (1, 7)]);
    assert_eq!(list(Some((9, 2)), 9), [(1, 7)]);
    assert_eq!(list(None, 1), [(2, 9)]);
    let from = Key::new(InboxKey(7), 40, &1u64.to_be_bytes());
    let to = Key::new(InboxKey(7), 40, &[1u64.to_be_bytes(), [0xff; 8]].concat());
    assert_eq!(store.count(&from, &to), Ok(2));
}

#[test]
fn a_damaged_row_is_unreadable_and_not_absent() {
    let mut store = MemoryStore::new(ReplicaId(1));
    let key = Key::new(InboxKey(7), 40, b"a");
    store.damage(Some(key));
    assert!(store.get(&key).is_err());
    assert!(store.count(&key, &key).is_err());
    store.damage(None);
    assert_eq!(store.get(&key), Ok(None));
}

#[test]
fn raft_with_one_voter_runs_on_it() {
    let config = Config {
        id: 5,
        ..Default::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let store = MemoryStore::new(ReplicaId(5));
    let mut node = RawNode::new(&config, store, &logger).unwrap();
    node.campaign().unwrap();
    for round in 0..3 {
        if round == 1 {
            node.propose(vec![], b"x".to_vec()).unwrap();
        }
        let ready = node.ready();
        let entries: Vec<_> = ready
            .entries()
            .iter()
            .map(|entry| LogEntry {
                position: entry.index,
                term: entry.term,
                kind: 0,
                payload: entry.data.clone(),
            })
            .collect();
        node.mut_store().append(&entries);
        if let Some(hard) = ready.hs() {
            node.mut_store().set_hard_state(HardState {
                term: hard.term,
                vote: hard.vote,
                commit: hard.commit,
            });
        }
        node.advance(ready);
    }
    assert_eq!(node.store().last_position(), 2);
    assert_eq!(node.raft.raft_log.committed, 2);
}
