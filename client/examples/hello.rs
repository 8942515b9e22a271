//! Says hello to bob, and prints what comes.

use chat_client::{Client, Config, Content, Incoming, Start, Target, Token};
use chat_client::{frame::event::What, ids::ConversationId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args().nth(1);
    let endpoint = endpoint.as_deref().unwrap_or("ws://127.0.0.1:7443");
    let mut config = Config::new(endpoint.parse()?, Token::dev("alice"), 1);
    config.start = Start::From(0); // everything that waits in the inbox
    let (client, mut events) = Client::connect(config).await?;
    println!("connected as {}", client.name());

    // Queued at once; the pending message is answered when it is durable.
    let pending = client
        .send(Target::name("bob"), Content::text("hello"))
        .await?;
    let sent = pending.await?;
    println!("message {} is committed", sent.msg_id);

    while let Some(incoming) = events.recv().await {
        match incoming {
            Incoming::Event(event) => {
                if let Some(What::Message(message)) = &event.what {
                    println!("{}: {:?}", event.sender_name, message.content);
                }
                client.mark(ConversationId(event.conversation), event.msg_id); // SEEN
            }
            Incoming::Receipt(receipt) => println!("seen up to {}", receipt.seen_up_to),
            Incoming::Closed(error) => return Err(error.into()),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}
