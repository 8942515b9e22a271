use super::*;
use proptest::prelude::*;

fn header() -> FrameHeader {
    FrameHeader {
        epoch: 3,
        lsn: 9,
        previous_lsn: 8,
        synced_lsn: 8,
        file: 2,
        block: 7,
        ..Default::default()
    }
}

fn record(position: u64, body: &[u8]) -> Record<'_> {
    Record {
        header: RecordHeader {
            shard: 5,
            kind: kind::ENTRY,
            replica: 6,
            position,
            term: 2,
            needs: 1,
            ..Default::default()
        },
        body,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_frame_reads_back_and_every_flipped_bit_of_it_is_found(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        bit in any::<prop::sample::Index>(),
    ) {
        let records: Vec<_> = bodies.iter().enumerate().map(|(at, body)| record(at as u64, body)).collect();
        let mut buffer = Vec::new();
        encode(&mut buffer, header(), &records);
        prop_assert_eq!(buffer.len() % BLOCK, 0);
        let mut heads = Vec::new();
        let read = decode(&buffer, &mut heads).unwrap();
        prop_assert_eq!(read.count as usize, bodies.len());
        let salt = Salt::new(read.epoch, read.lsn);
        let start = HEADER + bodies.len() * RECORD;
        let end = start + read.body_bytes as usize;
        let mut at = start;
        for (index, head) in heads.iter().enumerate() {
            let body = &buffer[at..at + head.length as usize];
            prop_assert_eq!(body, &bodies[index][..]);
            prop_assert_eq!(salt.body_crc(index, body), head.body_crc);
            at += body.len();
        }
        let bit = bit.index(end * 8);
        buffer[bit / 8] ^= 1 << (bit % 8);
        match decode(&buffer, &mut heads) {
            Err(_) => prop_assert!(bit / 8 < start),
            Ok(read) => {
                prop_assert!(bit / 8 >= start);
                let salt = Salt::new(read.epoch, read.lsn);
                let mut at = start;
                let damaged = heads.iter().enumerate().any(|(index, head)| {
                    let body = &buffer[at..at + head.length as usize];
                    at += body.len();
                    salt.body_crc(index, body) != head.body_crc
                });
                prop_assert!(damaged);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_allocate_much(bytes in prop::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic && bytes.len() > 4 {
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        }
        let mut heads = Vec::new();
        prop_assert!(decode(&bytes, &mut heads).is_err());
        prop_assert!(heads.capacity() < 1000);
    }
}

#[test]
fn the_same_body_has_another_checksum_in_another_frame_or_place() {
    let here = Salt::new(1, 1).body_crc(0, b"body");
    assert_ne!(here, Salt::new(2, 1).body_crc(0, b"body"));
    assert_ne!(here, Salt::new(1, 2).body_crc(0, b"body"));
    assert_ne!(here, Salt::new(1, 1).body_crc(1, b"body"));
}

#[test]
fn a_frame_of_a_newer_format_is_told_from_damage() {
    let mut buffer = Vec::new();
    encode(&mut buffer, header(), &[record(1, b"x")]);
    buffer[4..6].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    assert_eq!(decode(&buffer, &mut Vec::new()), Err(NotAFrame::Invalid));
    let crc = header_crc(&buffer[..HEADER + RECORD]);
    buffer[76..80].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(
        decode(&buffer, &mut Vec::new()),
        Err(NotAFrame::Newer { format: FORMAT + 1 })
    );
}
