//! The main job: real conversations through a real node, with everything killed on
//! the way, and every device's view compared with the dataset at the end.

pub mod plan;
