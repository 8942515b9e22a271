//! Measures the pressures of a running node, and does what `overload` says.

use std::{fs, io, sync::Arc, time::Duration};

use chat_core::message::{ToSession, Wait};
use chat_wire::error::{Code, Refusal};

use super::{Action, LOOK_MS, Level, Measured, Overload, Pressure, SHED_MS};
use crate::{
    descriptors,
    edge::{admission::Admission, outbound::Sessions},
    shards::Shards,
};

/// What is watched, and what is told.
pub struct Watched {
    admission: Arc<Admission>,
    sessions: Arc<Sessions>,
    shards: Shards,
}

/// Looks at the pressures for ever. `cap_bytes` is `edge.memory_bytes`, 0 for three quarters
/// of the machine.
pub async fn watch(watched: Watched, cap_bytes: u64) {
    let cap = match cap_bytes {
        0 => machine_bytes().map_or(u64::MAX, |bytes| bytes / 4 * 3),
        bytes => bytes,
    };
    let mut overload = Overload::default();
    let mut told = [Level::Calm; Pressure::ALL.len()];
    let mut looks = tokio::time::interval(Duration::from_millis(LOOK_MS));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        descriptors::refill();
        let (queue_ms, log_percent) = watched.shards.pressures();
        let measured = Measured {
            // What cannot be measured does not press.
            memory_percent: anonymous_bytes().unwrap_or(0).saturating_mul(100) / cap.max(1),
            log_percent,
            queue_ms,
        };
        let wants = overload.measured(&measured);
        for (of, told) in Pressure::ALL.into_iter().zip(&mut told) {
            let level = overload.level(of);
            if std::mem::replace(told, level) != level {
                let pressure = of.name();
                tracing::warn!(pressure, ?level, ?measured, "a pressure has another level");
            }
        }
        let spent = if wants {
            watched.sessions.spent()
        } else {
            Vec::new()
        };
        for action in overload.act(&spent) {
            watched.act(action);
        }
    }
}

impl Watched {
    /// The door, the sessions and what they spent, and the shards of one node.
    #[must_use]
    pub fn new(admission: &Arc<Admission>, sessions: &Arc<Sessions>, shards: &Shards) -> Self {
        Self {
            admission: Arc::clone(admission),
            sessions: Arc::clone(sessions),
            shards: shards.clone(),
        }
    }

    fn act(&self, action: Action) {
        // A session that is gone needs nothing any more.
        let _sent: bool = match action {
            Action::Flush => {
                self.shards.memory_short();
                true
            }
            Action::RefuseNewcomers(refuse) => {
                self.admission.set_memory_full(refuse);
                true
            }
            Action::Shed(session) => {
                let what = Wait::Overload;
                self.sessions
                    .send(session, ToSession::Wait { what, ms: SHED_MS })
            }
            Action::Close(session) => {
                let heavy = "the server has too little memory, and this client asked for most: connect again later";
                let refusal = Refusal::new(Code::Overloaded, heavy);
                self.sessions.send(session, ToSession::Close(refusal))
            }
        };
    }
}

/// Memory of this process that is its own (RssAnon), in bytes: pages of mapped segments,
/// which the system takes back when it likes, are not counted.
///
/// # Errors
/// If the system does not tell.
pub fn anonymous_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let mut next = || {
        pages
            .next()
            .and_then(Result::ok)
            .ok_or(io::ErrorKind::InvalidData)
    };
    let (resident, of_files) = (next()?, next()?);
    Ok(resident.saturating_sub(of_files) * rustix::param::page_size() as u64)
}

/// Memory of this machine, or of the container it seems to be, in bytes.
fn machine_bytes() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    });
    number("/sys/fs/cgroup/memory.max")
        .into_iter()
        .chain(total)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_by_the_system() {
        let bytes = anonymous_bytes().unwrap();
        assert!(
            bytes > 100_000 && bytes < machine_bytes().unwrap(),
            "{bytes}"
        );
    }
}
