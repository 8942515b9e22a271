//! The queue's file against cuts, flipped bytes and other clients.

use proptest::prelude::*;

use super::*;

/// 2027-01-15, so that ids of these tests are within the last 24 hours.
const NOW_MS: u64 = 1_800_000_000_000;

fn id(number: u32) -> ClientId {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&NOW_MS.to_be_bytes()[2..]);
    bytes[6] = 0x70;
    bytes[8] = 0x80;
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    ClientId::from_slice(&bytes).unwrap()
}

fn message(number: u32, text: &str) -> (ClientId, Box<frame::Send>) {
    let id = id(number);
    let send = frame::Send {
        client_msg_id: Bytes::copy_from_slice(&id.0),
        content: Some(frame::Content {
            kind: Some(frame::content::Kind::Text(text.to_owned())),
        }),
        ..frame::Send::default()
    };
    (id, Box::new(send))
}

fn numbers(messages: &[(ClientId, frame::Send)]) -> Vec<u32> {
    messages
        .iter()
        .map(|(id, _)| u32::from_be_bytes(id.0[12..].try_into().unwrap()))
        .collect()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outgoing.queue");
    (folder, path)
}

/// A file with five messages, of which 2 is acknowledged and 4 refused.
fn sample(path: &Path) {
    let (mut log, _) = Log::open(path, NOW_MS).unwrap();
    for number in 1..=5 {
        log.append(&[message(number, "text")], &[], NOW_MS).unwrap();
    }
    log.append(&[], &[(id(2), true), (id(4), false)], NOW_MS)
        .unwrap();
}

#[test]
fn messages_wait_until_their_final_answer_and_acknowledged_ones_are_kept() {
    let (_folder, path) = folder();
    sample(&path);
    let (_, recovered) = Log::open(&path, NOW_MS).unwrap();
    assert_eq!(numbers(&recovered.waiting), [1, 3, 5]);
    assert_eq!(numbers(&recovered.kept), [2]);
    assert_eq!(recovered.damaged, 0);
    let day_later = NOW_MS + 25 * 60 * 60 * 1000;
    let (_, recovered) = Log::open(&path, day_later).unwrap();
    assert_eq!(numbers(&recovered.waiting), [1, 3, 5], "these never expire");
    assert_eq!(numbers(&recovered.kept), [] as [u32; 0]);
}

#[test]
fn a_file_cut_anywhere_keeps_every_whole_record_and_can_be_written_again() {
    let (_folder, path) = folder();
    sample(&path);
    let whole = fs::read(&path).unwrap();
    let mut last = 0;
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (mut log, recovered) = Log::open(&path, NOW_MS).unwrap();
        let count = recovered.waiting.len() + recovered.kept.len();
        assert_eq!(recovered.damaged, 0, "cut at {cut}");
        assert!(
            count >= last || count >= 4,
            "cut at {cut}: {count} after {last}"
        );
        last = count;
        log.append(&[message(9, "after")], &[], NOW_MS).unwrap();
        drop(log);
        let (_, again) = Log::open(&path, NOW_MS).unwrap();
        assert_eq!(numbers(&again.waiting).last(), Some(&9), "cut at {cut}");
        assert_eq!(again.waiting.len(), recovered.waiting.len() + 1);
    }
}

#[test]
fn a_flipped_byte_costs_at_most_its_own_record_and_is_never_sent() {
    let (_folder, path) = folder();
    sample(&path);
    let whole = fs::read(&path).unwrap();
    for at in HEADER_BYTES..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let (_, recovered) = Log::open(&path, NOW_MS).unwrap();
        let all: Vec<_> = recovered.waiting.iter().chain(&recovered.kept).collect();
        assert!(all.len() >= 3, "byte {at} cost more than its record");
        for (id, send) in all {
            let number = u32::from_be_bytes(id.0[12..].try_into().unwrap());
            assert_eq!(*send, *message(number, "text").1, "byte {at}");
        }
        // All but the last record have whole ones behind them.
        if recovered.damaged == 0 {
            let last_record = RECORD_HEADER_BYTES + 17;
            assert!(at >= whole.len() - last_record, "byte {at} went unseen");
        }
    }
}

#[test]
fn a_second_client_is_told_that_the_file_is_in_use() {
    let (_folder, path) = folder();
    let (log, _) = Log::open(&path, NOW_MS).unwrap();
    assert!(matches!(
        Log::open(&path, NOW_MS),
        Err(QueueError::InUse { .. })
    ));
    drop(log);
    Log::open(&path, NOW_MS).unwrap();
}

#[test]
fn another_file_is_refused_and_left_alone() {
    let (_folder, path) = folder();
    fs::write(&path, "these are somebody's notes, not a queue").unwrap();
    assert!(matches!(
        Log::open(&path, NOW_MS),
        Err(QueueError::Format { .. })
    ));
    assert!(fs::read_to_string(&path).unwrap().contains("notes"));
}

#[test]
fn a_file_that_is_mostly_dead_is_rewritten_and_stays_small() {
    let (_folder, path) = folder();
    let (mut log, _) = Log::open(&path, NOW_MS).unwrap();
    let text = "x".repeat(10_000);
    log.append(&[message(1, &text)], &[], NOW_MS).unwrap();
    for number in 2..600 {
        log.append(&[message(number, &text)], &[], NOW_MS).unwrap();
        log.append(&[], &[(id(number), false)], NOW_MS).unwrap();
        let size = fs::metadata(&path).unwrap().len();
        assert!(size < 2 * COMPACT_BYTES, "{size} bytes at {number}");
    }
    log.append(&[message(600, &text)], &[], NOW_MS).unwrap();
    log.append(&[], &[(id(600), true)], NOW_MS).unwrap();
    drop(log);
    let (_, recovered) = Log::open(&path, NOW_MS).unwrap();
    assert_eq!(numbers(&recovered.waiting), [1]);
    assert_eq!(numbers(&recovered.kept), [600]);
}

#[test]
fn acknowledged_messages_are_kept_up_to_their_bound() {
    let (_folder, path) = folder();
    let (mut log, _) = Log::open(&path, NOW_MS).unwrap();
    let most = u32::try_from(MAX_KEPT).unwrap();
    for chunk in (0..most * 2).collect::<Vec<_>>().chunks(500) {
        let messages: Vec<_> = chunk.iter().map(|number| message(*number, "")).collect();
        let over: Vec<_> = chunk.iter().map(|number| (id(*number), true)).collect();
        log.append(&messages, &over, NOW_MS).unwrap();
        assert!(log.kept <= MAX_KEPT + MAX_KEPT / 4 + 500);
    }
    drop(log);
    let (_, recovered) = Log::open(&path, NOW_MS).unwrap();
    assert_eq!(recovered.kept.len(), MAX_KEPT);
    assert_eq!(numbers(&recovered.kept).last(), Some(&(most * 2 - 1)));
}

#[derive(Clone, Debug)]
enum Op {
    Append(usize),
    Over(usize, bool),
    Reopen,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_file_holds_what_a_list_in_memory_would(
        ops in prop::collection::vec(
            prop_oneof![
                3 => (0..40_000_usize).prop_map(Op::Append),
                3 => (0..50_usize, any::<bool>()).prop_map(|(at, acked)| Op::Over(at, acked)),
                1 => Just(Op::Reopen),
            ],
            1..120,
        )
    ) {
        let (_folder, path) = folder();
        let (mut log, _) = Log::open(&path, NOW_MS).unwrap();
        let mut waiting: Vec<u32> = Vec::new();
        let mut kept: Vec<u32> = Vec::new();
        let mut next = 0;
        for op in ops {
            match op {
                Op::Append(length) => {
                    next += 1;
                    log.append(&[message(next, &"y".repeat(length))], &[], NOW_MS).unwrap();
                    waiting.push(next);
                }
                Op::Over(at, acknowledged) if !waiting.is_empty() => {
                    let number = waiting.remove(at % waiting.len());
                    log.append(&[], &[(id(number), acknowledged)], NOW_MS).unwrap();
                    if acknowledged {
                        kept.push(number);
                    }
                }
                Op::Over(..) => {}
                Op::Reopen => {
                    drop(log);
                    let (opened, recovered) = Log::open(&path, NOW_MS).unwrap();
                    log = opened;
                    prop_assert_eq!(numbers(&recovered.waiting), waiting.clone());
                    kept.sort_unstable();
                    prop_assert_eq!(numbers(&recovered.kept), kept.clone());
                }
            }
        }
    }
}

#[tokio::test]
async fn the_thread_says_queued_only_after_the_message_can_be_read_back() {
    let (_folder, path) = folder();
    let (commands, mut receiver) = tokio::sync::mpsc::channel(8);
    let (writer, recovered) = open(path.clone(), commands.clone()).await.unwrap();
    assert_eq!(recovered, Recovered::default());
    let (id, send) = message(1, "hello");
    let (answer, _answered) = tokio::sync::oneshot::channel();
    let queued = writer.append(id, send, answer).await.unwrap();
    queued.await.unwrap().unwrap();
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.windows(5).any(|five| five == b"hello"));
    assert!(
        receiver.recv().await.is_some(),
        "and it goes to the session"
    );
    assert!(writer.over(id, false));
    writer.stop().await;
    let (_, recovered) = Log::open(&path, NOW_MS).unwrap();
    assert_eq!(recovered.waiting, []);
}
