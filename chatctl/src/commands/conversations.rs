//! `chatctl conversations`: the first screen of a chat, newest first.

use bytes::Bytes;
use chat_client::{Start, ids::MsgId};
use clap::Args;

use crate::{
    connect,
    failure::Failure,
    options::{Format, Global},
    output,
};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// So many.
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let session = connect::one_shot(global, Start::Fresh).await?;
    let client = &session.client;
    let mut found = Vec::new();
    let mut cursor = Bytes::new();
    while found.len() < options.limit {
        let missing = u32::try_from(options.limit - found.len()).unwrap_or(u32::MAX);
        let page = client.conversations(cursor, missing.min(200)).await?;
        found.extend(page.conversations);
        if !page.more {
            break;
        }
        cursor = page.next;
    }
    found.truncate(options.limit);
    match global.output {
        Format::Json => {
            for conversation in &found {
                output::json(&output::value(conversation)?);
            }
        }
        Format::Table => {
            let rows = found
                .iter()
                .map(|conversation| {
                    let last = conversation.last_event.as_ref();
                    vec![
                        output::clean(&conversation.name),
                        output::kind(conversation.conversation).to_owned(),
                        conversation.unread.to_string(),
                        last.map_or_else(String::new, |event| {
                            output::time(MsgId(event.msg_id).unix_ms())
                        }),
                        last.map_or_else(String::new, |event| {
                            let text: String = output::what(event).chars().take(40).collect();
                            format!("{}: {text}", output::clean(&event.sender_name))
                        }),
                        conversation.conversation.to_string(),
                    ]
                })
                .collect();
            output::table(&["name", "kind", "unread", "at", "last", "id"], rows);
        }
    }
    client.close().await;
    Ok(())
}
