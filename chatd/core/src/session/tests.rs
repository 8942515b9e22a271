//! Sessions driven by frames, without a host.

use super::*;
use chat_wire::frame::Hello;

/// Memory of an idle attached session stays small: this is its own part.
#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() < 256, "{} bytes", size_of::<Session>());
    assert!(size_of::<Hello>() > 0);
}
