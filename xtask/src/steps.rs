//! Running cargo from cargo: the same cargo, in the root, with what it prints passed on.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::Context as _;

use crate::root;

/// The cargo that runs this.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null());
    command
}

/// Runs a step, says how long it took, and whether it succeeded.
pub(crate) fn step(name: &str, command: &mut Command) -> anyhow::Result<bool> {
    println!("--- {name}");
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("{name} does not start"))?;
    let seconds = start.elapsed().as_secs_f32();
    if status.success() {
        println!("--- {name}: ok in {seconds:.0} s");
    } else {
        println!("--- {name}: FAILED after {seconds:.0} s ({status})");
    }
    Ok(status.success())
}

/// Whether a program can be started and says it is well.
pub(crate) fn answers(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
