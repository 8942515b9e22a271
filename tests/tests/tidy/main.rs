//! Rules of the house that no compiler checks: who may use whom, what may stand where,
//! and documents that are true.
//!
//! Every rule reads the sources themselves. A rule that fails says what to do; a rule
//! that is wrong is changed here, with its reason.

mod arrows;
mod documents;
mod protocol;
mod sources;
mod tree;
