//! `chatctl send`: one message, durable when the command ends with 0.

use std::{io::Read, path::PathBuf, time::Duration};

use chat_client::{Content, Message, Start, ids::MsgId};
use clap::Args;
use serde_json::json;

use crate::{
    connect,
    failure::{Failure, UNKNOWN},
    names::{self, Typed},
    options::{Format, Global},
    output,
};

/// Text from standard input or a file is read up to here; the server's limit is lower.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// To whom: a person's name, `group:NAME`, or a group's number.
    to: Typed,
    /// The text; `-` reads it from standard input.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    text: Vec<String>,
    /// A file with the text.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The number of the message that this one answers.
    #[arg(long, value_name = "MSG_ID", default_value_t = 0)]
    reply_to: i64,
    /// Without a notification.
    #[arg(long)]
    silent: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), Failure> {
    let text = text(&options)?;
    let session = connect::one_shot(global, Start::Fresh).await?;
    let client = &session.client;
    let message = Message {
        reply_to: options.reply_to,
        silent: options.silent,
        ..Message::new(
            names::target(client, &options.to).await?,
            Content::text(text),
        )
    };
    let pending = client.send_message(message).await?;
    let id = pending.id();
    let sent = tokio::time::timeout(Duration::from_secs(global.timeout), pending)
        .await
        .map_err(|_| {
            Failure::new(
                UNKNOWN,
                format!(
                    "no answer within {} s: whether {id} was committed is not known",
                    global.timeout
                ),
            )
            .hint("look with `chatctl history` before you send it again")
        })??;
    match global.output {
        Format::Json => output::json(&json!({
            "msgId": sent.msg_id.to_string(),
            "clientMsgId": id.to_string(),
            "conversation": sent.conversation.to_string(),
            "tsMs": sent.ts_ms.to_string(),
            "duplicate": sent.duplicate,
        })),
        Format::Table => output::say(&format!(
            "sent at {}, message {}",
            output::time(MsgId(sent.msg_id).unix_ms()),
            sent.msg_id
        )),
    }
    client.close().await;
    Ok(())
}

fn text(options: &Options) -> Result<String, Failure> {
    let mut text = String::new();
    if let Some(path) = &options.file {
        let file = std::fs::File::open(path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        file.take(MAX_TEXT_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    } else if options.text == ["-"] {
        std::io::stdin()
            .take(MAX_TEXT_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
        // The newline that ends a line is not part of what it says.
        if text.ends_with('\n') {
            text.pop();
        }
    } else {
        text = options.text.join(" ");
    }
    Ok(text)
}
