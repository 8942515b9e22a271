use super::{addresses::ADDRESSES, *};

const LOCAL: Source = Source::Proven(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

fn caps(connections: usize, newcomers: usize) -> Caps {
    Caps {
        connections,
        newcomers,
        reserved: 0,
        newcomers_per_address: 1_000,
        per_address_per_second: 10,
        per_address_burst: 5,
        trusted: vec!["127.0.0.0/8".parse().unwrap()],
    }
}

fn with(caps: Caps) -> Arc<Admission> {
    Arc::new(Admission::new(caps, Arc::new(Metrics::new())))
}

fn admission(connections: usize, newcomers: usize) -> Arc<Admission> {
    with(caps(connections, newcomers))
}

fn proven(address: &str) -> Source {
    Source::Proven(address.parse().unwrap())
}

fn refused(admission: &Admission, reason: &'static str) -> u64 {
    admission
        .metrics
        .connections_refused
        .get_or_create(&Reason { reason })
        .get()
}

#[test]
fn twice_as_many_connections_as_allowed_find_the_door_closed_and_then_open() {
    let admission = admission(10_000, 20_000);
    let mut places: Vec<_> = (0..20_000)
        .filter_map(|_| admission.admit(LOCAL, 0).ok())
        .collect();
    assert_eq!(places.len(), 10_000);
    assert_eq!(refused(&admission, "connections"), 10_000);
    places.truncate(9_999);
    assert!(admission.admit(LOCAL, 0).is_ok());
    drop(places);
    assert_eq!((admission.connections(), admission.newcomers()), (0, 0));
}

#[test]
fn half_open_handshakes_are_bounded_by_themselves() {
    let admission = admission(100, 3);
    let mut places: Vec<_> = (0..3).map(|_| admission.admit(LOCAL, 0).unwrap()).collect();
    assert_eq!(admission.admit(LOCAL, 0).err(), Some(NoPlace::Handshakes));
    assert_eq!(admission.connections(), 3, "the refused one holds no place");
    places[0].token_is_valid();
    assert!(admission.admit(LOCAL, 0).is_ok());
}

#[test]
fn an_address_gets_its_burst_and_then_its_rate_and_loopback_is_free() {
    let admission = admission(1_000, 1_000);
    let from = |text: &str, now_ms| admission.admit(proven(text), now_ms).is_ok();
    assert_eq!((0..20).filter(|_| from("192.0.2.1", 0)).count(), 5);
    assert!(from("192.0.2.2", 0), "another address has its own");
    assert_eq!((0..20).filter(|_| from("192.0.2.1", 300)).count(), 3);
    assert_eq!((0..20).filter(|_| from("192.0.2.1", 1_000_000)).count(), 5);
    assert_eq!((0..20).filter(|_| from("127.0.0.1", 0)).count(), 20);
    assert_eq!((0..20).filter(|_| from("::ffff:192.0.2.9", 0)).count(), 5);
}

#[test]
fn addresses_of_one_ipv6_network_share_a_bucket() {
    let admission = admission(1_000, 1_000);
    let admitted = (0..20u32)
        .filter(|host| {
            let address = format!("2001:db8::{host:x}");
            admission.admit(proven(&address), 0).is_ok()
        })
        .count();
    assert_eq!(admitted, 5);
}

#[test]
fn remembered_addresses_are_bounded_and_newcomers_then_share() {
    let caps = Caps {
        per_address_per_second: 1,
        per_address_burst: 2,
        ..caps(1, 1)
    };
    let mut addresses = Addresses::default();
    for key in 0..ADDRESSES as u128 {
        assert!(addresses.take(key, 0, &caps));
    }
    let newcomers = (0..10u128)
        .filter(|n| addresses.take((1 << 64) + n, 0, &caps))
        .count();
    assert_eq!((newcomers, addresses.buckets.len()), (2, ADDRESSES));
    // Later the old ones are full again, and forgotten.
    assert!(addresses.take(1 << 80, 10_000, &caps));
    assert!(addresses.buckets.len() < 10);
}

#[test]
fn nobody_comes_in_while_the_node_drains_or_memory_is_full() {
    let admission = admission(10, 10);
    admission.set_memory_full(true);
    assert_eq!(admission.admit(LOCAL, 0).err(), Some(NoPlace::Memory));
    admission.set_memory_full(false);
    assert!(admission.admit(LOCAL, 0).is_ok());
    admission.drain();
    assert_eq!(admission.admit(LOCAL, 0).err(), Some(NoPlace::Draining));
}

#[test]
fn silent_newcomers_do_not_keep_a_valid_token_out() {
    let admission = with(Caps {
        reserved: 2,
        ..caps(10, 100)
    });
    let mut silent: Vec<_> = (0..8).map(|_| admission.admit(LOCAL, 0).unwrap()).collect();
    // Two places are left and reserved, and for a moment nobody gives way.
    assert_eq!(admission.admit(LOCAL, 500).err(), Some(NoPlace::Handshakes));
    let mut known = Vec::new();
    // The first finds the open places taken; then there is room until all ten are.
    for ousted in [1, 1, 1, 2, 3] {
        let mut place = admission.admit(LOCAL, GRACE_MS).unwrap();
        let gone: Vec<_> = silent.iter().map(is_ousted).collect();
        assert_eq!(gone, [vec![true; ousted], vec![false; 8 - ousted]].concat());
        place.said_hello();
        place.token_is_valid();
        known.push(place);
    }
    assert_eq!((admission.connections(), admission.newcomers()), (10, 5));
    // Those that lost their places count no longer, whenever they go.
    silent.truncate(3);
    drop(silent);
    assert_eq!((admission.connections(), admission.newcomers()), (5, 0));
}

#[test]
fn who_said_hello_and_waits_for_the_server_does_not_give_way() {
    let admission = admission(10, 2);
    let waits = admission.admit(LOCAL, 0).unwrap();
    waits.said_hello();
    let silent = admission.admit(LOCAL, 5).unwrap();
    let _newcomer = admission.admit(LOCAL, 10_000).unwrap();
    assert!(!is_ousted(&waits) && is_ousted(&silent));
}

#[test]
fn a_full_server_lets_a_newcomer_in_where_a_silent_one_was() {
    let admission = admission(2, 2);
    let mut known = admission.admit(LOCAL, 0).unwrap();
    known.token_is_valid();
    let silent = admission.admit(LOCAL, 0).unwrap();
    let mut newcomer = admission.admit(LOCAL, 10_000).unwrap();
    newcomer.token_is_valid();
    assert!(is_ousted(&silent));
    assert_eq!(
        admission.admit(LOCAL, 20_000).err(),
        Some(NoPlace::Connections)
    );
    drop((known, newcomer, silent));
    assert_eq!(admission.connections(), 0);
}

#[test]
fn one_address_has_so_many_newcomers_and_as_many_valid_tokens_as_it_likes() {
    let admission = with(Caps {
        newcomers_per_address: 2,
        per_address_burst: 100,
        ..caps(100, 100)
    });
    let mut places = Vec::new();
    for _ in 0..2 {
        for _ in 0..2 {
            places.push(admission.admit(proven("192.0.2.1"), 0).unwrap());
        }
        let more = admission.admit(proven("192.0.2.1"), 0).err();
        assert_eq!(more, Some(NoPlace::Address));
        assert!(admission.admit(proven("192.0.2.2"), 0).is_ok());
        assert!(admission.admit(LOCAL, 0).is_ok(), "a trusted proxy");
        places.iter_mut().for_each(Place::token_is_valid);
    }
}

#[test]
fn forged_addresses_used_up_the_bucket_of_their_owner() {
    let admission = admission(1_000, 1_000);
    let victim: IpAddr = "192.0.2.1".parse().unwrap();
    let forged: Vec<_> = (0..96)
        .take_while(|_| !admission.must_prove(victim, 0))
        .map(|_| admission.admit(Source::Claimed(victim), 0).unwrap())
        .collect();
    assert_eq!(forged.len(), CLAIMED, "then the address has to be proven");
    assert!(
        admission.door().addresses.buckets.is_empty(),
        "forged addresses leave nothing behind"
    );
    let mut real: Vec<_> = (0..5)
        .map(|_| admission.admit(Source::Proven(victim), 0).unwrap())
        .collect();
    assert!(admission.admit(Source::Proven(victim), 0).is_err());
    // One that turns out to be real is charged then.
    real.clear();
    let other: IpAddr = "192.0.2.7".parse().unwrap();
    let mut proving: Vec<_> = (0..6)
        .map(|_| admission.admit(Source::Claimed(other), 0).unwrap())
        .collect();
    let charged = proving
        .iter_mut()
        .filter_map(|place| place.prove(0).ok())
        .count();
    assert_eq!(charged, 5);
    assert!(admission.must_prove(other, 0), "its bucket is empty");
    drop((forged, proving));
    assert_eq!((admission.connections(), admission.newcomers()), (0, 0));
}

fn is_ousted(place: &Place) -> bool {
    let waker = futures_util::task::noop_waker();
    place.poll_ousted(&Context::from_waker(&waker)).is_ready()
}
