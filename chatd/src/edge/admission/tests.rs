use super::*;

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn admission(connections: usize, handshakes: usize) -> Arc<Admission> {
    let caps = Caps {
        connections,
        handshakes,
        per_address_per_second: 10,
        per_address_burst: 5,
    };
    Arc::new(Admission::new(caps, Arc::new(Metrics::new())))
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
    assert_eq!((admission.connections(), admission.handshakes()), (0, 0));
}

#[test]
fn half_open_handshakes_are_bounded_by_themselves() {
    let admission = admission(100, 3);
    let mut places: Vec<_> = (0..3).map(|_| admission.admit(LOCAL, 0).unwrap()).collect();
    assert_eq!(admission.admit(LOCAL, 0).err(), Some(NoPlace::Handshakes));
    assert_eq!(admission.connections(), 3, "the refused one holds no place");
    places[0].established();
    assert!(admission.admit(LOCAL, 0).is_ok());
}

#[test]
fn an_address_gets_its_burst_and_then_its_rate_and_loopback_is_free() {
    let admission = admission(1_000, 1_000);
    let from = |text: &str, now_ms| admission.admit(text.parse().unwrap(), now_ms).is_ok();
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
            let address = format!("2001:db8::{host:x}").parse().unwrap();
            admission.admit(address, 0).is_ok()
        })
        .count();
    assert_eq!(admitted, 5);
}

#[test]
fn remembered_addresses_are_bounded_and_newcomers_then_share() {
    let caps = Caps {
        connections: 1,
        handshakes: 1,
        per_address_per_second: 1,
        per_address_burst: 2,
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
