//! Tests of the engine as a whole, over real files and over a disk that fails.

mod crash;
mod engine;
mod flips;
mod machine;
mod planted;
mod sweep;
mod workload;
