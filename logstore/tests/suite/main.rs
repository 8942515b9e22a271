//! Tests of the engine as a whole, over real files and over a disk that fails.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod crash;
mod decoders;
mod engine;
mod flips;
mod forward;
mod losses;
mod machine;
mod planted;
mod reserve;
mod room;
mod sweep;
mod versions;
mod workload;
