//! Segments and shards through their public face: against a model, on damaged
//! files, and on the samples of every version.

#![expect(
    clippy::unwrap_used,
    reason = "what the tests share belongs to tests, too"
)]

mod bounds;
mod cold;
mod damage;
mod fixture;
mod model;
mod pages;
mod planted;
mod repair;
mod samples;
