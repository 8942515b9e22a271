use super::*;

#[test]
fn mix64_has_its_golden_values() {
    assert_eq!(mix64(0), 0);
    assert_eq!(mix64(1), 0x5692_161d_100b_05e5);
    assert_eq!(mix64(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
    assert_eq!(mix64(u64::MAX), 0xb4d0_55fc_f2cb_bd7b);
}

#[test]
fn a_message_id_keeps_its_parts_and_its_order() {
    let id = MsgId::new(59_875_200_123, ShardId(4095), 1023);
    assert_eq!(
        (id.ms(), id.shard(), id.counter()),
        (59_875_200_123, ShardId(4095), 1023)
    );
    assert!(id.0 > 0);
    assert!(MsgId::new(MSG_ID_MAX_MS, ShardId(MAX_SHARD), 1023).0 == i64::MAX);
    assert!(MsgId::new(2, ShardId(0), 0) > MsgId::new(1, ShardId(4095), 1023));
}

#[test]
fn a_user_id_depends_on_where_the_app_ends() {
    assert_ne!(UserId::of("ab", "c"), UserId::of("a", "bc"));
    assert_eq!(UserId::of("default", "alice").0 >> 63, 0);
}

#[test]
fn a_retried_creation_names_the_same_group() {
    let op = ClientId([7; 16]);
    assert_eq!(GroupId::of(UserId(5), op), GroupId::of(UserId(5), op));
    assert_ne!(GroupId::of(UserId(5), op), GroupId::of(UserId(6), op));
    assert!(
        ConversationId::from(GroupId::of(UserId(5), op))
            .group()
            .is_some()
    );
}

#[test]
fn only_uuids_of_version_7_are_client_ids() {
    let v7 = uuid::Uuid::now_v7();
    let id = ClientId::from_slice(v7.as_bytes()).expect("a v7");
    assert!(id.unix_ms() > MSG_ID_EPOCH_MS);
    assert_eq!(ClientId::from_slice(&[0; 16]), None);
    assert_eq!(ClientId::from_slice(&v7.as_bytes()[..15]), None);
}
