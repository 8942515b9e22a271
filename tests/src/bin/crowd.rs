//! A crowd of WebSocket clients in one process, for the test of more connections than are
//! allowed: one process alone may not open that many files.
//!
//! `crowd ADDRESS SOURCE COUNT` opens COUNT connections from SOURCE, says in a line of JSON
//! what became of them, and then answers each line on its standard input with how many
//! of those it holds still answer a PING. It ends with its input.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use chat_wire::{
    codec::{self, Encoding},
    frame::{Body, Frame, Hello, Ping},
};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpSocket, TcpStream},
};
use tokio_websockets::{ClientBuilder, Limits, MaybeTlsStream, Message, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Handshakes at once.
const AT_ONCE: usize = 64;
/// A client without any answer for so long counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest frame that is read.
const FRAME_BYTES: usize = 64 * 1024;

enum Entry {
    Welcomed(Box<Socket>),
    /// The door was closed, and why.
    Refused(String),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, source, count] = &words[..] else {
        anyhow::bail!("usage: crowd ADDRESS SOURCE COUNT");
    };
    let address: SocketAddr = address.parse().context("the address")?;
    let source: IpAddr = source.parse().context("the source")?;
    let count: usize = count.parse().context("the count")?;
    let mut held = Vec::new();
    let mut reasons = BTreeMap::<String, usize>::new();
    let mut entries = stream::iter(0..count)
        .map(|number| async move {
            match tokio::time::timeout(PATIENCE, enter(address, source, number)).await {
                Ok(Ok(entry)) => entry,
                Ok(Err(error)) => Entry::Refused(format!("{error:#}")),
                Err(_) => Entry::Refused("no answer".to_owned()),
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(entry) = entries.next().await {
        match entry {
            Entry::Welcomed(socket) => held.push(*socket),
            Entry::Refused(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    drop(entries);
    println!(
        "{}",
        serde_json::json!({ "welcomed": held.len(), "refused": reasons })
    );
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {
        let answers = stream::iter(&mut held)
            .map(|socket| async move {
                matches!(
                    tokio::time::timeout(PATIENCE, ping(socket)).await,
                    Ok(Ok(()))
                )
            })
            .buffer_unordered(AT_ONCE)
            .filter(|answered| std::future::ready(*answered))
            .count()
            .await;
        println!("{}", serde_json::json!({ "answers": answers }));
    }
    Ok(())
}

async fn enter(address: SocketAddr, source: IpAddr, number: usize) -> anyhow::Result<Entry> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(address).await.context("connect")?;
    let uri = format!("ws://{address}/v1/ws");
    let upgrade = ClientBuilder::new()
        .uri(&uri)
        .context("the address")?
        .limits(Limits::default().max_payload_len(Some(FRAME_BYTES)))
        .connect_on(MaybeTlsStream::Plain(stream))
        .await;
    let (mut socket, _) = match upgrade {
        Ok(opened) => opened,
        Err(error) => return Ok(Entry::Refused(error.to_string())),
    };
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        token: format!("dev:{source}-{number}"),
        device: 1,
        ..Hello::default()
    };
    say(&mut socket, Body::Hello(hello)).await?;
    match hear(&mut socket).await? {
        Some(Body::Welcome(_)) => Ok(Entry::Welcomed(Box::new(socket))),
        Some(Body::Error(error)) => Ok(Entry::Refused(format!("error {}", error.code))),
        other => Ok(Entry::Refused(format!("{other:?}"))),
    }
}

async fn ping(socket: &mut Socket) -> anyhow::Result<()> {
    say(socket, Body::Ping(Ping {})).await?;
    match hear(socket).await? {
        Some(Body::Pong(_)) => Ok(()),
        other => anyhow::bail!("{other:?} instead of PONG"),
    }
}

async fn say(socket: &mut Socket, body: Body) -> anyhow::Result<()> {
    let bytes = codec::encode(Encoding::Proto, &Frame::new(1, body));
    socket.send(Message::binary(bytes)).await.context("write")
}

async fn hear(socket: &mut Socket) -> anyhow::Result<Option<Body>> {
    let message = socket.next().await.context("the connection was closed")??;
    let bytes = bytes::Bytes::from(message.into_payload());
    let frame = codec::decode(Encoding::Proto, &bytes, FRAME_BYTES).context("a frame")?;
    Ok(frame.body)
}
