//! Each bug that can be planted in the log is found by the crash and flip tests.
//! (`tests/segments` has those of segments and probes that need no crash.)

use crate::{
    flips::flip_all,
    sweep::{Disaster, effects, sweep},
};
use logstore::plant::Plant;

fn found_by_crashes(plant: Plant, disaster: Disaster) {
    // It is enough to find it once; most are found at many effects.
    let found =
        (1..=effects()).any(|effect| !sweep(disaster, effect..=effect, Some(plant)).is_empty());
    assert!(found, "{plant:?} was not found by {disaster:?}");
}

#[test]
fn a_skipped_directory_sync_is_found() {
    found_by_crashes(Plant::SkipDirSync, Disaster::Power);
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    found_by_crashes(Plant::AckBeforeSync, Disaster::Power);
}

#[test]
fn a_retried_sync_is_found() {
    found_by_crashes(Plant::RetrySync, Disaster::Io);
}

#[test]
fn a_tail_that_is_not_copied_is_found() {
    found_by_crashes(Plant::NoTailCopy, Disaster::Io);
}

#[test]
fn a_file_reused_before_the_manifest_is_found() {
    found_by_crashes(Plant::RecycleBeforeManifest, Disaster::Power);
}

#[test]
fn a_manifest_in_one_slot_is_found() {
    found_by_crashes(Plant::ManifestInOneSlot, Disaster::Power);
}

#[test]
fn copies_out_of_order_are_found() {
    found_by_crashes(Plant::MovedOutOfOrder, Disaster::Power);
}

#[test]
fn segments_without_a_sync_are_found() {
    found_by_crashes(Plant::SkipSegmentSync, Disaster::Power);
    found_by_crashes(Plant::SkipSegmentDirSync, Disaster::Power);
}

#[test]
fn a_checksum_without_lengths_and_headers_is_found() {
    assert!(!flip_all(true, Some(Plant::CrcWithoutLength)).is_empty());
}

#[test]
fn unchecked_bodies_are_found() {
    assert!(!flip_all(true, Some(Plant::BodyUnchecked)).is_empty());
}

#[test]
fn proven_damage_that_is_cut_like_a_torn_tail_is_found() {
    assert!(!flip_all(true, Some(Plant::CutProvenDamage)).is_empty());
}
