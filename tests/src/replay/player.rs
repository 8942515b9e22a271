//! One live device: says its person's lines when what comes before has arrived, takes
//! everything else in, and writes down both.
//!
//! It knows nothing of the others but what the server brings it; so it works the same in
//! the process that holds a thousand of them and in one of its own that is killed and
//! comes back with a journal.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use chat_client::{
    Client, Config, Content, Events, Incoming, Message, Pending, RequestError, SendError,
    Statistics, Target, frame, ids::ConversationId,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};

use super::{
    ledger::{Ledger, Operation, Record},
    plan::Place,
    script::Script,
};
use crate::checker::{CHANGE, FOREIGN, Marks, Seen};

mod operations;

/// Events taken at once.
const BATCH: usize = 256;
/// Marks are read back in groups up to this size, so there people mark what they saw.
pub const MARKED_MEMBERS: usize = 100;
/// A person marks what it saw at every so many lines of a thread, and at its end.
const MARK_EVERY: u32 = 7;

type SendFuture = Pin<Box<dyn Future<Output = (u32, Result<frame::Sent, SendError>)> + Send>>;
type OperationFuture =
    Pin<Box<dyn Future<Output = (Operation, Result<frame::GroupState, RequestError>)> + Send>>;

/// One live device.
pub struct Player {
    script: Script,
    person: u32,
    client: Client,
    events: Events,
    ledger: Ledger,
    peers: HashMap<u64, u32>,
    /// By thread: the next line to be said or heard, and whether it has begun.
    threads: HashMap<u32, Position>,
    /// Lines of others that came before their turn.
    early: HashSet<u32>,
    /// Threads that wait for a recorded time.
    later: BinaryHeap<Reverse<(Instant, u32)>>,
    answers: FuturesUnordered<SendFuture>,
    operations: FuturesUnordered<OperationFuture>,
    /// Lines that an earlier process queued: the library sends them, and only their
    /// copies tell that they arrived.
    recovered: HashSet<u32>,
    /// Operations asked for and not answered.
    asked: HashSet<Operation>,
    /// Churn of this person's groups, by thread.
    churn: BTreeMap<u32, Vec<u32>>,
    records: Vec<Record>,
    /// Told how many lines wait, and how many attempts were repeated.
    waiting: Option<watch::Sender<(u64, u64)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Position {
    next: usize,
    begun: bool,
}

/// What a player leaves.
pub struct Done {
    /// Whose device it was.
    pub person: u32,
    /// What it did and saw.
    pub ledger: Ledger,
    /// What its library did.
    pub statistics: Statistics,
}

impl Player {
    /// Connects.
    ///
    /// # Errors
    /// If there is no session.
    pub async fn join(
        script: Script,
        person: u32,
        config: Config,
        ledger: Ledger,
    ) -> anyhow::Result<Self> {
        let (client, events) = Client::connect(config)
            .await
            .with_context(|| format!("person {person} cannot connect"))?;
        let threads = script.voices[person as usize]
            .iter()
            .map(|thread| (*thread, Position::default()))
            .collect();
        let mut churn: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (number, one) in (0..).zip(&script.plan.churn) {
            let Place::Group { owner, .. } = script.plan.places[one.place as usize] else {
                continue;
            };
            let thread = script.voices[person as usize]
                .iter()
                .find(|thread| script.plan.threads[**thread as usize].place == one.place);
            if let Some(thread) = thread.filter(|_| owner == person) {
                churn.entry(*thread).or_default().push(number);
            }
        }
        let recovered = ledger
            .queued
            .iter()
            .filter(|(line, queued)| **queued && !ledger.settled(**line))
            .map(|(line, _)| *line)
            .collect();
        Ok(Self {
            recovered,
            peers: script.peers(person),
            script,
            person,
            client,
            events,
            ledger,
            threads,
            early: HashSet::new(),
            later: BinaryHeap::new(),
            answers: FuturesUnordered::new(),
            operations: FuturesUnordered::new(),
            asked: HashSet::new(),
            churn,
            records: Vec::new(),
            waiting: None,
        })
    }

    /// Says at every change how many lines wait for their answer.
    #[must_use]
    pub fn reporting(mut self, waiting: watch::Sender<(u64, u64)>) -> Self {
        self.waiting = Some(waiting);
        self
    }

    /// Plays until `stop` says so.
    ///
    /// # Errors
    /// If the journal cannot be written, or the session ends for good.
    pub async fn play(mut self, mut stop: watch::Receiver<bool>) -> anyhow::Result<Done> {
        self.begin().await?;
        let mut batch = Vec::with_capacity(BATCH);
        while !*stop.borrow() {
            if let Some(waiting) = &self.waiting {
                let resent = self.client.statistics().resent;
                waiting.send_replace((self.ledger.waiting() as u64, resent));
            }
            let due = self.later.peek().map(|Reverse((at, _))| *at);
            let wait = async move {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = stop.changed() => {}
                count = self.events.recv_many(&mut batch, BATCH) => {
                    anyhow::ensure!(count > 0, "the client of person {} has ended", self.person);
                    self.take(&mut batch).await?;
                }
                Some(answer) = self.answers.next() => self.answered(answer)?,
                Some((operation, result)) = self.operations.next() => {
                    self.operated(operation, result).await?;
                }
                () = wait => {
                    let Reverse((_, thread)) = self.later.pop().expect("it was peeked at");
                    self.advance(thread).await?;
                }
            }
        }
        self.be_heard().await?;
        self.client.close().await;
        Ok(Done {
            person: self.person,
            statistics: self.client.statistics(),
            ledger: self.ledger,
        })
    }

    /// Waits until the server has read this device's last acknowledgement and marks. A
    /// QUIC connection that is idle does not notice for half a minute that the server was
    /// killed, with what it had not committed; a request finds out, and acknowledgements
    /// are repeated before it.
    async fn be_heard(&mut self) -> anyhow::Result<()> {
        let answer = self.client.conversations(Bytes::new(), 1).await;
        answer
            .with_context(|| format!("the last request of person {}", self.person))
            .map(drop)
    }

    /// Begins what needs nobody else, and goes on where the journal ends.
    async fn begin(&mut self) -> anyhow::Result<()> {
        let plan = Arc::clone(&self.script.plan);
        // An earlier process may have been killed between a mark and its confirmation.
        for (place, msg_id) in &self.ledger.marked {
            self.client
                .mark(ConversationId(self.conversation(*place)), *msg_id);
        }
        let mut begun: Vec<u32> = Vec::new();
        let known: Vec<Seen> = self.ledger.events.clone();
        for event in &known {
            begun.push(event.place);
            if event.message < FOREIGN {
                self.early.insert(event.message);
            }
        }
        begun.sort_unstable();
        begun.dedup();
        for (number, place) in (0..).zip(&plan.places) {
            match place {
                Place::Pair(pair) if pair.contains(&self.person) => self.start(number).await?,
                Place::Group { owner, .. } => {
                    if *owner == self.person {
                        self.ask(Operation::Create(number));
                    }
                    if begun.binary_search(&number).is_ok() {
                        self.start(number).await?;
                    }
                }
                Place::Pair(_) => {}
            }
        }
        Ok(())
    }

    /// The conversation exists: its threads begin.
    async fn start(&mut self, place: u32) -> anyhow::Result<()> {
        let threads: Vec<u32> = self.script.voices[self.person as usize]
            .iter()
            .filter(|thread| self.script.plan.threads[**thread as usize].place == place)
            .copied()
            .collect();
        for thread in threads {
            let position = self.threads.entry(thread).or_default();
            if !position.begun {
                position.begun = true;
                self.advance(thread).await?;
            }
        }
        Ok(())
    }

    /// Says and hears as much of a thread as can be now.
    async fn advance(&mut self, thread: u32) -> anyhow::Result<()> {
        let plan = Arc::clone(&self.script.plan);
        let lines = &plan.threads[thread as usize].lines;
        loop {
            let position = self
                .threads
                .get_mut(&thread)
                .expect("only own threads advance");
            if !position.begun {
                return Ok(());
            }
            let next = position.next;
            self.churn_at(thread, next);
            let Some(number) = lines.get(next).copied() else {
                return Ok(());
            };
            let line = &plan.lines[number as usize];
            if line.sender == self.person {
                if let Some(due) = self.due(line.at_s) {
                    self.later.push(Reverse((due, thread)));
                    return Ok(());
                }
                self.say(number).await?;
            } else if !line.text.is_empty() && !self.early.remove(&number) {
                return Ok(());
            }
            self.threads.get_mut(&thread).expect("it was there").next = next + 1;
        }
    }

    /// When a line may be said, if not now.
    fn due(&self, at_s: u64) -> Option<Instant> {
        let speed = self.script.speed?;
        #[expect(clippy::cast_precision_loss, reason = "seconds of some years fit")]
        let after = Duration::try_from_secs_f64(at_s as f64 / speed).unwrap_or(Duration::MAX);
        let due = Instant::from_std(self.script.stage.start()).checked_add(after)?;
        (due > Instant::now()).then_some(due)
    }

    async fn say(&mut self, number: u32) -> anyhow::Result<()> {
        let plan = Arc::clone(&self.script.plan);
        let line = &plan.lines[number as usize];
        if self.ledger.settled(number) || self.ledger.queued.get(&number) == Some(&true) {
            // Said before the process was killed; the queue on disk sees to it.
            return Ok(());
        }
        let place = plan.threads[line.thread as usize].place;
        let to = match &plan.places[place as usize] {
            Place::Pair(pair) => {
                let other = if pair[0] == self.person {
                    pair[1]
                } else {
                    pair[0]
                };
                // By name: the other may never have been here.
                Target::name(plan.people[other as usize].clone())
            }
            Place::Group { .. } => {
                Target::Group(self.script.ids.group(&plan, place).expect("it is a group"))
            }
        };
        let mut message = Message::new(to, Content::text(line.text.clone()));
        message.id = Some(self.script.ids.line(&plan, number));
        self.note(&[Record::Intent { line: number }])?;
        self.script.stage.queued(number);
        let pending: Pending = self
            .client
            .send_message(message)
            .await
            .context("a line cannot be queued")?;
        self.note(&[Record::Queued { line: number }])?;
        self.answers
            .push(Box::pin(async move { (number, pending.await) }));
        Ok(())
    }

    fn answered(
        &mut self,
        (line, result): (u32, Result<frame::Sent, SendError>),
    ) -> anyhow::Result<()> {
        match result {
            Ok(sent) => {
                let acked = Record::Acked {
                    line,
                    msg_id: sent.msg_id,
                    group_seq: sent.seq,
                };
                self.note(&[acked])?;
                self.script.stage.answered(acked);
                self.script.stage.settle(1, 0);
            }
            Err(SendError::Refused { refused, .. }) => {
                let record = Record::Refused {
                    line,
                    code: refused.number,
                };
                self.note(&[record])?;
                self.script.stage.answered(record);
                self.script.stage.settle(1, 1);
                if !self.script.plan.lines[line as usize].text.is_empty() {
                    self.ledger
                        .complain(format!("line {line} was refused: {refused}"));
                }
            }
            Err(error) => self.ledger.complain(format!("line {line}: {error}")),
        }
        Ok(())
    }

    async fn take(&mut self, batch: &mut Vec<Incoming>) -> anyhow::Result<()> {
        let mut advance: Vec<u32> = Vec::new();
        let mut begin: Vec<u32> = Vec::new();
        let mut arrived: Vec<(u32, bool)> = Vec::new();
        let mut last = 0;
        let plan = Arc::clone(&self.script.plan);
        for incoming in batch.drain(..) {
            match incoming {
                Incoming::Event(event) => {
                    let seen = self.script.seen(self.person, &event, &self.peers);
                    self.records.push(seen.into());
                    last = seen.inbox_seq;
                    if seen.message == CHANGE {
                        begin.push(seen.place);
                    } else if let Some(line) = plan.lines.get(seen.message as usize) {
                        let own = line.sender == self.person;
                        arrived.push((seen.message, !own));
                        if !own {
                            self.mark(&seen);
                        }
                        if !own && self.threads.contains_key(&line.thread) {
                            self.early.insert(seen.message);
                            advance.push(line.thread);
                        }
                    }
                }
                Incoming::Receipt(receipt) => self.receipt(&receipt),
                Incoming::Gap { oldest, head } => {
                    self.ledger
                        .complain(format!("a gap: oldest {oldest}, head {head}"));
                }
                Incoming::Disconnected { reason, .. } => self.script.stage.lost(reason),
                Incoming::Closed(error) => return Err(error.into()),
                _ => {}
            }
        }
        let records = std::mem::take(&mut self.records);
        self.note(&records)?;
        let recovered = arrived
            .iter()
            .filter(|(line, _)| self.recovered.remove(line))
            .count();
        self.script.stage.settle(recovered as u64, 0);
        self.records = records;
        self.records.clear();
        self.script.stage.arrived(self.person, &arrived);
        if last > 0 {
            self.client.ack(last);
        }
        begin.dedup();
        for place in begin {
            self.start(place).await?;
        }
        advance.dedup();
        for thread in advance {
            self.advance(thread).await?;
        }
        Ok(())
    }

    fn mark(&mut self, seen: &Seen) {
        let plan = &self.script.plan;
        let line = &plan.lines[seen.message as usize];
        let thread = &plan.threads[line.thread as usize];
        let small = match &plan.places[thread.place as usize] {
            Place::Pair(_) => true,
            Place::Group { members, .. } => members.len() <= MARKED_MEMBERS,
        };
        let moment = line.position.is_multiple_of(MARK_EVERY)
            || line.position as usize + 1 == thread.lines.len();
        // Every third person never looks.
        if small && moment && !self.person.is_multiple_of(3) {
            let conversation = self.conversation(thread.place);
            self.client.mark(ConversationId(conversation), seen.msg_id);
            self.records.push(Record::Marked {
                place: thread.place,
                msg_id: seen.msg_id,
            });
        }
    }

    /// What a place is called at this device.
    fn conversation(&self, place: u32) -> u64 {
        let plan = &self.script.plan;
        match &plan.places[place as usize] {
            Place::Pair(pair) => {
                let other = if pair[0] == self.person {
                    pair[1]
                } else {
                    pair[0]
                };
                plan.users[other as usize].0
            }
            Place::Group { .. } => self
                .script
                .ids
                .group(plan, place)
                .map_or(0, |group| group.0),
        }
    }

    fn receipt(&mut self, receipt: &frame::Receipt) {
        let Some(place) = self
            .script
            .groups
            .get(&receipt.conversation)
            .or_else(|| self.peers.get(&receipt.conversation))
        else {
            self.ledger.complain(format!(
                "a receipt of another's conversation {}",
                receipt.conversation
            ));
            return;
        };
        let told = Marks {
            delivered: receipt.delivered_up_to,
            seen: receipt.seen_up_to,
        };
        // Users are told apart by the low half of their ids here: it only has to be stable.
        let user = u32::try_from(receipt.user & u64::from(u32::MAX)).expect("masked");
        let before = self.ledger.told.entry((*place, user)).or_default();
        let falls = told.delivered < before.delivered || told.seen < before.seen;
        before.delivered = before.delivered.max(told.delivered);
        before.seen = before.seen.max(told.seen);
        if falls || told.seen > told.delivered {
            self.ledger.complain(format!(
                "marks of {} in place {place} fall: {told:?}",
                receipt.user
            ));
        }
    }

    fn note(&mut self, records: &[Record]) -> anyhow::Result<()> {
        let (plan, person) = (&self.script.plan, self.person);
        let own = |line: u32| {
            plan.lines
                .get(line as usize)
                .is_some_and(|l| l.sender == person)
        };
        self.ledger
            .note(records, own)
            .context("the journal cannot be written")
    }
}
