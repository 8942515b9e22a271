//! Python with the packages that the clients of `tests/python` need, in a folder of its own
//! below `.cache`, made by the first test that wants it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use crate::node::workspace;

/// Where the Python sources stand.
#[must_use]
pub fn sources() -> PathBuf {
    workspace().join("tests/python")
}

/// The interpreter, or why it cannot be had.
///
/// # Errors
/// If there is no Python, no `venv`, or a package cannot be installed.
pub fn ready() -> Result<PathBuf, String> {
    let requirements = sources().join("requirements.txt");
    let text = |error: std::io::Error| error.to_string();
    let wanted = std::fs::read_to_string(&requirements).map_err(text)?;
    let folder = workspace().join(".cache/python-client");
    std::fs::create_dir_all(workspace().join(".cache")).map_err(text)?;
    // Two runs in one checkout make it one after the other.
    let lock = File::create(workspace().join(".cache/python-client.lock")).map_err(text)?;
    lock.lock().map_err(text)?;
    let python = folder.join("bin/python");
    // Written last: a folder without it is half made, and made again.
    let made = folder.join("made-from");
    if std::fs::read_to_string(&made).is_ok_and(|text| text == wanted) {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder))?;
    install(&python, &requirements)?;
    std::fs::write(&made, wanted).map_err(text)?;
    Ok(python)
}

fn install(python: &Path, requirements: &Path) -> Result<(), String> {
    run(Command::new(python)
        .args(["-m", "pip", "install", "--quiet"])
        // What has no wheel would be compiled, with headers that the machine may not have.
        .args([
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "-r",
        ])
        .arg(requirements))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = text.lines().last().unwrap_or("no reason given").to_owned();
    Err(format!(
        "{} failed: {last}",
        command.get_program().to_string_lossy()
    ))
}
