//! What went wrong, what to do about it, and the exit code that scripts see.

use chat_client::{Code, ConnectError, Refused, RequestError, SendError, admin::AdminError};

/// The server refused, or something else failed.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong (clap's own code).
pub(crate) const USAGE: u8 = 2;
/// No server there.
pub(crate) const UNREACHABLE: u8 = 3;
/// The token is refused.
pub(crate) const TOKEN: u8 = 4;
/// A check found something: `doctor`, `audit`, `inspect --verify`.
pub(crate) const FOUND: u8 = 5;
/// No answer in time: whether it was done is not known.
pub(crate) const UNKNOWN: u8 = 6;

/// The table of exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused by the server, or failed
  2  the command line is wrong
  3  no server or node there
  4  the token is refused
  5  doctor, audit or inspect found something
  6  no answer in time: whether it was done is not known

Try it: `cargo run --release --bin chatd -- --dev` in one terminal, then
  chatctl --as alice chat bob        and in another        chatctl --as bob chat alice";

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a person reads, line by line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let message = Some(&self.message).filter(|message| !message.is_empty());
        let message = message.map(|message| format!("error: {message}"));
        let hint = self.hint.as_ref().map(|hint| format!("       {hint}"));
        message.into_iter().chain(hint)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

fn refused(refused: &Refused, what: String) -> Failure {
    let code = match refused.number {
        200..300 => TOKEN,
        _ => FAILED,
    };
    let failure = Failure::new(code, what);
    match refused.code {
        Some(Code::NotFound) => failure.hint(
            "nobody of that name has connected or been written to yet, \
             or it belongs to another app",
        ),
        Some(Code::NotMember) => failure.hint("ask an admin of the group to add you"),
        Some(Code::NotAllowed) => {
            failure.hint("see your role with `chatctl group show`; an owner can change it")
        }
        Some(Code::BadToken | Code::WrongAudience | Code::TokenExpired) => failure.hint(
            "give a valid token with --token or --token-file; \
             `--as NAME` works only with a server started with --dev",
        ),
        _ => failure,
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let text = error.to_string();
        match error {
            ConnectError::Refused(why) => refused(&why, text),
            ConnectError::Token(_) => Self::new(TOKEN, text),
            ConnectError::Unreachable { .. } => Self::new(UNREACHABLE, text).hint(
                "is chatd running there? `chatd --dev` starts one on this machine; \
                 `chatctl doctor` looks for the reason",
            ),
            ConnectError::Trust(_) => Self::new(FAILED, text).hint("see --ca-file"),
            ConnectError::Replaced => Self::new(FAILED, text)
                .hint("give this terminal a device of its own: --device-name phone"),
            ConnectError::Config(_) | ConnectError::Queue(_) | ConnectError::Closed => {
                Self::new(FAILED, text)
            }
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let text = error.to_string();
        match error {
            SendError::Refused { refused: why, .. } => refused(&why, text),
            SendError::Abandoned { .. } | SendError::Closed => Self::new(UNKNOWN, text),
            SendError::QueueFull { .. } | SendError::Queue(_) => Self::new(FAILED, text),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let text = error.to_string();
        match error {
            RequestError::Refused(why) => refused(&why, text),
            RequestError::TimedOut { .. } | RequestError::Closed => Self::new(UNKNOWN, text),
            RequestError::UnexpectedAnswer => Self::new(FAILED, text),
        }
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let text = error.to_string();
        match error {
            AdminError::Unreachable { .. } => Self::new(UNREACHABLE, text).hint(
                "is chatd running there? its admin port is 7444 on loopback unless \
                 it was started with --admin-listen; say so with --admin",
            ),
            AdminError::NotAdmin { .. } => Self::new(FAILED, text),
            AdminError::Refused { status: 401, .. } => {
                Self::new(TOKEN, text).hint("give the admin credential with --admin-token-file")
            }
            AdminError::Refused { .. } => Self::new(FAILED, text),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(FAILED, error.to_string())
    }
}
