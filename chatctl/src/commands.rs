//! The command line, and its commands, a file each.

pub(crate) mod audit;
pub(crate) mod chat;
pub(crate) mod conversations;
pub(crate) mod doctor;
pub(crate) mod group;
pub(crate) mod history;
pub(crate) mod inspect;
pub(crate) mod listen;
pub(crate) mod presence;
pub(crate) mod send;
pub(crate) mod status;

use clap::{Parser, Subcommand};

use crate::{
    failure::{self, Failure},
    options::Global,
};

/// Chats with chatd, and looks into it.
#[derive(Debug, Parser)]
#[command(name = "chatctl", version, after_help = failure::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send one message and wait until it is durable.
    Send(send::Options),
    /// Print what arrives, from where this device stopped.
    Listen(listen::Options),
    /// Type to send, see what arrives.
    Chat(chat::Options),
    /// Print the messages of a conversation.
    History(history::Options),
    /// List the conversations, newest first.
    Conversations(conversations::Options),
    /// Create and change groups.
    #[command(subcommand)]
    Group(group::Options),
    /// Show who is there. Only people who have written to you show.
    Presence(presence::Options),
    /// Show a node and its shards, through its admin port.
    Status(status::Options),
    /// Say what is wrong with the node or the connection, and what to do.
    Doctor(doctor::Options),
    /// Look into the data directory of a stopped node.
    Inspect(inspect::Options),
    /// Read the whole inbox and the history of every conversation, and report what is
    /// lost, doubled or out of order, and which groups' members do not follow from their events.
    Audit(audit::Options),
}

/// Runs what was asked for.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let global = &arguments.global;
    match arguments.command {
        Command::Send(options) => send::run(global, options).await,
        Command::Listen(options) => listen::run(global, options).await,
        Command::Chat(options) => Box::pin(chat::run(global, options)).await,
        Command::History(options) => history::run(global, options).await,
        Command::Conversations(options) => conversations::run(global, options).await,
        Command::Group(options) => group::run(global, options).await,
        Command::Presence(options) => presence::run(global, options).await,
        Command::Status(options) => status::run(global, options).await,
        Command::Doctor(options) => doctor::run(global, options).await,
        Command::Inspect(options) => inspect::run(global, &options),
        Command::Audit(options) => audit::run(global, options).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_name_of_a_group_is_not_taken_for_the_person() {
        let arguments =
            Arguments::parse_from(["chatctl", "--as", "alice", "group", "create", "friends"]);
        assert_eq!(arguments.global.as_person.as_deref(), Some("alice"));
    }
}
