//! Breaks the disk at every effect of the script, in turn, and says what was wrong
//! after each recovery. The crash tests want nothing to be wrong; the tests of
//! planted bugs want something to be.

use crate::machine::{Failed, Image, Machine, Step, script, start};
use logstore::{
    log_index::HardState,
    plant::Plant,
    storage::simulated::{Fault, SimulatedDisk},
};
use std::{
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// How a run ended: what was acknowledged, and what the step under way leads to.
pub(crate) struct Ended {
    pub(crate) disk: SimulatedDisk,
    pub(crate) before: Image,
    pub(crate) after: Image,
}

/// Runs the script until something fails, with faults planned.
pub(crate) fn run(plan: &[(u64, Fault)], plant: Option<Plant>) -> Ended {
    let disk = SimulatedDisk::new();
    plan.iter()
        .for_each(|(effect, fault)| disk.plan(*effect, *fault));
    let mut machine = match start(&disk, plant) {
        Ok(machine) => machine,
        Err(_) => {
            return Ended {
                disk,
                before: Image::new(),
                after: Image::new(),
            };
        }
    };
    for step in script() {
        let after = machine.after(step);
        if machine.step(step).is_err() {
            return Ended {
                disk,
                before: machine.image,
                after,
            };
        }
    }
    Ended {
        disk,
        before: machine.image.clone(),
        after: machine.image,
    }
}

/// Effects of the whole script.
pub(crate) fn effects() -> u64 {
    run(&[], None).disk.effects()
}

/// One sort of disaster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disaster {
    /// The power goes at the effect, and comes back.
    Power,
    /// The process ends at the effect; the power goes right after the next start.
    Kill,
    /// The effect fails with EIO; the node stops, starts, and then the power goes.
    Io,
}

/// Has a disaster at each of the effects; what was wrong, at most one line each. The seed
/// decides what of the unsynced survives.
pub(crate) fn sweep(
    disaster: Disaster,
    at: RangeInclusive<u64>,
    seed: u64,
    plant: Option<Plant>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for effect in at {
        match quietly(|| one(disaster, effect, seed, plant)) {
            Some(Ok(())) => {}
            Some(Err(what)) => wrong.push(format!("{disaster:?} at {effect}: {what}")),
            None => wrong.push(format!("{disaster:?} at {effect}: a panic")),
        }
    }
    wrong
}

/// `None` if it panics: with a planted bug that is one way of being found.
pub(crate) fn quietly<T>(attempt: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(attempt)).ok()
}

fn one(disaster: Disaster, effect: u64, seed: u64, plant: Option<Plant>) -> Result<(), Failed> {
    let fault = if matches!(disaster, Disaster::Io) {
        Fault::Io
    } else {
        Fault::PowerOff
    };
    let ended = run(&[(effect, fault)], plant);
    match disaster {
        Disaster::Power => ended.disk.crash(effect ^ seed << 32),
        Disaster::Kill | Disaster::Io => ended.disk.kill(),
    }
    let machine = recover(&ended, plant)?;
    let served = machine.image.clone();
    // What was served once is there for ever, whatever happens next.
    machine.disk.crash(effect ^ 0x55);
    let mut machine = exactly(&machine.disk, &served, plant)?;
    go_on(&mut machine)?;
    let image = machine.image.clone();
    machine.disk.crash(effect ^ 0xAA);
    exactly(&machine.disk, &image, plant)?;
    Ok(())
}

/// Starts after a disaster: the node must be at one of the two images.
pub(crate) fn recover(ended: &Ended, plant: Option<Plant>) -> Result<Machine, Failed> {
    let machine = start(&ended.disk, plant)?;
    if machine.image != ended.before && machine.image != ended.after {
        return Err(difference(&machine.image, &ended.before, &ended.after).into());
    }
    machine.check_rows()?;
    Ok(machine)
}

/// Starts, and the node must be exactly where it was.
pub(crate) fn exactly(
    disk: &SimulatedDisk,
    image: &Image,
    plant: Option<Plant>,
) -> Result<Machine, Failed> {
    let machine = start(disk, plant)?;
    if machine.image != *image {
        return Err(format!("later: {}", difference(&machine.image, image, image)).into());
    }
    machine.check_rows()?;
    Ok(machine)
}

/// A recovered node works: it writes, flushes and reuses files.
pub(crate) fn go_on(machine: &mut Machine) -> Result<(), Failed> {
    for id in [1, 2, 3] {
        if !machine.image.contains_key(&id) {
            machine.step(Step::Create(id))?;
        }
    }
    for step in [
        Step::Both(9),
        Step::Rewrite(2),
        Step::Flush(1),
        Step::Reclaim,
        Step::Entries(2, 3),
    ] {
        machine.step(step)?;
    }
    machine.check_rows()
}

fn difference(found: &Image, before: &Image, after: &Image) -> String {
    let ends = |image: &Image| -> Vec<String> {
        let shards = image.iter();
        shards
            .map(|(id, shard)| {
                let last = shard
                    .entries
                    .last()
                    .map(|entry| (entry.position, entry.term));
                let HardState { term, commit, .. } = shard.hard_state;
                format!(
                    "{id}: {}..{last:?} hard {term}/{commit} flushed {} in {}",
                    shard.first, shard.flushed, shard.segments
                )
            })
            .collect()
    };
    format!(
        "found {:?}, wanted {:?} or {:?}",
        ends(found),
        ends(before),
        ends(after)
    )
}
