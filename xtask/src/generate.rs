//! Files that are written from code, and the check that they still are what the code says.

use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};

use crate::{root, steps::cargo};

/// A file and the command whose output it is.
const GENERATED: &[(&str, &[&str])] = &[(
    "docs/configuration.md",
    &[
        "run",
        "--quiet",
        "--locked",
        "--package",
        "chatd",
        "--bin",
        "chatd",
        "--",
        "--print-configuration",
    ],
)];

pub(crate) fn run(check: bool) -> anyhow::Result<ExitCode> {
    let mut drifted = false;
    for (path, arguments) in GENERATED {
        let output = cargo(arguments)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("what writes {path} does not start"))?;
        if !output.status.success() {
            bail!("what writes {path} failed: {}", output.status);
        }
        let file = root().join(path);
        // A file that is not there yet differs from everything.
        let present = std::fs::read(&file).unwrap_or_default();
        if present == output.stdout {
            println!("--- {path}: up to date");
        } else if check {
            drifted = true;
            println!("--- {path}: FAILED, not what the code says: run `cargo xtask generate`");
        } else {
            std::fs::write(&file, &output.stdout)
                .with_context(|| format!("cannot write {path}"))?;
            println!("--- {path}: written");
        }
    }
    Ok(if drifted {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
