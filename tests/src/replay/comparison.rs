//! The end of a replay: every person's second device synchronises for the first time, reads
//! all conversations and histories, and the checker is given everything.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use chat_client::{
    Client, HistoryFrom, Incoming, Network,
    frame::{Conversation, event::What},
    ids::ConversationId,
};
use futures_util::{StreamExt as _, stream};

use super::{
    cast::{OFFLINE, Server},
    ledger::{Ledger, Operation},
    plan::{Place, Plan},
    player::MARKED_MEMBERS,
    script::Script,
};
use crate::checker::{
    Attempt, CHANGE, Change, Checker, Marks, Outcome, Report, Seen, View, World, body_hash,
};

/// Devices that synchronise at once.
const AT_ONCE: usize = 24;
/// Marks are collected and sent on for a while after the last acknowledgement: how often they
/// are read again, and how long between.
const MARK_TRIES: u32 = 60;
/// See [`MARK_TRIES`].
const MARK_PAUSE: Duration = Duration::from_millis(250);

/// What everybody attempted, for the checker.
#[must_use]
pub fn world(plan: &Plan, ledgers: &[Ledger]) -> World {
    let mut attempts: Vec<Attempt> = (0..)
        .zip(&plan.lines)
        .map(|(number, line)| Attempt {
            sender: line.sender,
            place: plan.place_of(number),
            body: body_hash(line.text.as_bytes()),
            outcome: Outcome::Unknown,
        })
        .collect();
    let mut changes = Vec::new();
    for ledger in ledgers {
        for (line, (msg_id, group_seq)) in &ledger.acked {
            attempts[*line as usize].outcome = Outcome::Acked {
                msg_id: *msg_id,
                group_seq: *group_seq,
            };
        }
        for line in ledger.refused.keys() {
            attempts[*line as usize].outcome = Outcome::Refused;
        }
        for (operation, group_seq) in &ledger.operations {
            changes.push(change(plan, *operation, *group_seq));
        }
    }
    World {
        users: plan.people.len(),
        places: plan
            .places
            .iter()
            .map(|place| match place {
                Place::Pair(pair) => crate::checker::Place::Pair(*pair),
                Place::Group { .. } => crate::checker::Place::Group,
            })
            .collect(),
        attempts,
        changes,
        orders: plan
            .threads
            .iter()
            .map(|thread| thread.lines.clone())
            .collect(),
    }
}

fn change(plan: &Plan, operation: Operation, group_seq: u64) -> Change {
    let (place, joined, left) = match operation {
        Operation::Create(place) => match &plan.places[place as usize] {
            Place::Group { members, .. } => (place, members.clone(), vec![]),
            Place::Pair(_) => (place, vec![], vec![]),
        },
        Operation::Remove(number) => {
            let churn = plan.churn[number as usize];
            (churn.place, vec![], vec![churn.member])
        }
        Operation::Add(number) => {
            let churn = plan.churn[number as usize];
            (churn.place, vec![churn.member], vec![])
        }
    };
    Change {
        place,
        group_seq,
        joined,
        left,
    }
}

/// What a person's second device found.
struct Found {
    person: u32,
    view: View,
    histories: Vec<(u32, Vec<Seen>)>,
    complaints: Vec<String>,
}

/// Everything compared.
pub struct Compared {
    /// The checker's.
    pub report: Report,
    /// What no rule of the checker names.
    pub complaints: Vec<String>,
    /// Events that all devices have together.
    pub events: u64,
    /// Pages of history that were read.
    pub conversations: u64,
}

/// Compares everything. `live` is by person: the ledger of the live device.
///
/// # Errors
/// If a device cannot synchronise.
pub async fn compare(
    script: &Script,
    server: &Server,
    live: Vec<Ledger>,
) -> anyhow::Result<Compared> {
    let world = world(&script.plan, &live);
    let mut checker = Checker::new(&world);
    let mut complaints = Vec::new();
    let mut events = 0;
    let mut conversations = 0;
    let network = Network::default();
    let people = 0..u32::try_from(live.len()).expect("people are numbered in 32 bits");
    let mut live: Vec<Option<Ledger>> = live.into_iter().map(Some).collect();
    let mut found = stream::iter(people)
        .map(|person| {
            let (script, server, network) = (script.clone(), server.clone(), network.clone());
            tokio::spawn(async move {
                synchronise(&script, &server, person, &network)
                    .await
                    .with_context(|| format!("the second device of person {person}"))
            })
        })
        .buffer_unordered(AT_ONCE);
    while let Some(found) = found.next().await {
        let found = found.context("a second device")??;
        let ledger = live[found.person as usize]
            .take()
            .context("each person comes once")?;
        for complaint in &ledger.complaints {
            complaints.push(format!("person {}: {complaint}", found.person));
        }
        complaints.extend(found.complaints);
        let view = View {
            user: found.person,
            device: 1,
            from: 0,
            head: found.view.head,
            acked: ledger.cursor(),
            events: ledger.events,
            marked: ledger.marked.into_iter().collect(),
        };
        checker.view(&view);
        checker.view(&found.view);
        checker.histories(&found.view, &found.histories);
        events += (view.events.len() + found.view.events.len()) as u64;
        conversations += found.histories.len() as u64;
    }
    let implied = Arc::new(checker.implied().clone());
    for (place, user, marks) in marks(script, server, &network, &implied).await? {
        checker.marks(place, user, marks);
    }
    Ok(Compared {
        report: checker.finish(),
        complaints,
        events,
        conversations,
    })
}

/// A device that was never there: everything, as events, as conversations, as histories.
async fn synchronise(
    script: &Script,
    server: &Server,
    person: u32,
    network: &Network,
) -> anyhow::Result<Found> {
    let name = &script.plan.people[person as usize];
    let config = server.config(person, name, OFFLINE, network);
    let peers = script.peers(person);
    let (client, mut incoming) = Client::connect(config).await?;
    let mut head = None;
    let mut events: Vec<Seen> = Vec::new();
    let mut complaints = Vec::new();
    let mut batch = Vec::new();
    while head.is_none_or(|head| events.last().map_or(0, |event| event.inbox_seq) < head) {
        let count = incoming.recv_many(&mut batch, 256);
        let count = tokio::time::timeout(Duration::from_secs(120), count)
            .await
            .with_context(|| format!("nothing after event {:?} of {head:?}", events.last()))?;
        ensure!(count > 0, "the client has ended");
        for incoming in batch.drain(..) {
            match incoming {
                Incoming::Connected(connected) => head = Some(connected.inbox_head),
                Incoming::Event(event) => events.push(script.seen(person, &event, &peers)),
                Incoming::Gap { oldest, head } => {
                    complaints.push(format!("person {person}: a gap: {oldest} of {head}"));
                }
                Incoming::Closed(error) => return Err(error.into()),
                _ => {}
            }
        }
    }
    let conversations = conversations(&client).await?;
    let mut histories = Vec::with_capacity(conversations.len());
    for conversation in &conversations {
        let pages = history(&client, script, person, conversation.conversation, &peers).await?;
        let place = pages.first().map_or(u32::MAX, |event| event.place);
        histories.push((place, pages));
    }
    client.close().await;
    let view = View {
        user: person,
        device: 2,
        head,
        events,
        ..View::default()
    };
    complaints.extend(unread(script, person, &view, &conversations, &peers));
    Ok(Found {
        person,
        view,
        histories,
        complaints,
    })
}

async fn conversations(client: &Client) -> anyhow::Result<Vec<Conversation>> {
    let mut all = Vec::new();
    let mut cursor = Bytes::new();
    loop {
        let page = client
            .conversations(cursor, 0)
            .await
            .context("a page of conversations")?;
        all.extend(page.conversations);
        if !page.more {
            return Ok(all);
        }
        cursor = page.next;
    }
}

async fn history(
    client: &Client,
    script: &Script,
    person: u32,
    conversation: u64,
    peers: &HashMap<u64, u32>,
) -> anyhow::Result<Vec<Seen>> {
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let page = client
            .history(ConversationId(conversation), HistoryFrom::After(after), 0)
            .await
            .with_context(|| format!("the history of {conversation}"))?;
        ensure!(
            !page.more || page.next > after,
            "a history page that leads nowhere"
        );
        all.extend(
            page.events
                .iter()
                .map(|event| script.seen(person, event, peers)),
        );
        if !page.more {
            return Ok(all);
        }
        after = page.next;
    }
}

/// The last event of each conversation is its newest; in 1:1 conversations the number
/// of unread messages is what stands above the person's own SEEN.
fn unread(
    script: &Script,
    person: u32,
    view: &View,
    conversations: &[Conversation],
    peers: &HashMap<u64, u32>,
) -> Vec<String> {
    let mut newest: HashMap<u32, i64> = HashMap::new();
    let mut incoming: HashMap<u32, Vec<i64>> = HashMap::new();
    for event in &view.events {
        let last = newest.entry(event.place).or_default();
        *last = (*last).max(event.msg_id);
        let own = script
            .plan
            .lines
            .get(event.message as usize)
            .is_some_and(|line| line.sender == person);
        if !own && event.message != CHANGE {
            incoming.entry(event.place).or_default().push(event.msg_id);
        }
    }
    let mut complaints = Vec::new();
    for conversation in conversations {
        let Some(last) = &conversation.last_event else {
            complaints.push(format!(
                "person {person}: {} has no last event",
                conversation.name
            ));
            continue;
        };
        let seen = script.seen(person, last, peers);
        if newest.get(&seen.place) != Some(&last.msg_id) {
            complaints.push(format!(
                "person {person}: {} ends with {}, its newest is {:?}",
                conversation.name,
                last.msg_id,
                newest.get(&seen.place)
            ));
        }
        if peers.contains_key(&conversation.conversation) {
            let unread = incoming.get(&seen.place).map_or(0, |numbers| {
                numbers
                    .iter()
                    .filter(|number| **number > conversation.seen_up_to)
                    .count()
            });
            if conversation.unread != unread as u64 {
                complaints.push(format!(
                    "person {person}: {} unread in {}, but {unread} are",
                    conversation.unread, conversation.name
                ));
            }
            if !matches!(last.what, Some(What::Message(_))) {
                complaints.push(format!(
                    "person {person}: a 1:1 conversation ends with no message"
                ));
            }
        }
    }
    complaints
}

type ByPlaceAndUser = HashMap<(u32, u32), Marks>;

/// All marks that can be read: of both people of a pair, of all members of small groups.
async fn marks(
    script: &Script,
    server: &Server,
    network: &Network,
    implied: &Arc<ByPlaceAndUser>,
) -> anyhow::Result<Vec<(u32, u32, Marks)>> {
    let mut all = Vec::new();
    let people = 0..u32::try_from(script.plan.people.len()).expect("numbered in 32 bits");
    let mut read = stream::iter(people)
        .map(|person| {
            let (script, server, network) = (script.clone(), server.clone(), network.clone());
            let implied = Arc::clone(implied);
            tokio::spawn(async move {
                marks_at_rest(&script, &server, person, &network, &implied).await
            })
        })
        .buffer_unordered(AT_ONCE);
    while let Some(marks) = read.next().await {
        all.extend(marks.context("reading marks")??);
    }
    Ok(all)
}

/// Reads a person's marks until they are what is implied, or for as long as they may take
/// to come to rest.
async fn marks_at_rest(
    script: &Script,
    server: &Server,
    person: u32,
    network: &Network,
    implied: &ByPlaceAndUser,
) -> anyhow::Result<Vec<(u32, u32, Marks)>> {
    let name = &script.plan.people[person as usize];
    let mut config = server.config(person, name, OFFLINE, network);
    config.start = chat_client::Start::Fresh;
    let (client, events) = Client::connect(config).await?;
    drop(events);
    let mut tries = 0;
    loop {
        let marks = read_marks(script, person, &client).await?;
        let rests = marks.iter().all(|(place, user, marks)| {
            implied.get(&(*place, *user)).copied().unwrap_or_default() == *marks
        });
        tries += 1;
        if rests || tries >= MARK_TRIES {
            client.close().await;
            return Ok(marks);
        }
        tokio::time::sleep(MARK_PAUSE).await;
    }
}

async fn read_marks(
    script: &Script,
    person: u32,
    client: &Client,
) -> anyhow::Result<Vec<(u32, u32, Marks)>> {
    let plan = &script.plan;
    let peers = script.peers(person);
    let mut marks = Vec::new();
    for conversation in conversations(client).await? {
        let Some(place) = peers.get(&conversation.conversation) else {
            continue;
        };
        let Place::Pair(pair) = plan.places[*place as usize] else {
            continue;
        };
        let other = if pair[0] == person { pair[1] } else { pair[0] };
        marks.push((
            *place,
            person,
            Marks {
                delivered: conversation.delivered_up_to,
                seen: conversation.seen_up_to,
            },
        ));
        marks.push((
            *place,
            other,
            Marks {
                delivered: conversation.peer_delivered_up_to,
                seen: conversation.peer_seen_up_to,
            },
        ));
    }
    let numbers: HashMap<u64, u32> = (0..)
        .zip(&plan.users)
        .map(|(n, user)| (user.0, n))
        .collect();
    for (place, one) in (0..).zip(&plan.places) {
        let Place::Group { owner, members } = one else {
            continue;
        };
        if *owner != person || members.len() > MARKED_MEMBERS {
            continue;
        }
        let group = script.ids.group(plan, place).expect("it is a group");
        let mut cursor = Bytes::new();
        loop {
            let page = client
                .marks(group, false, cursor, 0)
                .await
                .context("the marks of a group")?;
            for mark in page.marks {
                let user = *numbers.get(&mark.user).context("marks of a stranger")?;
                marks.push((
                    place,
                    user,
                    Marks {
                        delivered: mark.delivered_up_to,
                        seen: mark.seen_up_to,
                    },
                ));
            }
            if !page.more {
                break;
            }
            cursor = page.next;
        }
    }
    Ok(marks)
}
