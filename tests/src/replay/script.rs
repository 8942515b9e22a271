//! What all players of a process are given, and how an event looks to the checker.

use std::{collections::HashMap, sync::Arc};

use chat_client::frame::{self, event::What};

use super::{
    plan::{Place, Plan, RunIds},
    stage::Stage,
};
use crate::checker::{CHANGE, FOREIGN, Seen, body_hash};

/// What all players of a process are given.
#[derive(Clone)]
pub struct Script {
    /// What is to be said.
    pub plan: Arc<Plan>,
    /// By which ids.
    pub ids: RunIds,
    /// Who is how far.
    pub stage: Arc<Stage>,
    /// Conversations of groups → places.
    pub groups: Arc<HashMap<u64, u32>>,
    /// Threads in which a person speaks.
    pub voices: Arc<Vec<Vec<u32>>>,
    /// Recorded seconds in one second of the replay; none: no waiting.
    pub speed: Option<f64>,
}

impl Script {
    /// Prepares what every player looks up.
    #[must_use]
    pub fn new(plan: Arc<Plan>, ids: RunIds, stage: Arc<Stage>, speed: Option<f64>) -> Self {
        let mut groups = HashMap::new();
        for place in 0..u32::try_from(plan.places.len()).expect("places are numbered in 32 bits") {
            if let Some(group) = ids.group(&plan, place) {
                groups.insert(group.0, place);
            }
        }
        let mut voices: Vec<Vec<u32>> = vec![Vec::new(); plan.people.len()];
        for line in &plan.lines {
            let threads = &mut voices[line.sender as usize];
            if threads.last() != Some(&line.thread) && !threads.contains(&line.thread) {
                threads.push(line.thread);
            }
        }
        Self {
            plan,
            ids,
            stage,
            groups: Arc::new(groups),
            voices: Arc::new(voices),
            speed,
        }
    }

    /// An event as the checker wants it, at `person`; `peers` maps 1:1 conversations to places.
    #[must_use]
    pub fn seen(&self, person: u32, event: &frame::Event, peers: &HashMap<u64, u32>) -> Seen {
        let place = self
            .groups
            .get(&event.conversation)
            .or_else(|| peers.get(&event.conversation))
            .copied()
            .unwrap_or(u32::MAX);
        let (message, body) = match &event.what {
            Some(What::Message(message)) => {
                let line = self
                    .ids
                    .line_number(&message.client_msg_id)
                    .unwrap_or(FOREIGN);
                (line, content_hash(message.content.as_ref()))
            }
            Some(What::GroupChange(change)) => (CHANGE, change_hash(change)),
            None => (FOREIGN, 0),
        };
        Seen {
            inbox_seq: event.inbox_seq,
            msg_id: event.msg_id,
            body,
            place,
            message,
            group_seq: event.group_seq,
            own: event.sender == self.plan.users[person as usize].0,
        }
    }

    /// 1:1 conversations of a person → places.
    #[must_use]
    pub fn peers(&self, person: u32) -> HashMap<u64, u32> {
        let mut peers = HashMap::new();
        for thread in &self.voices[person as usize] {
            let place = self.plan.threads[*thread as usize].place;
            if let Place::Pair(pair) = self.plan.places[place as usize] {
                let other = if pair[0] == person { pair[1] } else { pair[0] };
                peers.insert(self.plan.users[other as usize].0, place);
            }
        }
        peers
    }
}

/// The hash of a content: only texts are sent here.
fn content_hash(content: Option<&frame::Content>) -> u64 {
    match content.and_then(|content| content.kind.as_ref()) {
        Some(frame::content::Kind::Text(text)) => body_hash(text.as_bytes()),
        _ => 0,
    }
}

fn change_hash(change: &frame::GroupChange) -> u64 {
    let mut bytes = change.kind.to_be_bytes().to_vec();
    for member in &change.members {
        bytes.extend(member.user.to_be_bytes());
    }
    body_hash(&bytes)
}
