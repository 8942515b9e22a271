//! Golden values: what is stored, and what placement depends on, for ever. They were
//! computed by an independent program.

use bytes::Bytes;
use chat_wire::{
    body::{self, SCHEME_GROUP_CHANGE},
    event::{Event, EventError, Header, Kind, VERSION},
    ids::{ClientId, ConversationId, GroupId, InboxKey, MsgId, ShardId, UserId},
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn user_ids_have_their_golden_values() {
    for (app, sub, id) in [
        ("default", "alice", 0x652f_20a1_8513_6e2f),
        ("default", "bob", 0x222a_0e19_4648_c14d),
        ("shop", "alice", 0x4405_14bb_b334_5ff9),
        ("", "", 0x71e0_a991_7356_4931),
        ("default", "Ünï 😀", 0x09e6_de08_6b34_1e9f),
    ] {
        assert_eq!(UserId::of(app, sub), UserId(id), "{app} {sub}");
    }
}

#[test]
fn group_ids_have_their_golden_values() {
    let op = ClientId(*b"\x01\x93\x00\x00\x00\x01\x70\x00\x80\x00\x00\x00\x00\x00\x00\x2a");
    for (creator, id) in [
        (1, 0xc7f0_0c28_e12a_c8f9),
        (0x7fff_ffff_ffff_ffff, 0x9e20_8ee6_e565_04b9),
    ] {
        assert_eq!(GroupId::of(UserId(creator), op), GroupId(id));
    }
}

#[test]
fn inbox_keys_have_their_golden_values() {
    let key = UserId::of("default", "alice").key();
    assert_eq!(key, InboxKey(0x8527_f35a_2709_5b32));
}

#[test]
fn a_message_id_has_its_golden_bits() {
    let id = MsgId::new(1, ShardId(2), 3);
    assert_eq!(id.0, (1 << 22) | (2 << 10) | 3);
    assert_eq!(id.unix_ms(), 1_735_689_600_001);
}

#[test]
fn a_stored_header_has_its_golden_bytes() {
    let header = Header {
        kind: Kind::Own,
        flags: 0,
        msg_id: MsgId(0x0102_0304_0506_0708),
        conversation: ConversationId(0x1112_1314_1516_1718),
        sender: UserId(0x2122_2324_2526_2728),
        group_seq: 0x3132_3334_3536_3738,
        sender_name: Bytes::from_static("Zoë".as_bytes()),
    };
    let golden = concat!(
        "010200",           // version, kind, flags
        "0102030405060708", // msg_id
        "1112131415161718", // conversation
        "2122232425262728", // sender
        "3132333435363738", // group_seq
        "04",               // length of the name
        "5a6fc3ab",         // the name
    );
    assert_eq!(hex(&header.encode()), golden);
}

#[test]
fn a_stored_body_has_its_golden_bytes() {
    let golden = concat!(
        "0001",                                                             // scheme
        "0000",                                                             // flags
        "00000005",                                                         // length
        "09090909090909090909090909090909",                                 // salt
        "52c26d7502b6c43123cd013cd3bcce47030c2ffbf17401eed04672c5ce58c9e8", // commitment
        "68656c6c6f",                                                       // content
    );
    let stored = body::seal(SCHEME_GROUP_CHANGE, [9; 16], b"hello");
    assert_eq!(hex(&stored), golden);
}

#[test]
fn an_event_of_a_newer_format_is_refused_by_its_version() {
    let header = Bytes::from(vec![VERSION + 1; 60]);
    assert_eq!(
        Header::decode(&header),
        Err(EventError::Version(VERSION + 1))
    );
}

#[test]
fn an_event_of_an_unknown_kind_or_with_a_damaged_body_is_refused() {
    let mut header = vec![0; 36];
    header[0] = VERSION;
    header[1] = 4;
    assert!(matches!(
        Header::decode(&header.clone().into()),
        Err(EventError::Damaged(_))
    ));
    header[1] = 1;
    let cut = body::seal(0, [0; 16], b"hello").slice(..60);
    assert!(matches!(
        Event::from_row(1, &header.into(), &cut),
        Err(EventError::Damaged(_))
    ));
}
