//! What a stranger's bytes meet first, fuzzed: the WebSocket codec, the upgrade, the scan
//! and decoding of protobuf, and JSON.
//!
//! Inputs are those of `corpus/`, a folder a target, changed at random: a byte, a cut, a
//! repetition, a splice with another. A coverage-guided fuzzer would need another
//! toolchain than the pinned one; what one finds elsewhere goes into the corpus, which is
//! run unchanged first. `CHAT_FUZZ_CASES` says how many inputs are tried.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod corpus;
mod targets;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use self::corpus::{Change, Corpus};

/// Inputs that are tried when nobody says how many.
const CASES: u32 = 4_000;
/// Changes of one input.
const CHANGES: usize = 6;

fn fuzz(name: &str, target: fn(&[u8])) {
    let corpus = Corpus::read(name);
    corpus.inputs().for_each(target);
    let cases = std::env::var("CHAT_FUZZ_CASES")
        .ok()
        .map_or(CASES, |cases| {
            cases.parse().expect("CHAT_FUZZ_CASES is a number")
        });
    let mut runner = TestRunner::new(Config {
        cases,
        // What fails is a new file of the corpus, and not of proptest's own.
        failure_persistence: None,
        ..Config::default()
    });
    let inputs = (
        any::<prop::sample::Index>(),
        prop::collection::vec(any::<Change>(), 0..CHANGES),
    );
    runner
        .run(&inputs, |(first, changes)| {
            target(&corpus.changed(first, &changes));
            Ok(())
        })
        .unwrap();
}

#[test]
fn any_bytes_are_websocket_messages_or_a_violation_however_they_are_cut() {
    fuzz("websocket", targets::websocket);
}

#[test]
fn any_bytes_are_an_upgrade_or_a_refusal_and_never_ambiguous() {
    fuzz("upgrade", targets::upgrade);
}

#[test]
fn any_bytes_are_a_frame_or_malformed_in_protobuf() {
    fuzz("protobuf", targets::protobuf);
}

#[test]
fn any_text_is_a_frame_or_malformed_in_json() {
    fuzz("json", targets::json);
}
