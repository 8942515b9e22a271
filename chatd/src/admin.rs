//! The port for operators: health, readiness, metrics, the state of the cluster, and
//! the audit that counts what is missing.
//!
//! It is another port than the clients', on loopback unless told otherwise, and off
//! loopback it demands a bearer token. Nothing here changes anything yet.

pub mod audit;
pub mod port;
pub mod routes;
