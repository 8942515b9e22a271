//! The order of SENDs within a conversation. One is forwarded only while those
//! before it are committed or in flight; it then names the one in flight before it,
//! so that the shard can refuse it if that one came to nothing. After a retryable
//! failure the conversation waits for the failed id to come again, or to be given up.
//!
//! Conversations that are quiet take no memory. At most [`MAX_LANES`] are kept.

use chat_wire::{
    error::{Code, Refusal},
    ids::{ClientId, ConversationId},
};
use std::collections::BTreeMap;

/// Conversations with something in flight or failed. One more is refused as
/// LIMIT_EXCEEDED: the client has so many failures to repair first.
pub(super) const MAX_LANES: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<ConversationId, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    /// In the order they were forwarded.
    in_flight: Vec<ClientId>,
    /// The first in the client's order that failed.
    failed: Option<ClientId>,
    /// How many of those in flight the client sent before the failed one.
    before_failed: usize,
}

impl Lane {
    /// The failed one has its place among those in flight.
    fn check(&self) {
        assert!(
            self.failed.is_none() || self.before_failed <= self.in_flight.len(),
            "{} in flight, and the failed one behind {}",
            self.in_flight.len(),
            self.before_failed
        );
    }

    /// Takes one out of flight: its place among those in flight.
    fn land(&mut self, id: ClientId) -> Option<usize> {
        let at = self.in_flight.iter().position(|other| *other == id)?;
        self.in_flight.remove(at);
        Some(at)
    }
}

impl Lanes {
    /// Whether `id` may be forwarded now, and the id in flight that it must name.
    ///
    /// # Errors
    /// OUT_OF_ORDER, or LIMIT_EXCEEDED at the bound.
    pub(super) fn admit(
        &self,
        conversation: ConversationId,
        id: ClientId,
        abandons: Option<ClientId>,
    ) -> Result<Option<ClientId>, Refusal> {
        let Some(lane) = self.lanes.get(&conversation) else {
            return if self.lanes.len() < MAX_LANES {
                Ok(None)
            } else {
                Err(Refusal::new(
                    Code::LimitExceeded,
                    format!(
                        "{MAX_LANES} conversations of this session wait for a failed message: send those again first"
                    ),
                ))
            };
        };
        match lane.failed {
            Some(failed) if failed != id && abandons != Some(failed) => Err(Refusal::new(
                Code::OutOfOrder,
                format!(
                    "message {failed} of this conversation failed: send it again first, or name it in `abandons`"
                ),
            )),
            _ => Ok(lane.in_flight.last().copied()),
        }
    }

    /// An admitted id is on its way.
    pub(super) fn forwarded(&mut self, conversation: ConversationId, id: ClientId) {
        let lane = self.lanes.entry(conversation).or_default();
        lane.in_flight.push(id);
        lane.failed = None;
    }

    /// An admitted id failed before it was on its way: behind all that are in flight. If
    /// it is the one the conversation waits for already, its place is not changed.
    pub(super) fn held_back(&mut self, conversation: ConversationId, id: ClientId) {
        let lane = self.lanes.entry(conversation).or_default();
        if lane.failed != Some(id) {
            lane.failed = Some(id);
            lane.before_failed = lane.in_flight.len();
        }
    }

    /// One in flight was committed, or refused for good.
    pub(super) fn settled(&mut self, conversation: ConversationId, id: ClientId) {
        if let Some(lane) = self.lanes.get_mut(&conversation) {
            if lane.land(id).is_some_and(|at| at < lane.before_failed) {
                lane.before_failed -= 1;
            }
            lane.check();
            if lane.in_flight.is_empty() && lane.failed.is_none() {
                self.lanes.remove(&conversation);
            }
        }
    }

    /// One in flight failed, and can be tried again. The conversation waits for the first
    /// one in the client's order, whichever is heard of first: another that is let
    /// through before it would be committed before it.
    pub(super) fn failed(&mut self, conversation: ConversationId, id: ClientId) {
        let Some(lane) = self.lanes.get_mut(&conversation) else {
            return;
        };
        let Some(at) = lane.land(id) else {
            return;
        };
        if lane.failed.is_none() || at < lane.before_failed {
            lane.failed = Some(id);
            lane.before_failed = at;
        }
        lane.check();
    }

    /// An id was refused for good before it was on its way: nothing waits for it.
    pub(super) fn refused(&mut self, id: ClientId) {
        self.lanes.retain(|_, lane| {
            lane.failed = lane.failed.filter(|failed| *failed != id);
            lane.failed.is_some() || !lane.in_flight.is_empty()
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ConversationId = ConversationId(7);
    const THERE: ConversationId = ConversationId(8);

    fn id(n: u8) -> ClientId {
        ClientId([n; 16])
    }

    fn refused(lanes: &Lanes, n: u8, abandons: Option<u8>) -> Option<Code> {
        lanes
            .admit(HERE, id(n), abandons.map(id))
            .err()
            .map(|refusal| refusal.code)
    }

    #[test]
    fn a_send_names_the_one_in_flight_before_it() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.admit(HERE, id(1), None), Ok(None));
        lanes.forwarded(HERE, id(1));
        assert_eq!(lanes.admit(HERE, id(2), None), Ok(Some(id(1))));
        lanes.forwarded(HERE, id(2));
        assert_eq!(lanes.admit(HERE, id(3), None), Ok(Some(id(2))));
        assert_eq!(lanes.admit(THERE, id(3), None), Ok(None));
        lanes.settled(HERE, id(1));
        lanes.settled(HERE, id(2));
        assert!(lanes.is_empty());
    }

    /// The replay found it: 2 was let through, and 1 came seconds later.
    #[test]
    fn one_that_is_held_back_gives_way_to_one_before_it_that_fails_later() {
        let mut lanes = Lanes::default();
        lanes.forwarded(HERE, id(1));
        assert_eq!(lanes.admit(HERE, id(2), None), Ok(Some(id(1))));
        lanes.held_back(HERE, id(2));
        lanes.failed(HERE, id(1));
        assert_eq!(lanes.admit(HERE, id(1), None), Ok(None));
        assert_eq!(refused(&lanes, 2, None), Some(Code::OutOfOrder));
        // 1 is held back in its turn, and is still the first.
        lanes.held_back(HERE, id(1));
        assert_eq!(refused(&lanes, 2, None), Some(Code::OutOfOrder));
        lanes.forwarded(HERE, id(1));
        assert_eq!(lanes.admit(HERE, id(2), None), Ok(Some(id(1))));
    }

    #[test]
    fn of_two_in_flight_that_fail_the_earlier_one_is_waited_for_in_either_order() {
        for order in [[1, 2], [2, 1]] {
            let mut lanes = Lanes::default();
            for n in [7, 1, 8, 2] {
                lanes.forwarded(HERE, id(n));
            }
            lanes.failed(HERE, id(order[0]));
            lanes.settled(HERE, id(7));
            lanes.failed(HERE, id(order[1]));
            lanes.settled(HERE, id(8));
            assert_eq!(refused(&lanes, 1, None), None);
            assert_eq!(refused(&lanes, 2, None), Some(Code::OutOfOrder));
        }
    }

    #[test]
    fn after_a_failure_the_conversation_waits_for_the_failed_id_or_its_end() {
        let mut lanes = Lanes::default();
        for n in [1, 2, 3] {
            lanes.forwarded(HERE, id(n));
        }
        lanes.failed(HERE, id(1));
        lanes.failed(HERE, id(2));
        lanes.failed(HERE, id(3));
        assert_eq!(refused(&lanes, 2, None), Some(Code::OutOfOrder));
        assert_eq!(refused(&lanes, 4, Some(3)), Some(Code::OutOfOrder));
        assert_eq!(refused(&lanes, 4, Some(1)), None);
        assert_eq!(lanes.admit(HERE, id(1), None), Ok(None));
        lanes.forwarded(HERE, id(1));
        assert_eq!(lanes.admit(HERE, id(2), None), Ok(Some(id(1))));
    }

    #[test]
    fn the_number_of_waiting_conversations_is_bounded() {
        let mut lanes = Lanes::default();
        for conversation in 0..MAX_LANES as u64 {
            lanes.held_back(ConversationId(1000 + conversation), id(1));
        }
        assert_eq!(refused(&lanes, 1, None), Some(Code::LimitExceeded));
        assert_eq!(lanes.admit(ConversationId(1000), id(1), None), Ok(None));
    }
}
