//! What users have left to spend, at the shard of each: a bucket for each device and one for
//! all of a user's, and how many inboxes the user may still make. Soft state of the leader:
//! after a restart all buckets are full.
//!
//! Sessions say what they spent (see `session/purse.rs`); a bucket that is empty makes all
//! sessions of its user wait. What is here outlives a session until it is no other than new,
//! so that connecting again gains nothing.
//!
//! Bounds: [`MAX_DEVICES`] devices a user: for one more the fullest bucket is forgotten;
//! [`MAX_LEFT`] users without a session; for one more the account that was looked at longest
//! ago is forgotten, with what is owed. Users with sessions are bounded by the sessions.

use chat_wire::ids::{DeviceId, SessionId, UserId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};

use super::{HostSettings, Pass, shard::Shard};
use crate::{
    bucket::{Bucket, Rate},
    cost,
    message::{Allowance, Now, ToSession, Wait},
    session::device_rate,
    store::ShardStore,
};

/// Devices of a user whose buckets are kept.
const MAX_DEVICES: usize = 32;
/// Users without a session whose accounts are kept, a shard.
pub(super) const MAX_LEFT: usize = 16 * 1024;
/// Accounts of those who left that are looked at when another one leaves.
const SWEPT: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    users: BTreeMap<UserId, Account>,
    /// In the order they left; some may be back.
    left: VecDeque<UserId>,
}

#[derive(Debug)]
struct Account {
    user: Bucket,
    inboxes: Bucket,
    devices: SmallVec<[(DeviceId, Bucket); 1]>,
    sessions: u32,
    /// It stands in `left`.
    queued: bool,
}

fn user_rate(settings: &HostSettings) -> Rate {
    let device = device_rate(&settings.limits);
    let times = u64::from(settings.user_devices);
    Rate {
        units: device.units * times,
        burst: device.burst * times,
        ..device
    }
}

fn inbox_rate(settings: &HostSettings) -> Rate {
    Rate::an_hour(u64::from(settings.new_inboxes_per_hour))
}

impl Account {
    fn new(settings: &HostSettings, now: Now) -> Self {
        Self {
            user: Bucket::full(user_rate(settings), now.mono_ms),
            inboxes: Bucket::full(inbox_rate(settings), now.mono_ms),
            devices: SmallVec::new(),
            sessions: 0,
            queued: false,
        }
    }

    /// The bucket of a device; a new device's is full.
    fn device(&mut self, settings: &HostSettings, now: Now, device: DeviceId) -> &mut Bucket {
        let rate = device_rate(&settings.limits);
        let at = self.devices.iter().position(|(id, _)| *id == device);
        let at = at.unwrap_or_else(|| {
            if self.devices.len() >= MAX_DEVICES {
                let fullest = (0..self.devices.len())
                    .max_by_key(|at| self.devices[*at].1.units(rate, now.mono_ms));
                self.devices.swap_remove(fullest.unwrap_or(0));
            }
            self.devices.push((device, Bucket::full(rate, now.mono_ms)));
            self.devices.len() - 1
        });
        &mut self.devices[at].1
    }

    fn wait_ms(&mut self, settings: &HostSettings, now: Now) -> u32 {
        let passes = self.user.passes(user_rate(settings), now.mono_ms);
        passes.err().unwrap_or(0)
    }

    fn strangers_wait_ms(&mut self, settings: &HostSettings, now: Now) -> u32 {
        let passes = self.inboxes.passes(inbox_rate(settings), now.mono_ms);
        passes.err().unwrap_or(0)
    }

    /// It says nothing that a new one would not.
    fn is_new(&mut self, settings: &HostSettings, now: Now) -> bool {
        let device = device_rate(&settings.limits);
        self.user.is_full(user_rate(settings), now.mono_ms)
            && self.inboxes.is_full(inbox_rate(settings), now.mono_ms)
            && self
                .devices
                .iter_mut()
                .all(|(_, bucket)| bucket.is_full(device, now.mono_ms))
    }
}

impl Accounts {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    fn of(&mut self, settings: &HostSettings, now: Now, user: UserId) -> &mut Account {
        self.users
            .entry(user)
            .or_insert_with(|| Account::new(settings, now))
    }

    /// A session of a user has ended.
    pub(super) fn left(&mut self, pass: &Pass<'_>, user: UserId) {
        if let Some(account) = self.users.get_mut(&user) {
            account.sessions = account.sessions.saturating_sub(1);
        }
        self.queue(pass, user);
    }

    /// The account of who has no session will be forgotten in time.
    fn queue(&mut self, pass: &Pass<'_>, user: UserId) {
        let account = self.users.get_mut(&user);
        let Some(account) = account.filter(|account| account.sessions == 0 && !account.queued)
        else {
            return;
        };
        account.queued = true;
        self.left.push_back(user);
        for _ in 0..SWEPT {
            self.sweep(pass);
        }
        while self.left.len() > MAX_LEFT {
            self.forget_first(|_| true);
        }
    }

    /// Looks at the account of who left first: it goes if it is as good as new, or at the end
    /// of the queue.
    fn sweep(&mut self, pass: &Pass<'_>) {
        let (settings, now) = (pass.settings, pass.now);
        if !self.forget_first(|account| account.is_new(settings, now))
            && let Some(first) = self.left.pop_front()
        {
            self.left.push_back(first);
        }
    }

    /// Forgets who left first if `may` says so, and takes who is back from the queue. False
    /// if he stays.
    fn forget_first(&mut self, may: impl FnOnce(&mut Account) -> bool) -> bool {
        let Some(first) = self.left.front().copied() else {
            return true;
        };
        if let Some(account) = self.users.get_mut(&first) {
            if account.sessions > 0 {
                account.queued = false;
            } else if may(account) {
                self.users.remove(&first);
            } else {
                return false;
            }
        }
        self.left.pop_front();
        true
    }
}

impl<S: ShardStore> Shard<S> {
    /// A session begins: it pays for that, and is told what its device has left.
    pub(super) fn allow(&mut self, pass: &Pass<'_>, user: UserId, device: DeviceId) -> Allowance {
        let (settings, now) = (pass.settings, pass.now);
        let account = self.accounts.of(settings, now, user);
        account.sessions += 1;
        let (all, one) = (user_rate(settings), device_rate(&settings.limits));
        account.user.take(all, now.mono_ms, u64::from(cost::HELLO));
        let bucket = account.device(settings, now, device);
        bucket.take(one, now.mono_ms, u64::from(cost::HELLO));
        Allowance {
            device_units: bucket.units(one, now.mono_ms),
            wait_ms: account.wait_ms(settings, now),
            strangers_wait_ms: account.strangers_wait_ms(settings, now),
        }
    }

    /// A session says what it spent. If a bucket of its user is empty, all sessions of the
    /// user wait; if a newer session of the device has begun, it is told what it lacks.
    pub(super) fn spent(
        &mut self,
        pass: &mut Pass<'_>,
        session: SessionId,
        (user, device): (UserId, DeviceId),
        units: i64,
        inboxes: u32,
    ) {
        let (settings, now) = (pass.settings, pass.now);
        let account = self.accounts.of(settings, now, user);
        let (all, one) = (user_rate(settings), device_rate(&settings.limits));
        let amount = units.unsigned_abs();
        let bucket = account.device(settings, now, device);
        if units < 0 {
            bucket.give_back(one, amount);
            account.user.give_back(all, amount);
        } else {
            bucket.take(one, now.mono_ms, amount);
            account.user.take(all, now.mono_ms, amount);
        }
        account
            .inboxes
            .take(inbox_rate(settings), now.mono_ms, u64::from(inboxes));
        let waits = [
            (Wait::User, account.wait_ms(settings, now)),
            (Wait::Strangers, account.strangers_wait_ms(settings, now)),
        ];
        for (what, ms) in waits.into_iter().filter(|(_, ms)| *ms > 0) {
            for of_user in self.delivery.of_user(user) {
                pass.tell(*of_user, ToSession::Wait { what, ms });
            }
        }
        if let Some(newer) = self.delivery.of_device(user, device)
            && newer != session
            && units != 0
        {
            pass.tell(newer, ToSession::SpentBefore { units });
        }
        self.accounts.queue(pass, user);
    }
}
