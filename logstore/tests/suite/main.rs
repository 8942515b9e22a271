//! Tests of the engine as a whole, over real files and over a disk that fails.

mod engine;
mod workload;
