//! The main job: real conversations through a real node, with everything killed on
//! the way, and every device's view compared with the dataset at the end.
//!
//! Read downwards: [`run`] puts it together; [`plan`] says what is said by whom after what;
//! a [`player`] is one live device; [`child`] is one in a process of its own, which
//! [`faults`] kills like the server; [`comparison`] has the devices that synchronise only
//! at the end, and asks the checker; [`figures`] is the table and the plot.

pub mod cast;
pub mod child;
pub mod comparison;
pub mod faults;
pub mod figures;
pub mod ledger;
pub mod plan;
pub mod player;
pub mod run;
pub mod script;
pub mod stage;
