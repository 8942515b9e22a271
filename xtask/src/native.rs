//! What the tests need of the system besides Rust. As root it is installed; otherwise the
//! one line to run is printed, and tests that lack something say so and are counted as skipped.

use std::{path::PathBuf, process::Command};

use crate::{
    root,
    steps::{answers, cargo, step},
};

/// The version that was tried with `deny.toml` and the pinned toolchain.
const CARGO_DENY: &str = "0.20.2";

struct Need {
    package: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
}

const NEEDS: &[Need] = &[
    Need {
        package: "gcc",
        program: "cc",
        arguments: &["--version"],
    },
    Need {
        package: "python3-venv",
        program: "python3",
        arguments: &["-c", "import venv, ensurepip"],
    },
    Need {
        package: "python3-pip",
        program: "python3",
        arguments: &["-m", "pip", "--version"],
    },
    Need {
        package: "strace",
        program: "strace",
        arguments: &["-V"],
    },
    Need {
        package: "iproute2",
        program: "ip",
        arguments: &["-V"],
    },
];

/// Installs or names what is missing. Never fails: what cannot be had shows later as
/// a skipped test.
pub(crate) fn ensure() {
    let missing: Vec<&str> = NEEDS
        .iter()
        .filter(|need| !answers(need.program, need.arguments))
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return;
    }
    let line = format!(
        "apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
    if !answers("apt-get", &["--version"]) {
        println!(
            "missing here: {}; some tests will be skipped",
            missing.join(", ")
        );
        return;
    }
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    if !root {
        println!("some tests need more packages; run this once:\n  sudo {line}");
        return;
    }
    println!("--- installing {}", missing.join(", "));
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()
            .is_ok_and(|status| status.success())
    };
    let mut install = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    install.extend(&missing);
    // Lists may be old or absent on a fresh machine: then they are got first.
    let installed = apt(&install) || (apt(&["update", "--quiet"]) && apt(&install));
    if !installed {
        println!(
            "could not install {}; some tests will be skipped",
            missing.join(", ")
        );
    }
}

/// cargo-deny: the user's own, or one that is built below `target` once. None if it cannot
/// be had.
///
/// # Errors
/// If cargo does not start.
pub(crate) fn cargo_deny() -> anyhow::Result<Option<PathBuf>> {
    if answers("cargo-deny", &["--version"]) {
        return Ok(Some("cargo-deny".into()));
    }
    let tools = root().join("target/tools");
    let program = tools.join("bin/cargo-deny");
    if !program.is_file() {
        // Unoptimised: it takes a second to check what it took two minutes to optimise for.
        let mut install = cargo(&["install", "cargo-deny", "--version", CARGO_DENY]);
        install
            .args(["--locked", "--debug", "--quiet", "--root"])
            .arg(&tools)
            .env("CARGO_TARGET_DIR", tools.join("build"));
        let installed = step("installing cargo-deny", &mut install)?;
        // Half a gigabyte that nobody needs again; left behind it does no harm.
        drop(std::fs::remove_dir_all(tools.join("build")));
        if !installed {
            return Ok(None);
        }
    }
    Ok(Some(program))
}
