//! The highest message id seen in each conversation, for `after`.

use std::collections::HashMap;

/// Conversations in each of the two halves.
const HALF: usize = 10_000;

/// A map that forgets what was not touched for long: when the young half is full the
/// old one is dropped and the young one becomes old.
#[derive(Debug, Default)]
pub(super) struct Seen {
    young: HashMap<u64, i64>,
    old: HashMap<u64, i64>,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn highest(&self, conversation: u64) -> i64 {
        let read = |half: &HashMap<u64, i64>| half.get(&conversation).copied().unwrap_or(0);
        read(&self.young).max(read(&self.old))
    }

    pub(super) fn raise(&mut self, conversation: u64, msg_id: i64) {
        if let Some(known) = self.young.get_mut(&conversation) {
            *known = (*known).max(msg_id);
            return;
        }
        let known = self.old.remove(&conversation).unwrap_or(0);
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(conversation, known.max(msg_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_the_highest_and_never_holds_more_than_its_bound() {
        let mut seen = Seen::new();
        for conversation in 0..60_000_u64 {
            seen.raise(conversation, 5);
            seen.raise(conversation, 3);
            seen.raise(7, conversation.cast_signed());
            assert_eq!(
                seen.highest(conversation).max(5),
                seen.highest(conversation)
            );
            assert!(seen.young.len() + seen.old.len() <= 2 * HALF);
        }
        assert_eq!(seen.highest(7), 59_999, "what is used is not forgotten");
        assert_eq!(seen.highest(8), 0, "what is not used is");
    }
}
