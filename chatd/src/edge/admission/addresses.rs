//! A token bucket for each source address that is known to be somebody's own.
//!
//! Bound: [`ADDRESSES`] are remembered. At the bound those whose bucket is full again
//! are forgotten; if none is, newcomers share one bucket.

use std::{collections::HashMap, net::IpAddr};

use super::Caps;

/// Addresses that are remembered.
pub(super) const ADDRESSES: usize = 65_536;
/// A token, in the unit of the buckets: thousandths.
const TOKEN: u64 = 1_000;

#[derive(Default)]
pub(super) struct Addresses {
    pub(super) buckets: HashMap<u128, Bucket>,
    /// For newcomers when there is no room for more buckets.
    shared: Option<Bucket>,
    swept_ms: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Bucket {
    /// In thousandths of a token.
    tokens: u64,
    at_ms: u64,
}

impl Addresses {
    pub(super) fn take(&mut self, key: u128, now_ms: u64, caps: &Caps) -> bool {
        let full = u64::from(caps.per_address_burst) * TOKEN;
        let rate = u64::from(caps.per_address_per_second);
        if !self.buckets.contains_key(&key)
            && self.buckets.len() >= ADDRESSES
            && now_ms >= self.swept_ms + 1_000
        {
            self.swept_ms = now_ms;
            self.buckets
                .retain(|_, bucket| bucket.filled(now_ms, rate, full) < full);
        }
        let fresh = Bucket {
            tokens: full,
            at_ms: now_ms,
        };
        let bucket = if self.buckets.len() < ADDRESSES || self.buckets.contains_key(&key) {
            self.buckets.entry(key).or_insert(fresh)
        } else {
            self.shared.get_or_insert(fresh)
        };
        let tokens = bucket.filled(now_ms, rate, full);
        *bucket = Bucket {
            tokens: tokens.saturating_sub(TOKEN),
            at_ms: now_ms,
        };
        if tokens < TOKEN {
            // Nothing was taken.
            bucket.tokens = tokens;
            return false;
        }
        true
    }

    /// Whether more than half of a bucket is gone. Takes nothing and remembers nothing.
    pub(super) fn runs_low(&self, key: u128, now_ms: u64, caps: &Caps) -> bool {
        let full = u64::from(caps.per_address_burst) * TOKEN;
        let rate = u64::from(caps.per_address_per_second);
        self.buckets
            .get(&key)
            .is_some_and(|bucket| bucket.filled(now_ms, rate, full) < full / 2)
    }
}

impl Bucket {
    fn filled(self, now_ms: u64, rate: u64, full: u64) -> u64 {
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(rate);
        self.tokens.saturating_add(gained).min(full)
    }
}

/// What an address counts by: an IPv6 address by its /64.
pub(super) fn key(source: IpAddr) -> u128 {
    match source.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}
