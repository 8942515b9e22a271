//! `chatctl history`: the messages of a conversation, the newest at the bottom.

use chat_client::{HistoryFrom, Start, frame::Event};
use clap::Args;

use crate::{
    connect,
    failure::Failure,
    names::{self, Typed},
    options::{Format, Global},
    output,
};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A person's name, `group:NAME`, or a group's number.
    with: Typed,
    /// So many, the newest.
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
    /// Only before this message.
    #[arg(long, value_name = "MSG_ID", conflicts_with = "after")]
    before: Option<i64>,
    /// Only after this message, the oldest first.
    #[arg(long, value_name = "MSG_ID")]
    after: Option<i64>,
    /// Show the numbers of the messages.
    #[arg(long)]
    ids: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let session = connect::one_shot(global, Start::Fresh).await?;
    let client = &session.client;
    let conversation = names::conversation(client, &options.with).await?;
    let rising = options.after.is_some();
    let mut from = match (options.after, options.before) {
        (Some(after), _) => HistoryFrom::After(after),
        (None, before) => HistoryFrom::Before(before.unwrap_or(0)),
    };
    let mut events: Vec<Event> = Vec::new();
    while events.len() < options.limit {
        let missing = u32::try_from(options.limit - events.len()).unwrap_or(u32::MAX);
        let page = client.history(conversation, from, missing.min(200)).await?;
        events.extend(page.events);
        if !page.more {
            break;
        }
        from = match from {
            HistoryFrom::Before(_) => HistoryFrom::Before(page.next),
            HistoryFrom::After(_) => HistoryFrom::After(page.next),
        };
    }
    events.truncate(options.limit);
    if !rising {
        events.reverse();
    }
    for event in &events {
        match global.output {
            Format::Json => output::json(&output::value(event)?),
            Format::Table if options.ids => {
                output::say(&format!("{} {}", event.msg_id, output::line(event)));
            }
            Format::Table => output::say(&output::line(event)),
        }
    }
    if events.is_empty() && global.output == Format::Table {
        output::remark("(no messages)");
    }
    client.close().await;
    Ok(())
}
