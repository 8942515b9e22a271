use super::*;
use crate::store::{LogEntry, ReadRows as _, memory::MemoryStore};
use chat_wire::ids::{InboxKey, ReplicaId};
use proptest::{collection::vec, prelude::*};

fn key(n: u8) -> Key {
    Key::new(InboxKey(1), keys::INCOMING, &[n])
}

fn write(n: u8, value: Option<u8>) -> Write {
    Write {
        key: key(n),
        value: value.map(|value| Value {
            header: Bytes::copy_from_slice(&[value]),
            body: None,
        }),
    }
}

fn store(rows: Vec<Write>) -> MemoryStore {
    let mut store = MemoryStore::new(ReplicaId(1));
    store.append(&[LogEntry {
        position: 1,
        term: 1,
        kind: 0,
        payload: Bytes::new(),
    }]);
    store.apply(1, rows);
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_an_entry_wrote_is_read_over_the_store_as_if_it_stood_there(
        below in vec((0..20_u8, any::<u8>()), 0..20),
        above in vec((0..20_u8, any::<Option<u8>>()), 0..20),
        (from, to, limit) in (0..22_u8, 0..22_u8, 0..10_usize),
        falling in any::<bool>(),
    ) {
        let store_below = store(below.iter().map(|(n, v)| write(*n, Some(*v))).collect());
        let mut all: Vec<_> = below.iter().map(|(n, v)| write(*n, Some(*v))).collect();
        all.extend(above.iter().map(|(n, v)| write(*n, *v)));
        let flat = store(all);
        let mut cache = Cache::new(1);
        let mut over = Over {
            store: &store_below,
            cache: &mut cache,
            payload: Bytes::new(),
            written: above.iter().map(|(n, v)| write(*n, *v)).map(|w| (w.key, w.value)).collect(),
        };
        let range = Range {
            from: key(from),
            to: key(to),
            direction: if falling { Direction::Falling } else { Direction::Rising },
            limit,
        };
        prop_assert_eq!(over.rows(&range), flat.range(&range));
        prop_assert_eq!(over.count(&key(from), &key(to)), flat.count(&key(from), &key(to)));
        prop_assert_eq!(over.row(&key(from)), flat.get(&key(from)));
    }
}

#[test]
fn an_entry_that_is_dropped_leaves_no_trace_in_the_cache() {
    let store = store(vec![]);
    let mut cache = Cache::new(64);
    let settings = crate::command::Settings {
        version: 1,
        shards: 1,
        epoch: 1,
        ..Default::default()
    };
    let body = Bytes::new();
    let context = Context {
        shard: chat_wire::ids::ShardId(1),
        position: 2,
        rules: crate::command::Rules::WRITTEN,
        ts_ms: 1,
        epoch: 1,
        body_offset: 0,
        body: &body,
    };
    for _ in 0..2 {
        let mut entry = Entry::new(&store, &mut cache, Bytes::new());
        let effects = entry.run(&context, &settings.clone().into()).unwrap();
        assert!(matches!(
            effects.notices[..],
            [crate::shard::Notice::Settings(_)]
        ));
    }
    let mut entry = Entry::new(&store, &mut cache, Bytes::new());
    entry.run(&context, &settings.into()).unwrap();
    assert_eq!(entry.finish().len(), 1);
    assert!(cache.row(&keys::settings()).flatten().is_some());
}

#[test]
fn the_cache_holds_no_more_rows_than_it_has_slots_and_no_row_with_a_body() {
    let mut cache = Cache::new(5);
    assert_eq!(cache.slots.len(), 8);
    let row = Row {
        header: Bytes::from_static(b"x"),
        body: None,
    };
    for n in 0..1000 {
        cache.read(&keys::head(InboxKey(n)), Some(&row));
        assert!(cache.row(&keys::head(InboxKey(n))).is_some());
    }
    assert_eq!(cache.slots.iter().flatten().count(), 8);
    let event = keys::event(InboxKey(1), 1);
    cache.read(&event, Some(&row));
    assert_eq!(cache.row(&event), None);
}

#[test]
fn an_unreadable_row_is_an_error_and_not_absent() {
    let mut store = store(vec![]);
    store.damage(Some(keys::settings()));
    let mut cache = Cache::new(8);
    let mut entry = Entry::new(&store, &mut cache, Bytes::new());
    let body = Bytes::new();
    let context = Context {
        shard: chat_wire::ids::ShardId(1),
        position: 2,
        rules: crate::command::Rules::WRITTEN,
        ts_ms: 1,
        epoch: 1,
        body_offset: 0,
        body: &body,
    };
    let flush = crate::command::Flush {}.into();
    assert!(entry.run(&context, &flush).is_err());
}
