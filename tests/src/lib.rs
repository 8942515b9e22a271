//! Tests over the whole system, and what they are made of: the real conversations
//! ([`dataset`]), the [`replay`] that plays them, the [`checker`] that believes nobody,
//! real processes to try them on ([`node`]), and a bare [`socket`] to speak to them.

pub mod checker;
pub mod dataset;
pub mod node;
pub mod python;
pub mod replay;
pub mod skip;
pub mod socket;
