use super::*;
use crate::{
    shard::world::{START_MS, World, message, person, refused},
    store::ReadRows,
};
use bytes::Bytes;
use chat_wire::ids::ShardId;

fn settings(version: u64) -> Settings {
    Settings {
        version,
        generation: 1,
        epoch: 1,
        shards: 1,
        incarnation: 40 + version,
        ..Default::default()
    }
}

#[test]
fn a_shard_without_settings_is_unavailable() {
    let mut world = World::bare(settings(1));
    assert_eq!(
        refused(&world.attach(&person("bob"), 1, None)),
        Code::Unavailable
    );
    let id = world.id();
    let send = world.send_command(&person("alice"), person("bob").user().0, id);
    assert_eq!(
        refused(&world.apply(ShardId(1), send, &message("x"))),
        Code::Unavailable
    );
    world.apply(ShardId(1), settings(1), &Bytes::new());
    world.send(&person("alice"), &person("bob"), "x");
}

#[test]
fn a_command_of_another_epoch_is_at_the_wrong_shard() {
    let mut world = World::new(2);
    world.epoch = 2;
    assert_eq!(
        refused(&world.attach(&person("bob"), 1, None)),
        Code::WrongShard
    );
    world.epoch = 1;
    world.attach(&person("bob"), 1, None);
}

#[test]
fn newer_settings_win_and_the_first_name_the_incarnation() {
    let mut world = World::bare(settings(1));
    let shard = ShardId(1);
    for (version, stands, told) in [(2, 2, true), (1, 2, false), (2, 2, false), (3, 3, true)] {
        let effects = world.apply(shard, settings(version), &Bytes::new());
        let notice = matches!(effects.notices[..], [Notice::Settings(_)]);
        assert_eq!(notice, told, "version {version}");
        let store = &world.stores[&shard];
        assert_eq!(current(store).unwrap().unwrap().version, stands);
        assert_eq!(incarnation(store), Ok(42));
    }
}

#[test]
fn settings_without_a_map_are_refused() {
    let mut world = World::new(1);
    for shards in [0, 4096] {
        let wrong = Settings {
            shards,
            ..settings(9)
        };
        assert_eq!(
            refused(&world.apply(ShardId(1), wrong, &Bytes::new())),
            Code::InvalidArgument
        );
    }
}

#[test]
fn a_cluster_begins_once() {
    let mut world = World::bare(settings(1));
    let shard = ShardId(1);
    for (generation, told) in [(5, 0), (6, 1)] {
        let bootstrap = Bootstrap {
            cluster_id: Bytes::from_static(&[7; 16]),
            generation,
            shards: 64,
        };
        let effects = world.apply(shard, bootstrap, &Bytes::new());
        assert_eq!(effects.notices.len(), told);
        let stands = cluster(&world.stores[&shard]).unwrap().unwrap();
        assert_eq!(stands.generation, 5);
    }
}

#[test]
fn a_floor_only_rises_and_never_beyond_what_exists() {
    let mut world = World::new(1);
    let bob = person("bob");
    world.send(&person("alice"), &bob, "x");
    for (oldest_seq, before, stands) in [(1, 5, (1, 5)), (99, 3, (2, 5)), (1, 9, (2, 9))] {
        let floor = Floor {
            inbox: bob.user().key().0,
            oldest_seq,
            dedup_before_ms: before,
        };
        world.apply(ShardId(1), floor, &Bytes::new());
        let key = keys::head(bob.user().key());
        let row = world.stores[&ShardId(1)].get(&key).unwrap().unwrap();
        let head: Head = keys::decode(&key, &row).unwrap();
        assert_eq!((head.oldest(), head.dedup_before_ms), stands);
    }
    let nobody = Floor {
        inbox: 1,
        oldest_seq: 1,
        dedup_before_ms: START_MS,
    };
    assert_eq!(
        world.apply(ShardId(1), nobody, &Bytes::new()),
        Effects::default()
    );
}

#[test]
fn a_flush_writes_nothing_and_is_told_to_the_host_also_before_settings() {
    let mut world = World::bare(settings(1));
    let effects = world.apply(ShardId(1), crate::command::Flush {}, &Bytes::new());
    assert_eq!(effects.notices, [Notice::Flush]);
    assert_eq!(world.stores[&ShardId(1)].rows().count(), 0);
}
