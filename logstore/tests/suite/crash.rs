//! The crash tests: a disaster at every effect of the script, and at every effect
//! of the recovery from it, twice.

use crate::{
    machine::start,
    sweep::{Disaster, effects, exactly, go_on, recover, run, sweep},
};
use logstore::storage::simulated::Fault;

fn nothing(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} wrong, the first: {}",
        wrong.len(),
        wrong[0]
    );
}

#[test]
fn the_script_does_what_the_model_says_and_reuses_files() {
    let ended = run(&[], None);
    assert_eq!(ended.before, ended.after);
    let reused = ended
        .disk
        .files()
        .iter()
        .filter(|path| path.starts_with("wal/"))
        .count();
    assert!(reused <= 14, "{reused} log files");
    let image = ended.before;
    assert!(image[&1].segments >= 6 && image[&3].flushed > 0);
    ended.disk.kill();
    exactly(&ended.disk, &image, None).unwrap();
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes_at_any_effect() {
    nothing(&sweep(Disaster::Power, 1..=effects(), 0, None));
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed_at_any_effect() {
    nothing(&sweep(Disaster::Kill, 1..=effects(), 0, None));
}

#[test]
fn nothing_acknowledged_is_lost_when_any_effect_fails() {
    nothing(&sweep(Disaster::Io, 1..=effects(), 0, None));
}

#[test]
fn a_recovery_that_crashes_twice_ends_where_one_recovery_does() {
    // Every 7th effect of the script, every effect of each recovery: all of them take two
    // minutes.
    for effect in (1..=effects()).step_by(7) {
        let ended = run(&[(effect, Fault::PowerOff)], None);
        ended.disk.crash(effect);
        for first in 1.. {
            let disk = ended.disk.duplicate();
            disk.plan(first, Fault::PowerOff);
            let Err(_) = start(&disk, None) else { break };
            disk.crash(effect * 1000 + first);
            for second in [2, 5, 6, 8] {
                let again = disk.duplicate();
                again.plan(second, Fault::PowerOff);
                drop(start(&again, None));
                again.crash(effect * 7 + second);
                let then = crate::sweep::Ended {
                    disk: again.clone(),
                    before: ended.before.clone(),
                    after: ended.after.clone(),
                };
                let mut machine = recover(&then, None)
                    .unwrap_or_else(|error| panic!("{effect}, {first}, {second}: {error}"));
                go_on(&mut machine).unwrap();
            }
        }
    }
}
