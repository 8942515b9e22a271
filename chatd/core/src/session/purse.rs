//! What a session may still spend. The device's bucket stands at its user's shard, and is
//! here while the session lives: it comes with the attachment, and what is spent is said
//! to the shard in parts, and at the end. So there is no step more on the way of a request,
//! and a device that connects again finds what it left.
//!
//! The user's bucket stands at the shard only. When it is empty the shard tells all
//! sessions of the user to wait. Until then they may overdraw it by one part each:
//! [`PARTS`] of a device's burst.

use chat_wire::{
    error::{Code, Refusal},
    limits::Limits,
};

use crate::{
    bucket::{Bucket, Rate},
    cost,
    message::{Allowance, Now, Wait},
};

/// What is spent is said after this part of the burst.
const PARTS: u64 = 8;

/// Refusals in a row that are only answered. With more of them the client is read slowly: what
/// is refused has been decoded, and that is not for nothing.
const TOLD: u32 = 16;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purse {
    device: Bucket,
    /// Spent, and not said to the shard yet. Below zero if more was given back.
    unsaid: i64,
    /// All that was spent; what is given back stays in it.
    total: u64,
    /// Inboxes made, and not said yet.
    inboxes: u32,
    /// Until when nothing passes because of the user's bucket.
    wait_until_ms: u64,
    /// Until when nobody new is written to.
    strangers_until_ms: u64,
    /// Until when the node sheds this session's requests.
    shed_until_ms: u64,
    /// Requests refused since one passed.
    refused: u32,
    /// The last of them came after it had been told often enough to wait.
    hammers: bool,
}

/// How a device's bucket fills.
#[must_use]
pub const fn device_rate(limits: &Limits) -> Rate {
    Rate::a_second(
        limits.sends_per_second as u64 * cost::SEND as u64,
        limits.sends_burst as u64 * cost::SEND as u64,
    )
}

impl Purse {
    pub(super) fn new(limits: &Limits, now: Now) -> Self {
        Self {
            device: Bucket::full(device_rate(limits), now.mono_ms),
            unsaid: 0,
            total: 0,
            inboxes: 0,
            wait_until_ms: 0,
            strangers_until_ms: 0,
            shed_until_ms: 0,
            refused: 0,
            hammers: false,
        }
    }

    /// The shard says what the device has left.
    pub(super) fn filled(&mut self, limits: &Limits, now: Now, allowance: &Allowance) {
        let units = allowance.device_units;
        self.device = Bucket::with(device_rate(limits), now.mono_ms, units);
        self.wait(now, Wait::User, allowance.wait_ms);
        self.wait(now, Wait::Strangers, allowance.strangers_wait_ms);
    }

    /// The shard, or the node, says to wait.
    pub(super) fn wait(&mut self, now: Now, what: Wait, ms: u32) {
        let until_ms = match what {
            Wait::User => &mut self.wait_until_ms,
            Wait::Strangers => &mut self.strangers_until_ms,
            Wait::Overload => &mut self.shed_until_ms,
        };
        *until_ms = now.mono_ms + u64::from(ms);
    }

    /// Whether a request passes: it may cost what it will.
    ///
    /// # Errors
    /// RATE_LIMITED or OVERLOADED, and when it will.
    pub(super) fn passes(&mut self, limits: &Limits, now: Now) -> Result<(), Refusal> {
        let passes = self.has_left(limits, now);
        self.refused = if passes.is_ok() {
            0
        } else {
            self.refused.saturating_add(1)
        };
        self.hammers |= self.refused > TOLD;
        passes
    }

    /// Whether the client goes on asking although it is told to wait; asked once each time.
    pub(super) fn take_hammers(&mut self) -> bool {
        std::mem::take(&mut self.hammers)
    }

    /// The longest of what makes it wait is told: what is sent then passes.
    fn has_left(&mut self, limits: &Limits, now: Now) -> Result<(), Refusal> {
        if let Some(wait_ms) = until(self.shed_until_ms, now) {
            let shed = "the server has too much to do, and this client asks for much of it";
            return Err(refusal(Code::Overloaded, shed, wait_ms));
        }
        let user = until(self.wait_until_ms, now).unwrap_or(0);
        let device = self.device.passes(device_rate(limits), now.mono_ms);
        let device = device.err().unwrap_or(0);
        if user > device {
            let fast = "too fast, all devices of the user together";
            return Err(refusal(Code::RateLimited, fast, user));
        }
        if device > 0 {
            return Err(refusal(Code::RateLimited, "too fast", device));
        }
        Ok(())
    }

    /// Whether somebody may be named who may be new here.
    ///
    /// # Errors
    /// RATE_LIMITED, and when one may.
    pub(super) fn strangers_pass(&self, now: Now) -> Result<(), Refusal> {
        until(self.strangers_until_ms, now).map_or(Ok(()), |wait_ms| {
            let many = "too many new inboxes in this hour: name known users by their id";
            Err(refusal(Code::RateLimited, many, wait_ms))
        })
    }

    pub(super) fn spend(&mut self, limits: &Limits, now: Now, units: u32) {
        self.device
            .take(device_rate(limits), now.mono_ms, u64::from(units));
        self.unsaid += i64::from(units);
        self.total += u64::from(units);
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// A request was charged one amount, and cost another.
    pub(super) fn settle(&mut self, limits: &Limits, now: Now, charged: u32, cost: u32) {
        match charged.checked_sub(cost) {
            Some(rest) => {
                self.device.give_back(device_rate(limits), u64::from(rest));
                self.unsaid -= i64::from(rest);
            }
            None => self.spend(limits, now, cost - charged),
        }
    }

    /// An older session of the device spent this, and said so after this one had begun.
    pub(super) fn spent_before(&mut self, limits: &Limits, now: Now, units: i64) {
        let (rate, amount) = (device_rate(limits), units.unsigned_abs());
        if units < 0 {
            self.device.give_back(rate, amount);
        } else {
            self.device.take(rate, now.mono_ms, amount);
        }
    }

    /// Inboxes were made for what this session sent.
    pub(super) fn made_inboxes(&mut self, inboxes: u32) {
        self.inboxes = self.inboxes.saturating_add(inboxes);
    }

    /// Whether it is time to say what was spent.
    pub(super) fn says(&self, limits: &Limits) -> bool {
        let part = device_rate(limits).burst / PARTS;
        self.unsaid.unsigned_abs() > part || u64::from(self.inboxes) > PARTS
    }

    /// What was spent since it was said last; `None` for nothing.
    pub(super) fn say(&mut self) -> Option<(i64, u32)> {
        let said = (
            std::mem::take(&mut self.unsaid),
            std::mem::take(&mut self.inboxes),
        );
        (said != (0, 0)).then_some(said)
    }
}

fn until(until_ms: u64, now: Now) -> Option<u32> {
    let wait_ms = until_ms
        .checked_sub(now.mono_ms)
        .filter(|wait_ms| *wait_ms > 0)?;
    Some(u32::try_from(wait_ms).unwrap_or(u32::MAX))
}

fn refusal(code: Code, why: &str, wait_ms: u32) -> Refusal {
    Refusal {
        retry_after_ms: Some(wait_ms),
        ..Refusal::new(code, format!("{why}: wait {wait_ms} ms"))
    }
}
