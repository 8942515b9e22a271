//! Deadlines of all connections on a few timers: wheels with a tick of one second.
//!
//! A timer of its own would cost every idle connection memory and every frame a
//! re-arming. Here a later deadline is one store; the entry moves when its old tick
//! comes. Known limit: a deadline is kept to the second, never early.
//!
//! Bound: an entry is eight bytes, and a session adds at most one entry a second,
//! each gone after [`SLOTS`] seconds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};

use chat_wire::ids::SessionId;

use super::outbound::{Mailbox, Sessions, Signal};
use crate::clock;

/// Seconds a wheel reaches ahead; a deadline beyond is entered at its end and moved on.
pub const SLOTS: usize = 512;
const TICK_MS: u64 = 1_000;
const NOWHERE: u64 = u64::MAX;

/// The wheels: one for each worker, chosen by the session's number.
pub struct Heartbeat {
    sessions: Arc<Sessions>,
    wheels: Box<[Mutex<Wheel>]>,
}

struct Wheel {
    slots: Box<[Vec<SessionId>]>,
    /// The last tick that was carried out.
    tick: u64,
}

impl Heartbeat {
    /// Wheels for `workers` workers.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, workers: usize) -> Self {
        let tick = clock::mono_ms() / TICK_MS;
        let wheel = || Wheel {
            slots: vec![Vec::new(); SLOTS].into(),
            tick,
        };
        Self {
            sessions,
            wheels: (0..workers.max(1)).map(|_| Mutex::new(wheel())).collect(),
        }
    }

    /// Raises [`Signal::Due`] at `deadline_ms` or up to a second later. A new deadline
    /// replaces the old one.
    pub fn schedule(&self, mailbox: &Mailbox, deadline_ms: Option<u64>) {
        let wanted = deadline_ms.map_or(NOWHERE, |ms| ms.div_ceil(TICK_MS));
        mailbox.wanted_tick.store(wanted, Ordering::SeqCst);
        // Pairs with the second look in `advance`: one of the two sees the other's store.
        if wanted < mailbox.entered_tick.load(Ordering::SeqCst) {
            let mut wheel = self.wheel(mailbox.session());
            wheel.enter(mailbox, wanted);
        }
    }

    /// Carries out the ticks of one wheel up to `now_ms`.
    pub fn advance(&self, worker: usize, now_ms: u64) {
        let now = now_ms / TICK_MS;
        loop {
            let (tick, due) = {
                let mut wheel = lock(&self.wheels[worker]);
                if wheel.tick >= now {
                    return;
                }
                wheel.tick += 1;
                let tick = wheel.tick;
                (tick, std::mem::take(&mut wheel.slots[slot(tick)]))
            };
            for session in due {
                if let Some(mailbox) = self.sessions.mailbox(session) {
                    self.turn(&mailbox, tick);
                }
            }
        }
    }

    /// Turns one wheel for ever.
    pub async fn run(self: Arc<Self>, worker: usize) {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.advance(worker, clock::mono_ms());
        }
    }

    /// How many wheels there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.wheels.len()
    }

    fn turn(&self, mailbox: &Mailbox, tick: u64) {
        if mailbox.entered_tick.load(Ordering::SeqCst) != tick {
            return; // An older entry; a newer one stands elsewhere.
        }
        mailbox.entered_tick.store(NOWHERE, Ordering::SeqCst);
        let wanted = mailbox.wanted_tick.load(Ordering::SeqCst);
        if wanted <= tick {
            mailbox.raise(Signal::Due);
        } else if wanted != NOWHERE {
            self.wheel(mailbox.session()).enter(mailbox, wanted);
            // The deadline may have come nearer meanwhile: see `schedule`.
            let again = mailbox.wanted_tick.load(Ordering::SeqCst);
            if again < wanted {
                self.wheel(mailbox.session()).enter(mailbox, again);
            }
        }
    }

    fn wheel(&self, session: SessionId) -> MutexGuard<'_, Wheel> {
        let at = session.0 % self.wheels.len() as u64;
        lock(&self.wheels[usize::try_from(at).expect("below the wheels")])
    }
}

impl Wheel {
    fn enter(&mut self, mailbox: &Mailbox, wanted: u64) {
        let tick = wanted.clamp(self.tick + 1, self.tick + SLOTS as u64 - 1);
        if mailbox.entered_tick.load(Ordering::SeqCst) == tick {
            return;
        }
        mailbox.entered_tick.store(tick, Ordering::SeqCst);
        self.slots[slot(tick)].push(mailbox.session());
    }
}

fn slot(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).expect("below the slots")
}

fn lock(wheel: &Mutex<Wheel>) -> MutexGuard<'_, Wheel> {
    wheel.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
