use super::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_cut_of_the_bytes_gives_the_same_frames(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5_000), 0..8),
        cuts in prop::collection::vec(1usize..3_000, 1..20),
    ) {
        let mut stream = Vec::new();
        for frame in &frames {
            stream.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
            stream.extend_from_slice(frame);
        }
        let mut lengths = Lengths::new(5_000);
        let mut found = Vec::new();
        let mut cuts = cuts.iter().cycle();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            prop_assert_eq!(lengths.feed(now, &mut found), Ok(()));
            rest = later;
        }
        prop_assert!(found.iter().map(|frame| &frame[..]).eq(frames.iter().map(|frame| &frame[..])));
        prop_assert!(lengths.partial.is_none(), "nothing is held afterwards");
    }
}

#[test]
fn a_frame_beyond_the_limit_is_refused_by_its_length() {
    let mut lengths = Lengths::new(10);
    let mut frames = Vec::new();
    let bytes = [&[0, 0, 0, 1, 7][..], &[0xff, 0xff, 0xff, 0xff, 1]].concat();
    assert_eq!(
        lengths.feed(&bytes, &mut frames),
        Err(TooLong(u32::MAX as usize))
    );
    assert_eq!(
        frames,
        [Bytes::from_static(&[7])],
        "what came before it is whole"
    );
}

#[test]
fn a_promised_length_allocates_nothing_before_it_comes() {
    let mut lengths = Lengths::new(1 << 30);
    let mut frames = Vec::new();
    lengths
        .feed(&[0x20, 0, 0, 0, 1, 2, 3], &mut frames)
        .unwrap();
    assert!(lengths.partial.as_ref().unwrap().frame.capacity() < 64);
    assert!(frames.is_empty());
}
