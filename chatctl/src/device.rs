//! The devices of this machine: a number drawn once, where it stopped, and messages
//! not sent yet, per server, person and device name.
//!
//! ```text
//! <state>/<server>/<person>/<device>.json    number and place
//!                           <device>.lock    held while a command uses the device
//!                           <device>.queue   unsent messages of `chat` (see chat-client)
//! ```
//! Folders and files are their owner's alone, and no link below the state is followed.
//! One-shot commands borrow one of [`SPARE`] devices of their own, so that they never
//! end the session of a terminal that listens; a server allows twenty devices a person.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use chat_client::State;
use serde::{Deserialize, Serialize};

use crate::{
    failure::{FAILED, Failure},
    options::Global,
};

/// Devices that one-shot commands share.
const SPARE: u32 = 4;

/// A device in use.
pub(crate) struct Device {
    path: PathBuf,
    saved: Saved,
    /// Held until the command ends.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    device: u64,
    #[serde(default)]
    state: Option<State>,
}

impl Device {
    /// The device that `--device-name` names.
    pub(crate) fn named(global: &Global, person: &str) -> Result<Self, Failure> {
        let name = &global.device_name;
        if name.is_empty() || name.starts_with("command-") || file_name(name) != *name {
            return Err(Failure::usage(format!(
                "`{name}` is no name for a device: use letters, digits, `-` and `_`"
            )));
        }
        match Self::open(&folder(global, person)?, name)? {
            Some(device) => Ok(device),
            None => Err(Failure::new(
                FAILED,
                format!("another chatctl uses the device `{name}` of {person}"),
            )
            .hint("give this terminal a device of its own: --device-name phone")),
        }
    }

    /// A device for a command that only asks or sends.
    pub(crate) fn spare(global: &Global, person: &str) -> Result<Self, Failure> {
        let folder = folder(global, person)?;
        for number in 1..=SPARE {
            if let Some(device) = Self::open(&folder, &format!("command-{number}"))? {
                return Ok(device);
            }
        }
        Err(Failure::new(
            FAILED,
            format!("{SPARE} other commands run as {person} at this moment"),
        )
        .hint("wait for one of them, or give this one another --state folder"))
    }

    fn open(folder: &Path, name: &str) -> Result<Option<Self>, Failure> {
        let in_folder = |error: std::io::Error| {
            Failure::new(FAILED, format!("{}: {error}", folder.display()))
                .hint("choose another folder with --state")
        };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join(format!("{name}.lock")))
            .map_err(in_folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(in_folder(error)),
        }
        let path = folder.join(format!("{name}.json"));
        let saved = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::new(FAILED, format!("{}: {error}", path.display()))
                    .hint("remove the file: the device then starts anew")
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Saved {
                device: draw(),
                state: None,
            },
            Err(error) => return Err(in_folder(error)),
        };
        let device = Self {
            path,
            saved,
            _lock: lock,
        };
        device.write().map_err(in_folder)?;
        Ok(Some(device))
    }

    pub(crate) const fn id(&self) -> u64 {
        self.saved.device
    }

    /// Where it stopped, if it has ever been somewhere.
    pub(crate) fn state(&self) -> Option<State> {
        self.saved.state.clone()
    }

    pub(crate) fn queue(&self) -> PathBuf {
        self.path.with_extension("queue")
    }

    /// Keeps where it stopped.
    pub(crate) fn save(&mut self, state: State) -> Result<(), Failure> {
        if self.saved.state.as_ref() == Some(&state) {
            return Ok(());
        }
        self.saved.state = Some(state);
        self.write()
            .map_err(|error| Failure::new(FAILED, format!("{}: {error}", self.path.display())))
    }

    /// A crash leaves the old place or the new one, never half of it.
    fn write(&self) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(&self.saved).map_err(std::io::Error::other)?)?;
        file.sync_data()?;
        fs::rename(new, &self.path)
    }
}

fn draw() -> u64 {
    // The keys of the hasher are random; a device is never 0.
    let drawn = std::hash::BuildHasher::hash_one(
        &std::collections::hash_map::RandomState::new(),
        std::process::id(),
    );
    drawn.max(1)
}

fn folder(global: &Global, person: &str) -> Result<PathBuf, Failure> {
    let state = match &global.state {
        Some(state) => state.clone(),
        None => default_state()?,
    };
    let server = format!("{}-{}", global.server.host(), global.server.port());
    let mut folder = state;
    own(&folder)?;
    for part in [file_name(&server), file_name(person)] {
        folder.push(part);
        own(&folder)?;
    }
    for entry in fs::read_dir(&folder).map_err(|error| unusable(&folder, &error))? {
        let path = entry.map_err(|error| unusable(&folder, &error))?.path();
        if let Ok(found) = fs::symlink_metadata(&path) {
            if !found.is_file() {
                let kind = std::io::Error::other("it is a symbolic link or no plain file");
                return Err(unusable(&path, &kind));
            }
            narrow(&path, &found, 0o600)?;
        }
    }
    Ok(folder)
}

/// Makes a folder if it is missing, for its owner alone. One that others may look into,
/// as older versions left it, is closed to them; one of somebody else is refused.
fn own(folder: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| unusable(folder, &error))?;
    let found = fs::metadata(folder).map_err(|error| unusable(folder, &error))?;
    narrow(folder, &found, 0o700)
}

fn narrow(path: &Path, found: &fs::Metadata, mode: u32) -> Result<(), Failure> {
    if found.uid() != rustix::process::geteuid().as_raw() {
        let other = std::io::Error::other(format!("it belongs to user {}", found.uid()));
        return Err(unusable(path, &other));
    }
    if found.mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FAILED, format!("{}: {error}", path.display()))
        .hint("choose another folder with --state")
}

fn default_state() -> Result<PathBuf, Failure> {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    from("XDG_STATE_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("chatctl"))
        .ok_or_else(|| {
            Failure::usage("neither XDG_STATE_HOME nor HOME is set: say where with --state")
        })
}

/// A name that is one part of a path: other bytes become `%xx`.
fn file_name(name: &str) -> String {
    use std::fmt::Write as _;
    let mut safe = String::new();
    for byte in name.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_')
            || (byte == b'.' && !safe.is_empty());
        if plain {
            safe.push(char::from(byte));
        } else {
            write!(safe, "%{byte:02x}").expect("a string takes what comes");
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(state: &Path) -> Global {
        use clap::Parser;
        crate::commands::Arguments::parse_from([
            "chatctl",
            "--state",
            state.to_str().unwrap(),
            "status",
        ])
        .global
    }

    #[test]
    fn a_device_keeps_its_number_and_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let global = global(folder.path());
        let mut device = Device::named(&global, "alice").unwrap();
        let id = device.id();
        assert_eq!(device.state(), None);
        let state = State {
            inbox_seq: 7,
            ..State::default()
        };
        device.save(state.clone()).unwrap();
        assert!(Device::named(&global, "alice").is_err(), "it is in use");
        drop(device);
        let again = Device::named(&global, "alice").unwrap();
        assert_eq!((again.id(), again.state()), (id, Some(state)));
        assert_ne!(Device::named(&global, "bob").unwrap().id(), id);
    }

    #[test]
    fn what_is_kept_was_readable_by_all_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let global = global(&state);
        drop(Device::named(&global, "alice").unwrap());
        let files = || {
            let mut found = vec![state.clone()];
            let mut at = 0;
            while at < found.len() {
                if found[at].is_dir() {
                    let entries = fs::read_dir(&found[at]).unwrap();
                    found.extend(entries.map(|entry| entry.unwrap().path()));
                }
                at += 1;
            }
            found
        };
        assert_eq!(files().len(), 5, "{:?}", files());
        // As versions before left them.
        for path in files() {
            let mode = if path.is_dir() { 0o755 } else { 0o644 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        drop(Device::named(&global, "alice").unwrap());
        for path in files() {
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, wanted, "{}", path.display());
        }
    }

    #[test]
    fn a_link_in_the_state_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let global = global(&folder.path().join("state"));
        let device = Device::named(&global, "alice").unwrap();
        let place = device.queue().with_extension("json");
        drop(device);
        let outside = folder.path().join("outside");
        fs::write(&outside, "{}").unwrap();
        fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink(&outside, &place).unwrap();
        let refused = Device::named(&global, "alice").err().unwrap().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
        assert_eq!(fs::read(&outside).unwrap(), b"{}");
    }

    #[test]
    fn commands_at_the_same_time_have_different_devices() {
        let folder = tempfile::tempdir().unwrap();
        let global = global(folder.path());
        let devices: Vec<_> = (0..SPARE)
            .map(|_| Device::spare(&global, "alice").unwrap())
            .collect();
        assert!(Device::spare(&global, "alice").is_err());
        let mut ids: Vec<_> = devices.iter().map(Device::id).collect();
        ids.dedup();
        assert_eq!(ids.len(), SPARE as usize);
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for (name, file) in [
            ("..", "%2e."),
            ("a/b", "a%2fb"),
            ("a b.c", "a%20b.c"),
            ("ä", "%c3%a4"),
        ] {
            assert_eq!(file_name(name), file);
        }
    }
}
