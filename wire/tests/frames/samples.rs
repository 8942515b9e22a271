//! Golden samples: every frame, in both encodings, as version 1 writes it.
//!
//! `tests/samples/<name>.json` and `<name>.hex` must keep decoding for ever. A new
//! frame needs a sample: add it below, then run once with `CHAT_WIRE_WRITE_SAMPLES=1`
//! and commit what appears. A file that exists is never written again.

mod data;

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use bytes::Bytes;
use chat_wire::{
    codec::{Encoding, decode, encode},
    error::Code,
    frame::{Body, Gap},
};

use crate::generator;
use data::samples;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        text.extend(line.iter().map(|byte| format!("{byte:02x}")));
        text.push('\n');
    }
    text
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| {
            let digits = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
        })
        .collect::<Vec<_>>()
        .into()
}

#[test]
fn every_frame_of_the_schema_has_a_sample() {
    let samples = samples();
    let without: Vec<_> = generator::kinds()
        .iter()
        .map(|kind| kind.name())
        .filter(|kind| !samples.contains_key(kind))
        .collect();
    assert_eq!(without, Vec::<&str>::new(), "frames without a sample");
    let kinds: BTreeSet<_> = generator::kinds().iter().map(|kind| kind.name()).collect();
    for name in samples.keys() {
        let kind = name.split('-').next().unwrap();
        assert!(kinds.contains(kind), "{name} is no frame of the schema");
    }
}

#[test]
fn every_sample_decodes_to_its_frame_and_is_written_as_it_was() {
    for (name, frame) in samples() {
        for (encoding, kind) in [(Encoding::Json, "json"), (Encoding::Proto, "hex")] {
            let path = folder().join(name).with_extension(kind);
            let bytes = encode(encoding, &frame);
            if !path.exists() && env::var_os("CHAT_WIRE_WRITE_SAMPLES").is_some() {
                let text = match encoding {
                    Encoding::Json => String::from_utf8(bytes.to_vec()).unwrap() + "\n",
                    Encoding::Proto => hex(&bytes),
                };
                fs::write(&path, text).unwrap();
            }
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("no sample {}: {error}", path.display()));
            let stored = match encoding {
                Encoding::Json => Bytes::from(text.trim_end().to_owned()),
                Encoding::Proto => unhex(&text),
            };
            assert_eq!(
                decode(encoding, &stored, 1 << 20).as_ref(),
                Ok(&frame),
                "{name}"
            );
            assert_eq!(stored, bytes, "{name} is written differently now");
        }
    }
}

#[test]
fn no_sample_was_left_behind_by_the_tests() {
    let known = samples();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            known.contains_key(name),
            "{} is decoded by no test",
            path.display()
        );
    }
}

#[test]
fn json_is_protobufs_canonical_mapping() {
    let welcome = encode(Encoding::Json, &samples()["welcome"]);
    let welcome: serde_json::Value = serde_json::from_slice(&welcome).unwrap();
    let welcome = &welcome["welcome"];
    assert_eq!(
        welcome["heartbeatMs"], 270_000,
        "32-bit numbers are numbers"
    );
    assert_eq!(welcome["inboxHead"], "18446744073709551615");
    assert_eq!(welcome["resumeToken"], "AAEC");
    assert_eq!(welcome["limits"]["frameBytes"], 262_144);

    let event = encode(Encoding::Json, &samples()["event"]);
    let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
    let change = &event["event"]["events"][1]["groupChange"];
    assert_eq!(change["kind"], "KIND_ADDED");
    assert_eq!(change["members"][0]["role"], "ROLE_MEMBER");

    let gap = encode(Encoding::Json, &Body::Gap(Gap::default()).into());
    assert_eq!(gap, r#"{"gap":{}}"#, "a default value is left out");
}

#[test]
fn json_is_read_in_every_form_that_the_mapping_allows() {
    let read = |text: &str| {
        decode(Encoding::Json, &Bytes::from(text.to_owned()), 1000)
            .unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
    };
    // 64-bit numbers as numbers, names of the schema, base64 with - and _, without =.
    let canonical = read(r#"{"hello":{"device":"5","resume":{"resumeToken":"+/8="}}}"#);
    for text in [
        r#"{"hello":{"device":5,"resume":{"resumeToken":"+/8="}}}"#,
        r#"{"hello":{"device":"5","resume":{"resume_token":"-_8="}}}"#,
        r#" { "hello" : {"resume":{"resumeToken":"+/8"} ,"device":5 } } "#,
    ] {
        assert_eq!(read(text), canonical, "{text}");
    }
    assert_eq!(
        read(r#"{"credit":{"lane":"LANE_BULK"}}"#),
        read(r#"{"credit":{"lane":1}}"#)
    );
}

/// `null` for a default value and `5.0` or `5e0` for a whole number were MALFORMED.
#[test]
fn json_with_nulls_and_whole_numbers_in_any_spelling_is_read() {
    let read = |text: &str| {
        decode(Encoding::Json, &Bytes::from(text.to_owned()), 1000).map_err(|refusal| refusal.code)
    };
    let plain = read(r#"{"req":5,"history":{"conversation":"7","before":"9","limit":3}}"#);
    assert!(plain.is_ok());
    for text in [
        r#"{"req":5.0,"history":{"conversation":7,"before":9e0,"limit":3.0}}"#,
        r#"{"req":0.5e1,"history":{"conversation":70e-1,"before":"9","limit":3,"after":null}}"#,
        r#"{"hello":null,"req":5,"history":{"conversation":"7","before":"9","limit":3,"x":null}}"#,
    ] {
        assert_eq!(read(text), plain, "{text}");
    }
    let empty = read(r#"{"req":1,"conversations":{}}"#);
    assert_eq!(
        read(r#"{"req":1,"conversations":{"cursor":null,"limit":null}}"#),
        empty
    );
    for text in [
        r#"{"req":5.5,"ping":{}}"#,
        r#"{"req":-1.0,"ping":{}}"#,
        r#"{"req":1e10,"ping":{}}"#,
        r#"{"req":5.0,"ping":{},}"#,
        r#"{"req":5.0 "ping":{}}"#,
        r#"{"req":5.0,"req":6,"ping":{}}"#,
        r#"{"presenceSubscribe":{"users":[null]}}"#,
        r#"{"credit":{"lane":"LANE_OF_TOMORROW"}}"#,
        r#"{"credit":{"lane":7}}"#,
        r#"null"#,
    ] {
        assert_eq!(read(text), Err(Code::Malformed), "{text}");
    }
}
