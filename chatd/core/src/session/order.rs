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
    in_flight: u32,
    newest: ClientId,
    failed: Option<ClientId>,
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
            _ => Ok((lane.in_flight > 0).then_some(lane.newest)),
        }
    }

    /// An admitted id is on its way.
    pub(super) fn forwarded(&mut self, conversation: ConversationId, id: ClientId) {
        let lane = self.lanes.entry(conversation).or_default();
        lane.in_flight += 1;
        lane.newest = id;
        lane.failed = None;
    }

    /// An admitted id failed before it was on its way.
    pub(super) fn held_back(&mut self, conversation: ConversationId, id: ClientId) {
        self.lanes.entry(conversation).or_default().failed = Some(id);
    }

    /// One in flight was committed, or refused for good.
    pub(super) fn settled(&mut self, conversation: ConversationId) {
        if let Some(lane) = self.lanes.get_mut(&conversation) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            if lane.in_flight == 0 && lane.failed.is_none() {
                self.lanes.remove(&conversation);
            }
        }
    }

    /// One in flight failed, and can be tried again. The first failure stands until
    /// it is repaired: those behind it fail because of it.
    pub(super) fn failed(&mut self, conversation: ConversationId, id: ClientId) {
        if let Some(lane) = self.lanes.get_mut(&conversation) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            lane.failed.get_or_insert(id);
        }
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
        lanes.settled(HERE);
        lanes.settled(HERE);
        assert!(lanes.is_empty());
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
