//! What the tests need of the system besides Rust. As root it is installed; otherwise the
//! one line to run is printed, and tests that lack something say so and are counted as skipped.

use std::process::Command;

use crate::steps::answers;

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
