//! `chatctl chat`: line by line, on any terminal. What is typed is queued on disk, so a
//! server that is away, or the end of this process, loses nothing.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use chat_client::{
    Client, Content, HistoryFrom, Incoming, Queue, SendError, Start, Target,
    frame::{Event, Receipt, Sent, event::What},
    ids::{ClientId, ConversationId, MsgId},
};
use clap::Args;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    task::JoinSet,
};

use crate::{
    connect,
    device::Device,
    failure::{Failure, UNKNOWN},
    names::{self, Typed},
    options::{Format, Global},
    output,
};

/// Messages that may wait for the server; then typing waits.
const QUEUE: usize = 1000;
/// Messages of this process whose copies are not shown again.
const OWN: usize = 1000;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// With whom: a person's name, `group:NAME`, or a group's number.
    with: Typed,
    /// Show so many earlier messages first.
    #[arg(long, default_value_t = 10)]
    history: u32,
}

struct Chat<'a> {
    format: Format,
    options: &'a Options,
    client: Client,
    target: Target,
    conversation: ConversationId,
    /// Shown from the history: an event of them is not shown again.
    shown: HashSet<i64>,
    own: VecDeque<ClientId>,
    /// The loss of the connection was told.
    away: bool,
    pending: JoinSet<(ClientId, Result<Sent, SendError>)>,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let person = connect::person(global)?;
    let mut device = Device::named(global, &person.name)?;
    let mut config = connect::config(global, person.token, device.id());
    config.queue = Queue::Disk {
        path: device.queue(),
        bound: QUEUE,
    };
    config.start = device.state().map_or(Start::Fresh, Start::Saved);
    config.heartbeat = Some(connect::HEARTBEAT);
    let (client, mut events) = Client::connect(config).await?;
    let mut chat = Chat {
        format: global.output,
        target: names::target(&client, &options.with).await?,
        conversation: names::conversation(&client, &options.with).await?,
        options: &options,
        client: client.clone(),
        shown: HashSet::new(),
        own: VecDeque::new(),
        away: false,
        pending: JoinSet::new(),
    };
    chat.begin().await?;

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let result: Result<(), Failure> = loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) if line.trim() == "/quit" => break Ok(()),
                Some(line) => chat.send(line).await?,
                None => break Ok(()),
            },
            incoming = events.recv() => match incoming {
                Some(Incoming::Closed(error)) => break Err(error.into()),
                Some(incoming) => chat.show(&incoming)?,
                None => break Ok(()),
            },
            Some(done) = chat.pending.join_next() => {
                if let Ok((id, answer)) = done {
                    chat.answered(id, answer);
                }
            }
            signal = tokio::signal::ctrl_c() => {
                signal?;
                break Ok(());
            }
        }
    };
    let unsent = chat.finish(Duration::from_secs(global.timeout)).await;
    device.save(client.state())?;
    client.close().await;
    device.save(client.state())?;
    result?;
    if unsent == 0 {
        Ok(())
    } else {
        Err(
            Failure::new(UNKNOWN, format!("{unsent} messages have no answer yet"))
                .hint("they are kept: the next `chatctl chat` of this device sends them"),
        )
    }
}

impl Chat<'_> {
    async fn begin(&mut self) -> Result<(), Failure> {
        if self.options.history > 0 {
            let limit = self.options.history.min(200);
            let page = self
                .client
                .history(self.conversation, HistoryFrom::Before(0), limit)
                .await;
            // A conversation that does not exist yet has no history.
            for event in page
                .map_or_else(|_| Vec::new(), |page| page.events)
                .iter()
                .rev()
            {
                self.shown.insert(event.msg_id);
                self.event(event)?;
            }
        }
        if self.format == Format::Table {
            output::remark(&format!(
                "(you are {}; type a line and press Enter; /quit or Ctrl-D ends)",
                output::clean(&self.client.name())
            ));
        }
        Ok(())
    }

    async fn send(&mut self, line: String) -> Result<(), Failure> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let pending = match self
            .client
            .send(self.target.clone(), Content::text(line))
            .await
        {
            Ok(pending) => pending,
            // A text that is too long: the chat goes on.
            Err(error @ SendError::Refused { .. }) => {
                output::remark(&format!("(not sent: {error})"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let id = pending.id();
        if self.own.len() >= OWN {
            self.own.pop_front();
        }
        self.own.push_back(id);
        self.pending.spawn(async move { (id, pending.await) });
        Ok(())
    }

    fn answered(&self, id: ClientId, answer: Result<Sent, SendError>) {
        match (self.format, answer) {
            (Format::Table, Ok(sent)) => {
                output::say(&format!(
                    "  ✓ {}",
                    output::clock(MsgId(sent.msg_id).unix_ms())
                ));
            }
            (Format::Json, Ok(sent)) => output::json(&json!({"sent": {
                "clientMsgId": id.to_string(),
                "msgId": sent.msg_id.to_string(),
            }})),
            (_, Err(SendError::Closed)) => {}
            (_, Err(error)) => output::remark(&format!("(not sent: {error})")),
        }
    }

    fn event(&self, event: &Event) -> Result<(), Failure> {
        match self.format {
            Format::Json => output::json(&json!({"event": output::value(event)?})),
            Format::Table => output::say(&output::line(event)),
        }
        Ok(())
    }

    fn show(&mut self, incoming: &Incoming) -> Result<(), Failure> {
        match incoming {
            Incoming::Event(event) if event.conversation == self.conversation.0 => {
                if event.sender != self.client.user().0 {
                    self.client.mark(self.conversation, event.msg_id);
                }
                if !self.shown.remove(&event.msg_id) && !self.is_own(event) {
                    self.event(event)?;
                }
            }
            Incoming::Event(event)
                if self.format == Format::Table && event.sender != self.client.user().0 =>
            {
                output::say(&format!("(elsewhere) {}", output::line(event)));
            }
            Incoming::Receipt(receipt) => self.receipt(receipt)?,
            Incoming::Gap { .. } if self.format == Format::Table => {
                output::say("(earlier events are no longer in the inbox: see `chatctl history`)");
            }
            Incoming::Typing(typing)
                if typing.on
                    && typing.conversation == self.conversation.0
                    && self.format == Format::Table =>
            {
                output::say("(typing …)");
            }
            Incoming::Connected(connected) if self.format == Format::Table => {
                self.away = false;
                output::remark(&format!("(connected over {})", connected.transport));
            }
            Incoming::Disconnected { reason, .. }
                if self.format == Format::Table && !std::mem::replace(&mut self.away, true) =>
            {
                output::remark(&format!(
                    "(the connection is lost: {reason}; trying again, go on typing)"
                ));
            }
            _ => {}
        }
        Ok(())
    }

    fn receipt(&self, receipt: &Receipt) -> Result<(), Failure> {
        if receipt.conversation != self.conversation.0 || receipt.user == self.client.user().0 {
            return Ok(());
        }
        match self.format {
            Format::Json => output::json(&json!({"receipt": output::value(receipt)?})),
            Format::Table => {
                // DELIVERED is what one expects; SEEN is news.
                if receipt.seen_up_to > 0 {
                    output::say(&format!(
                        "  seen up to {}",
                        output::clock(MsgId(receipt.seen_up_to).unix_ms())
                    ));
                }
            }
        }
        Ok(())
    }

    /// A copy of what was typed here.
    fn is_own(&self, event: &Event) -> bool {
        let Some(What::Message(message)) = &event.what else {
            return false;
        };
        event.sender == self.client.user().0
            && ClientId::from_slice(&message.client_msg_id).is_some_and(|id| self.own.contains(&id))
    }

    /// Waits for what is not answered yet; how many are not in time.
    async fn finish(&mut self, limit: Duration) -> usize {
        let deadline = tokio::time::Instant::now() + limit;
        while !self.pending.is_empty() {
            match tokio::time::timeout_at(deadline, self.pending.join_next()).await {
                Ok(Some(Ok((id, answer)))) => self.answered(id, answer),
                Ok(Some(Err(_))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.pending.len()
    }
}
