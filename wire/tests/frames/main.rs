//! Every frame of the schema, in both encodings: properties, and golden samples.

mod generator;
mod layouts;
mod properties;
mod reference;
mod samples;
