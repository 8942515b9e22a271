//! Segments and shards through their public face: against a model, on damaged
//! files, and on the samples of every version.

mod damage;
mod fixture;
mod model;
mod samples;
