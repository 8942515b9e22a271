//! Every bound of the protocol in one place: what a client may send, and what the
//! server sends at most.

/// Longest frame a client may send, in bytes.
pub const FRAME_BYTES: u32 = 256 * 1024;
/// Longest frame the server sends: one event alone, in JSON.
pub const SERVER_FRAME_BYTES: u32 = 1024 * 1024;
/// Longest encoded content of a message, in bytes.
pub const CONTENT_BYTES: u32 = 64 * 1024;
/// Events in one EVENT frame.
pub const EVENT_BATCH: usize = 256;
/// Encoded bytes in one EVENT or PAGE, unless a single event is longer.
pub const EVENT_BATCH_BYTES: usize = 128 * 1024;
/// Entries in one PAGE of history, conversations, members or marks.
pub const PAGE: u32 = 200;
/// Longest name of a user, app or group, in bytes.
pub const NAME_BYTES: usize = crate::event::MAX_NAME_BYTES;
/// Longest token in HELLO or REAUTH, in bytes.
pub const TOKEN_BYTES: usize = 8 * 1024;
/// Longest type of a custom content, in bytes.
pub const CUSTOM_TYPE_BYTES: usize = 128;
/// Longest address of a media reference, in bytes.
pub const MEDIA_URL_BYTES: usize = 2048;
/// Protobuf fields, or JSON values, in one frame from a client.
pub const FRAME_FIELDS: usize = 8 * 1024;
/// Nesting of one frame.
pub const FRAME_DEPTH: usize = 16;
/// How far ahead of the server's clock a client id may be dated, in ms.
pub const ID_AHEAD_MS: u64 = 10 * 60 * 1000;
/// How far ahead of the server's clock `after` counts, whatever it names, in ms. A rule of
/// the state machine, as the next one: another value needs another format of its entries.
pub const AFTER_AHEAD_MS: u64 = 5_000;
/// How far ahead of the server's clock `after` counts if it names a message that stands in
/// the conversation, in ms. What is above does not count.
pub const AFTER_KNOWN_AHEAD_MS: u64 = 30_000;
/// What a client may send before WELCOME, in bytes: TLS, HTTP and HELLO together over TCP,
/// the session stream over QUIC.
pub const HELLO_BYTES: u32 = 16 * 1024;
/// Time for HELLO to arrive, from the first byte of the connection, in ms.
pub const HELLO_TIMEOUT_MS: u64 = 5_000;
/// The lowest and highest protocol version of this build.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

/// The bounds an operator can set; WELCOME carries them to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest frame a client may send, in bytes.
    pub frame_bytes: u32,
    /// Longest encoded content of a message, in bytes.
    pub content_bytes: u32,
    /// SENDs a second of one device, sustained.
    pub sends_per_second: u32,
    /// SENDs of one device at once.
    pub sends_burst: u32,
    /// Users whose presence one session follows.
    pub presence_subscriptions: u32,
    /// Members of a group.
    pub group_members: u32,
    /// Devices of a user; one more replaces the longest unseen.
    pub devices: u32,
    /// Users mentioned in a message.
    pub mentions: u32,
    /// Entries in a PAGE.
    pub history_page: u32,
    /// Requests of one session that wait for an answer; one more is OVERLOADED.
    pub in_flight: u32,
    /// Events a session takes before it grants more, unless HELLO says otherwise.
    pub event_credits: u32,
    /// Bulk frames a session takes before it grants more.
    pub bulk_credits: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: FRAME_BYTES,
            content_bytes: CONTENT_BYTES,
            sends_per_second: 100,
            sends_burst: 200,
            presence_subscriptions: 1_000,
            group_members: 1_024,
            devices: 20,
            mentions: 100,
            history_page: PAGE,
            in_flight: 256,
            event_credits: 512,
            bulk_credits: 16,
        }
    }
}
