//! `chatctl audit`: reads a person's whole inbox and the history of every conversation
//! through the API, and reports what is lost, doubled or out of order, and groups whose list
//! of members is not what their events say.
//!
//! What it checks: the inbox has no gap and no event twice; no message is there twice;
//! messages of one conversation that one shard numbered rise, and so do the numbers of a
//! group; the history of each conversation has exactly the inbox's messages, in msg_id order;
//! MEMBERS of a group follows from its events ([`roster`]). It reads as a device of its own and acknowledges nothing. Known limit: it holds two numbers a
//! message in memory, and what arrives while it reads is left out.

mod roster;

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use chat_client::{
    Client, Events, HistoryFrom, Incoming, Start,
    frame::{Event, event::What},
    ids::{ConversationId, MsgId},
};
use clap::Args;
use serde_json::json;

use crate::{
    connect,
    failure::{FAILED, FOUND, Failure},
    options::{Format, Global},
    output,
};
use roster::{Compared, Roster};

/// Findings that are printed; the rest is counted.
const PRINTED: usize = 20;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Read the inbox only, not the histories and the members of groups.
    #[arg(long)]
    inbox_only: bool,
}

/// What an inbox and its histories look like, and what is wrong with them.
#[derive(Default)]
struct Ledger {
    events: u64,
    last_seq: u64,
    /// Below this nothing can be read as events any more.
    floor: u64,
    /// Messages of the inbox by conversation.
    conversations: BTreeMap<u64, HashSet<i64>>,
    /// The last message by conversation and shard that numbered it.
    last: HashMap<(u64, u16), i64>,
    last_group_seq: HashMap<u64, u64>,
    client_ids: HashSet<(u64, Bytes)>,
    history: u64,
    lost: Vec<String>,
    doubled: Vec<String>,
    reordered: Vec<String>,
    /// Groups whose members were compared with their events, and those that changed too often.
    groups: u64,
    restless: u64,
    roster: Vec<String>,
}

impl Ledger {
    fn event(&mut self, event: &Event) {
        self.events += 1;
        let seq = event.inbox_seq;
        if seq <= self.last_seq {
            self.doubled.push(format!("event {seq} came again"));
            return;
        }
        if seq != self.last_seq + 1 {
            self.lost.push(format!(
                "events {} to {} of the inbox",
                self.last_seq + 1,
                seq - 1
            ));
        }
        self.last_seq = seq;
        let (conversation, msg_id) = (event.conversation, event.msg_id);
        if !self
            .conversations
            .entry(conversation)
            .or_default()
            .insert(msg_id)
        {
            self.doubled
                .push(format!("message {msg_id} of conversation {conversation}"));
        }
        if let Some(What::Message(message)) = &event.what
            && !message.client_msg_id.is_empty()
            && !self
                .client_ids
                .insert((event.sender, message.client_msg_id.clone()))
        {
            self.doubled.push(format!(
                "message {msg_id} of {}: its client id came before",
                output::clean(&event.sender_name)
            ));
        }
        let last = self
            .last
            .entry((conversation, MsgId(msg_id).shard().0))
            .or_default();
        if msg_id <= *last {
            self.reordered.push(format!(
                "message {msg_id} of conversation {conversation} came after {last}"
            ));
        }
        *last = (*last).max(msg_id);
        if event.group_seq != 0 {
            let last = self.last_group_seq.entry(conversation).or_default();
            if event.group_seq <= *last {
                self.reordered.push(format!(
                    "number {} of group {conversation} came after {last}",
                    event.group_seq
                ));
            }
            *last = event.group_seq;
        }
    }

    /// The whole history of a conversation, as it was read.
    fn conversation(&mut self, conversation: u64, history: &[i64], newest: i64) {
        self.history += history.len() as u64;
        let inbox = self.conversations.remove(&conversation).unwrap_or_default();
        let mut seen = HashSet::new();
        let mut last = 0;
        for msg_id in history {
            if !seen.insert(*msg_id) {
                self.doubled
                    .push(format!("message {msg_id} in the history of {conversation}"));
            } else if *msg_id <= last {
                self.reordered.push(format!(
                    "message {msg_id} in the history of {conversation} after {last}"
                ));
            }
            last = last.max(*msg_id);
            // Below the floor only the history still has it; above the newest it came meanwhile.
            if self.floor == 0 && *msg_id <= newest && !inbox.contains(msg_id) {
                self.lost.push(format!(
                    "message {msg_id} of conversation {conversation}: in the history, \
                     not in the inbox"
                ));
            }
        }
        for msg_id in inbox.difference(&seen) {
            self.lost.push(format!(
                "message {msg_id} of conversation {conversation}: in the inbox, not in the history"
            ));
        }
    }

    fn findings(&self) -> usize {
        self.lost.len() + self.doubled.len() + self.reordered.len() + self.roster.len()
    }
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let mut session = connect::one_shot(global, Start::From(0)).await?;
    let client = session.client.clone();
    let mut ledger = Ledger::default();
    let newest = inbox(global, &mut session.events, &mut ledger).await?;
    let conversations = ledger.conversations.len();
    if !options.inbox_only {
        histories(global, &client, &mut ledger, newest).await?;
    }
    client.close().await;
    print(global, &client, &ledger, conversations);
    match ledger.findings() {
        0 => Ok(()),
        count => Err(Failure::new(FOUND, format!("{count} findings")).hint(
            "the server's metrics chatd_messages_lost_total and chatd_sequence_gap_total \
                   say whether it has noticed; `chatctl inspect` looks into a stopped node",
        )),
    }
}

/// Reads the inbox up to where it was at the beginning; the newest message in it.
async fn inbox(global: &Global, events: &mut Events, ledger: &mut Ledger) -> Result<i64, Failure> {
    let mut head = None;
    let mut newest = 0;
    let bar = output::bar(global.output, 0, "inbox");
    let mut batch = Vec::new();
    loop {
        if head.is_some_and(|head| ledger.last_seq >= head) {
            bar.finish_and_clear();
            return Ok(newest);
        }
        if events.recv_many(&mut batch, 256).await == 0 {
            return Err(Failure::new(FAILED, "the session ended while it was read"));
        }
        for incoming in batch.drain(..) {
            match incoming {
                Incoming::Connected(connected) => {
                    let head = *head.get_or_insert(connected.inbox_head);
                    bar.set_length(head);
                }
                Incoming::Event(event) => {
                    if head.is_some_and(|head| event.inbox_seq > head) {
                        continue;
                    }
                    newest = newest.max(event.msg_id);
                    ledger.event(&event);
                    bar.inc(1);
                }
                Incoming::Gap { oldest, head } => {
                    ledger.floor = oldest;
                    ledger.last_seq = ledger.last_seq.max(head);
                }
                Incoming::Closed(error) => return Err(error.into()),
                _ => {}
            }
        }
    }
}

async fn histories(
    global: &Global,
    client: &Client,
    ledger: &mut Ledger,
    newest: i64,
) -> Result<(), Failure> {
    let mut listed = HashSet::new();
    let mut cursor = Bytes::new();
    loop {
        let page = client.conversations(cursor, 0).await?;
        for conversation in page.conversations {
            if !listed.insert(conversation.conversation) {
                ledger.doubled.push(format!(
                    "conversation {} in the list of conversations",
                    conversation.conversation
                ));
            }
        }
        if !page.more {
            break;
        }
        cursor = page.next;
    }
    for conversation in ledger.conversations.keys() {
        if !listed.contains(conversation) {
            ledger
                .lost
                .push(format!("conversation {conversation} is not listed"));
            listed.insert(*conversation);
        }
    }
    let bar = output::bar(global.output, listed.len() as u64, "histories");
    let mut listed: Vec<_> = listed.into_iter().collect();
    listed.sort_unstable();
    for conversation in listed {
        let mut history = Vec::new();
        let mut roster = Roster::new(client.user().0);
        let mut from = 0;
        loop {
            let page = client
                .history(ConversationId(conversation), HistoryFrom::After(from), 0)
                .await?;
            history.extend(page.events.iter().map(|event| event.msg_id));
            page.events.iter().for_each(|event| roster.event(event));
            if !page.more {
                break;
            }
            from = page.next;
        }
        ledger.conversation(conversation, &history, newest);
        if let Some(group) = ConversationId(conversation).group() {
            let last = history.last().copied().unwrap_or(0);
            match roster::compare(client, group, roster, last).await? {
                Compared::With(differences) => {
                    ledger.groups += 1;
                    ledger.roster.extend(differences);
                }
                Compared::Restless => ledger.restless += 1,
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn print(global: &Global, client: &Client, ledger: &Ledger, conversations: usize) {
    let kinds = [
        ("lost", &ledger.lost),
        ("doubled", &ledger.doubled),
        ("reordered", &ledger.reordered),
        ("roster", &ledger.roster),
    ];
    if global.output == Format::Json {
        output::json(&json!({
            "name": client.name(),
            "events": ledger.events,
            "conversations": conversations,
            "historyMessages": ledger.history,
            "floor": ledger.floor,
            "lost": ledger.lost,
            "doubled": ledger.doubled,
            "reordered": ledger.reordered,
            "groupsCompared": ledger.groups,
            "groupsNotCompared": ledger.restless,
            "roster": ledger.roster,
        }));
        return;
    }
    output::say(&format!(
        "{}: {} events in {conversations} conversations, {} messages in their histories",
        output::clean(&client.name()),
        ledger.events,
        ledger.history
    ));
    if ledger.floor > 0 {
        output::say(&format!(
            "events before {} are no longer in the inbox",
            ledger.floor
        ));
    }
    if ledger.restless > 0 {
        output::say(&format!(
            "the members of {} groups changed while they were read, and were not compared",
            ledger.restless
        ));
    }
    for (name, findings) in kinds {
        output::say(&format!("{name:<12}{}", findings.len()));
        for finding in findings.iter().take(PRINTED) {
            output::say(&format!("  {finding}"));
        }
        if findings.len() > PRINTED {
            output::say(&format!("  … and {} more", findings.len() - PRINTED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(inbox_seq: u64, conversation: u64, msg_id: i64) -> Event {
        Event {
            inbox_seq,
            conversation,
            msg_id: MsgId::new(msg_id.unsigned_abs(), chat_client::ids::ShardId(1), 0).0,
            ..Event::default()
        }
    }

    fn ids(events: &[Event]) -> Vec<i64> {
        events.iter().map(|event| event.msg_id).collect()
    }

    #[test]
    fn a_sound_inbox_has_no_findings() {
        let mut ledger = Ledger::default();
        let events = [event(1, 5, 10), event(2, 6, 9), event(3, 5, 11)];
        for event in &events {
            ledger.event(event);
        }
        ledger.conversation(5, &[events[0].msg_id, events[2].msg_id], i64::MAX);
        ledger.conversation(6, &[events[1].msg_id], i64::MAX);
        assert_eq!(ledger.findings(), 0);
    }

    #[test]
    fn each_kind_of_damage_is_found() {
        let first = event(1, 5, 10);
        let mut gap = Ledger::default();
        gap.event(&first);
        gap.event(&event(3, 5, 11));
        assert_eq!((gap.lost.len(), gap.findings()), (1, 1));

        let mut twice = Ledger::default();
        twice.event(&first);
        twice.event(&first);
        assert_eq!((twice.doubled.len(), twice.findings()), (1, 1));

        let mut swapped = Ledger::default();
        swapped.event(&event(1, 5, 11));
        swapped.event(&event(2, 5, 10));
        assert_eq!((swapped.reordered.len(), swapped.findings()), (1, 1));

        let events = [first.clone(), event(2, 5, 11)];
        for history in [
            vec![events[0].msg_id],
            vec![events[1].msg_id, events[0].msg_id],
            [ids(&events), vec![events[1].msg_id]].concat(),
            [ids(&events), vec![events[1].msg_id + 1]].concat(),
        ] {
            let mut ledger = Ledger::default();
            for event in &events {
                ledger.event(event);
            }
            ledger.conversation(5, &history, i64::MAX);
            assert_eq!(ledger.findings(), 1, "{history:?}");
        }
    }
}
