//! `chatctl listen`: prints what arrives, and goes on where this device stopped.

use std::time::Duration;

use chat_client::{
    Client, Incoming, Start,
    frame::{Event, PresenceState, Receipt},
    ids::{ConversationId, MsgId},
};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    connect,
    device::Device,
    failure::Failure,
    options::{Format, Global},
    output,
};

/// How often the place of the device is written down.
const SAVE: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// From the first event of the inbox, whatever this device has seen.
    #[arg(long, conflicts_with = "from")]
    all: bool,
    /// From behind this event.
    #[arg(long, value_name = "INBOX_SEQ")]
    from: Option<u64>,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End when everything up to now is printed.
    #[arg(long)]
    until_now: bool,
    /// Mark what is printed as seen.
    #[arg(long)]
    mark_seen: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let person = connect::person(global)?;
    let mut device = Device::named(global, &person.name)?;
    let mut config = connect::config(global, person.token, device.id());
    config.start = match (options.all, options.from, device.state()) {
        (true, ..) => Start::From(0),
        (false, Some(from), _) => Start::From(from),
        (false, None, Some(state)) => Start::Saved(state),
        (false, None, None) => Start::Fresh,
    };
    let is_new = config.start == Start::Fresh;
    config.heartbeat = Some(connect::HEARTBEAT);
    let (client, mut events) = Client::connect(config).await?;
    let mut printed = 0_u64;
    let mut head = None;
    let mut save = tokio::time::interval(SAVE);
    loop {
        let incoming = tokio::select! {
            incoming = events.recv() => incoming,
            _ = save.tick() => {
                device.save(client.state())?;
                continue;
            }
            signal = tokio::signal::ctrl_c() => {
                signal?;
                break;
            }
        };
        let Some(incoming) = incoming else {
            break;
        };
        if let Incoming::Connected(connected) = &incoming {
            head.get_or_insert(connected.inbox_head);
            if is_new && connected.inbox_head > 0 && printed == 0 && global.output == Format::Table
            {
                output::remark(&format!(
                    "(a new device: {} earlier events are not shown; --all shows them)",
                    connected.inbox_head
                ));
            }
        }
        if let Incoming::Closed(error) = incoming {
            device.save(client.state())?;
            return Err(error.into());
        }
        show(global.output, &client, &incoming)?;
        if let Incoming::Event(event) = &incoming {
            printed += 1;
            if options.mark_seen {
                client.mark(ConversationId(event.conversation), event.msg_id);
            }
        }
        let enough = options.count.is_some_and(|count| printed >= count);
        let now = options.until_now && head.is_some_and(|head| client.state().inbox_seq >= head);
        if enough || now {
            break;
        }
    }
    device.save(client.state())?;
    client.close().await;
    device.save(client.state())
}

fn show(format: Format, client: &Client, incoming: &Incoming) -> Result<(), Failure> {
    if format == Format::Json {
        if let Some(line) = as_json(incoming)? {
            output::json(&line);
        }
        return Ok(());
    }
    match incoming {
        Incoming::Event(event) => output::say(&named_line(client, event)),
        Incoming::Gap { oldest, head } => output::say(&format!(
            "(events up to {head} are no longer in the inbox, the oldest is {oldest}: \
             see `chatctl conversations` and `chatctl history`)"
        )),
        Incoming::Receipt(receipt) => {
            if let Some(line) = receipt_line(client, receipt) {
                output::say(&line);
            }
        }
        Incoming::Presence(presence) => output::say(&format!(
            "(user {} is {})",
            presence.user,
            if presence.state() == PresenceState::Online {
                "here"
            } else {
                "away"
            }
        )),
        Incoming::Typing(typing) if typing.on => {
            output::say(&format!("(user {} types)", typing.user));
        }
        Incoming::Connected(connected) => output::remark(&format!(
            "(connected as {} over {})",
            output::clean(&connected.name),
            connected.transport
        )),
        Incoming::Disconnected { reason, retry_in } => output::remark(&format!(
            "(the connection is lost: {reason}; trying again in {} ms)",
            retry_in.as_millis()
        )),
        Incoming::TokenExpiring { within } => {
            output::remark(&format!("(the token ends in {} s)", within.as_secs()));
        }
        _ => {}
    }
    Ok(())
}

/// An event with where it was said, if that is not the sender.
fn named_line(client: &Client, event: &Event) -> String {
    let place = if event.group_seq != 0 {
        format!(" [group {}]", event.conversation)
    } else if event.sender == client.user().0 {
        format!(" [to {}]", event.conversation)
    } else {
        String::new()
    };
    format!("{}{place}", output::line(event))
}

/// Receipts of others; one's own say nothing new.
pub(crate) fn receipt_line(client: &Client, receipt: &Receipt) -> Option<String> {
    if receipt.user == client.user().0 {
        return None;
    }
    let (verb, up_to) = if receipt.seen_up_to > 0 && receipt.seen_up_to >= receipt.delivered_up_to {
        ("has seen", receipt.seen_up_to)
    } else {
        ("has received", receipt.delivered_up_to)
    };
    (up_to > 0).then(|| {
        format!(
            "(user {} {verb} everything up to {})",
            receipt.user,
            output::clock(MsgId(up_to).unix_ms())
        )
    })
}

fn as_json(incoming: &Incoming) -> Result<Option<Value>, Failure> {
    Ok(Some(match incoming {
        Incoming::Event(event) => json!({"event": output::value(event)?}),
        Incoming::Gap { oldest, head } => {
            json!({"gap": {"oldest": oldest.to_string(), "head": head.to_string()}})
        }
        Incoming::Receipt(receipt) => json!({"receipt": output::value(receipt)?}),
        Incoming::Presence(presence) => json!({"presence": output::value(presence)?}),
        Incoming::Typing(typing) => json!({"typing": output::value(typing)?}),
        Incoming::Connected(connected) => json!({"connected": {
            "user": connected.user.to_string(),
            "name": connected.name,
            "generation": connected.generation,
            "inboxHead": connected.inbox_head.to_string(),
            "transport": connected.transport.to_string(),
        }}),
        Incoming::Disconnected { reason, .. } => json!({"disconnected": {"reason": reason}}),
        _ => return Ok(None),
    }))
}
