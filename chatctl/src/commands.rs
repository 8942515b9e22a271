//! The commands, a file each.

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

use crate::{
    failure::Failure,
    options::{Arguments, Command},
};

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
