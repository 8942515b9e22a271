//! `cargo xtask test`: everything that must hold before a change is merged, in one profile.
//!
//! The count comes from libtest's own lines. A test that cannot run here prints
//! `SKIPPED: name: why`; libtest counts it as passed, this counts it as skipped. A failed
//! step that is no test (format, lints …) counts as one failure.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::Context as _;

use crate::{
    generate, native, root,
    steps::{cargo, step},
};

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    native::ensure();
    let mut tally = Tally::default();
    // Clippy and the rest go on after a failure: one run shows everything.
    let lints = [
        ("format", &["fmt", "--all", "--check"][..]),
        (
            "clippy",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ],
        ),
        // The programs that tests start.
        (
            "build",
            &["build", "--workspace", "--bins", "--locked", "--quiet"],
        ),
    ];
    for (name, arguments) in lints {
        tally.step(step(name, &mut cargo(arguments))?);
    }
    tests(&mut tally)?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
    tally.step(step("rustdoc", doc.env("RUSTDOCFLAGS", "-D warnings"))?);
    tally.step(generate::run(true).map_or_else(
        |error| {
            println!("--- generate: FAILED: {error:#}");
            false
        },
        |code| code == ExitCode::SUCCESS,
    ));
    deny(&mut tally)?;
    println!("--- {:.1} minutes", start.elapsed().as_secs_f32() / 60.0);
    for reason in &tally.skips {
        println!("skipped: {reason}");
    }
    for name in &tally.failures {
        println!("failed: {name}");
    }
    println!("{}", tally.line());
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tests(tally: &mut Tally) -> anyhow::Result<()> {
    println!("--- tests");
    let start = Instant::now();
    let mut child = test_command()
        .spawn()
        .context("cargo test does not start")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let mut reader = Reader::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        if reader.take(&line, tally) {
            println!("{line}");
        }
    }
    let status = child.wait().context("cargo test")?;
    println!(
        "--- tests: {status} in {:.0} s",
        start.elapsed().as_secs_f32()
    );
    if !status.success() && tally.failed == 0 {
        // It did not compile, or died: there is no line that says so.
        tally.failed += 1;
        tally.failures.push(format!("cargo test: {status}"));
    }
    Ok(())
}

fn test_command() -> Command {
    let mut command = cargo(&[
        "test",
        "--workspace",
        "--locked",
        "--no-fail-fast",
        "--",
        "--show-output",
    ]);
    command.env("CHAT_TESTS_BUILT", "1").stdout(Stdio::piped());
    command
}

fn deny(tally: &mut Tally) -> anyhow::Result<()> {
    let Some(program) = native::cargo_deny()? else {
        tally.skip("licences and bans: cargo-deny cannot be installed (cargo install cargo-deny)");
        return Ok(());
    };
    // Advisories need the network and change by the day: they are checked by hand.
    let mut deny = Command::new(program);
    deny.args(["--log-level", "error", "--locked", "check"]);
    deny.args(["bans", "licenses", "sources"])
        .current_dir(root());
    tally.step(step("cargo-deny", &mut deny)?);
    Ok(())
}

/// What ran.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    skips: Vec<String>,
    failures: Vec<String>,
}

impl Tally {
    fn step(&mut self, succeeded: bool) {
        if !succeeded {
            self.failed += 1;
            self.failures
                .push("a step that is no test: see above".to_owned());
        }
    }

    fn skip(&mut self, reason: &str) {
        self.skipped += 1;
        self.skips.push(reason.to_owned());
    }

    fn line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Reads libtest's output.
#[derive(Default)]
struct Reader {
    /// Within what successful tests printed.
    quiet: bool,
    /// Of the present test binary.
    skipped_here: u64,
}

impl Reader {
    /// Counts a line; whether it is to be shown.
    fn take(&mut self, line: &str, tally: &mut Tally) -> bool {
        match line {
            "successes:" => self.quiet = true,
            "failures:" => self.quiet = false,
            _ => {}
        }
        if let Some(reason) = line.strip_prefix("SKIPPED: ") {
            tally.skip(reason);
            self.skipped_here += 1;
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.quiet = false;
            for part in counts.split([';', '.']) {
                let words: Vec<&str> = part.split_whitespace().collect();
                if let [count, what] = words[..]
                    && let Ok(count) = count.parse::<u64>()
                {
                    match what {
                        // libtest has those that said SKIPPED among the passed.
                        "passed" => tally.passed += count.saturating_sub(self.skipped_here),
                        "failed" => tally.failed += count,
                        "ignored" => tally.skipped += count,
                        _ => {}
                    }
                }
            }
            self.skipped_here = 0;
        }
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
        {
            tally.failures.push(name.to_owned());
        }
        !self.quiet
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn results_are_summed_and_skips_are_not_passes() {
        let output = "running 3 tests\n\
            test a ... ok\ntest b ... FAILED\ntest c ... ok\n\nsuccesses:\n\n---- c stdout ----\n\
            SKIPPED: c: no ptrace here\n\n\nsuccesses:\n    a\n    c\n\nfailures:\n\n---- b stdout ----\n\
            boom\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; \
            finished in 0.11s\n\ntest result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 0 filtered \
            out; finished in 1.00s\n";
        let mut tally = Tally::default();
        let mut reader = Reader::default();
        let shown: Vec<&str> = output
            .lines()
            .filter(|line| reader.take(line, &mut tally))
            .collect();
        assert_eq!(tally.line(), "41 passed, 1 failed, 3 skipped");
        assert_eq!(tally.failures, ["b"]);
        assert_eq!(tally.skips, ["c: no ptrace here"]);
        assert!(shown.contains(&"boom") && !shown.contains(&"---- c stdout ----"));
    }

    #[test]
    fn a_skip_line_before_its_result_does_not_underflow() {
        let mut tally = Tally::default();
        let mut reader = Reader::default();
        for line in [
            "successes:",
            "SKIPPED: a: x",
            "SKIPPED: b: y",
            "test result: ok. 2 passed; 0 failed; 0 ignored",
        ] {
            reader.take(line, &mut tally);
        }
        assert_eq!(tally.line(), "0 passed, 0 failed, 2 skipped");
    }
}
