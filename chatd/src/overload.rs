//! What a node does when it has too much to do: named pressures in, actions out. No clock and
//! no system here; `overload/watch.rs` measures and acts.
//!
//! | pressure | measured as | raised | shed | full |
//! | --- | --- | --- | --- | --- |
//! | memory | RssAnon of `edge.memory_bytes` | 75 %: memtables are flushed early | 90 %: also the heaviest are told to wait | 100 %: also nobody new comes in, and sessions of the heaviest user are closed |
//! | log | its files of `log.budget_bytes` | | 90 %: the heaviest are told to wait | |
//! | queue | the age of what a shard thread takes | | 250 ms: the heaviest are told to wait | 2,000 ms: also nobody new comes in |
//!
//! The heaviest are found by what their sessions spent since the last look, in the units of
//! `chat_core::cost`: first of apps that spent more than an equal share of all (with one app
//! there is none), then users by their sum, until half of all that was spent is shed. Beyond
//! such apps, who spent less than the mean is never among them. Known limit: what a session cost before the
//! last look is forgotten.

use std::collections::BTreeMap;

use chat_wire::ids::{SessionId, UserId};

pub mod watch;

/// How long the heaviest wait, in ms: until after the next look.
pub const SHED_MS: u32 = 500;
/// How often pressures are looked at, in ms.
pub const LOOK_MS: u64 = 250;

/// A pressure, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Memory of the process.
    Memory,
    /// Files of the log.
    Log,
    /// What waits for a shard thread.
    Queue,
}

impl Pressure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Log, Self::Queue];

    /// Its name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Log => "log",
            Self::Queue => "queue",
        }
    }

    /// Where its levels begin: raised, shed, full. In percent, or in ms of age. One that is
    /// never reached is a level that this pressure does not have.
    const fn bounds(self) -> [u64; 3] {
        match self {
            Self::Memory => [75, 90, 100],
            Self::Log => [u64::MAX, 90, u64::MAX],
            Self::Queue => [u64::MAX, 250, 2_000],
        }
    }
}

/// How far a pressure has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is done.
    #[default]
    Calm,
    /// What costs nobody anything is done.
    Raised,
    /// The heaviest wait.
    Shed,
    /// Nobody new comes in.
    Full,
}

/// What was measured: of memory and log the percent that is used, of the queue its age in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// RssAnon of the cap.
    pub memory_percent: u64,
    /// Bytes of log files of the budget.
    pub log_percent: u64,
    /// How long the last event that a shard thread took had waited, the longest of them.
    pub queue_ms: u64,
}

impl Measured {
    /// The level of a pressure. One that falls keeps its level until it is a twentieth below
    /// where that begins, so that it does not flap.
    fn level(&self, of: Pressure, before: Level) -> Level {
        let value = match of {
            Pressure::Memory => self.memory_percent,
            Pressure::Log => self.log_percent,
            Pressure::Queue => self.queue_ms,
        };
        let [raised, shed, full] = of.bounds();
        let reached = |bound: u64, level: Level| {
            let bound = if before >= level {
                bound - bound / 20
            } else {
                bound
            };
            value >= bound
        };
        if reached(full, Level::Full) {
            Level::Full
        } else if reached(shed, Level::Shed) {
            Level::Shed
        } else if reached(raised, Level::Raised) {
            Level::Raised
        } else {
            Level::Calm
        }
    }
}

/// What a session has spent since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Which.
    pub session: SessionId,
    /// Whose.
    pub user: UserId,
    /// A number of its app.
    pub app: u64,
    /// Units.
    pub units: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Shards with large memtables are flushed now.
    Flush,
    /// New connections are refused, or no longer.
    RefuseNewcomers(bool),
    /// The session's requests are OVERLOADED for [`SHED_MS`].
    Shed(SessionId),
    /// The session is closed as OVERLOADED.
    Close(SessionId),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Overload {
    levels: [Level; 3],
    /// Units of sessions at the last look under pressure.
    before: BTreeMap<SessionId, u64>,
    refusing: bool,
}

impl Overload {
    /// The level of a pressure.
    #[must_use]
    pub fn level(&self, of: Pressure) -> Level {
        self.levels[of as usize]
    }

    /// Takes what was measured. Whether [`Overload::act`] needs to know what was spent.
    pub fn measured(&mut self, measured: &Measured) -> bool {
        for of in Pressure::ALL {
            self.levels[of as usize] = measured.level(of, self.levels[of as usize]);
        }
        let wants = self.levels.iter().any(|level| *level > Level::Calm);
        if !wants {
            self.before = BTreeMap::new();
        }
        wants
    }

    /// What is to be done now. `spent` may be empty if nobody asked for it.
    pub fn act(&mut self, spent: &[Spent]) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.level(Pressure::Memory) >= Level::Raised {
            actions.push(Action::Flush);
        }
        let refuse = self.levels.contains(&Level::Full);
        if refuse != self.refusing {
            self.refusing = refuse;
            actions.push(Action::RefuseNewcomers(refuse));
        }
        let heaviest = self.heaviest(spent);
        if self.levels.iter().any(|level| *level >= Level::Shed) {
            actions.extend(
                heaviest
                    .iter()
                    .flat_map(|(_, sessions)| sessions)
                    .map(|session| Action::Shed(*session)),
            );
        }
        if self.level(Pressure::Memory) == Level::Full
            && let Some((_, sessions)) = heaviest.first()
        {
            actions.extend(sessions.iter().map(|session| Action::Close(*session)));
        }
        actions
    }

    /// Users who spent most since the last look, and their sessions; the heaviest first.
    fn heaviest(&mut self, spent: &[Spent]) -> Vec<(UserId, Vec<SessionId>)> {
        let mut users: BTreeMap<UserId, (u64, u64, Vec<SessionId>)> = BTreeMap::new();
        let mut apps: BTreeMap<u64, u64> = BTreeMap::new();
        let mut now = BTreeMap::new();
        let known = !self.before.is_empty();
        for session in spent {
            let before = self.before.get(&session.session).copied();
            // At the first look nobody is known, and what was spent long ago is no reason.
            let before = if known {
                before.unwrap_or(0)
            } else {
                session.units
            };
            let units = session.units.saturating_sub(before);
            now.insert(session.session, session.units);
            let user = users
                .entry(session.user)
                .or_insert((0, session.app, Vec::new()));
            user.0 += units;
            user.2.push(session.session);
            *apps.entry(session.app).or_default() += units;
        }
        self.before = now;
        let total: u64 = apps.values().sum();
        let mean = total / users.len().max(1) as u64;
        let above = |app: u64| apps.len() > 1 && apps[&app] > total / apps.len() as u64;
        let mut heavy: Vec<_> = users
            .into_iter()
            .map(|(user, (units, app, sessions))| (above(app), units, user, sessions))
            .filter(|(above, units, ..)| *units > 0 && (*above || *units >= mean))
            .collect();
        heavy.sort_by_key(|(above, units, user, _)| (!above, u64::MAX - units, *user));
        let mut shed = 0;
        heavy
            .into_iter()
            .take_while(|(_, units, ..)| {
                let more = shed * 2 < total;
                shed += units;
                more
            })
            .map(|(.., user, sessions)| (user, sessions))
            .collect()
    }
}

#[cfg(test)]
mod tests;
