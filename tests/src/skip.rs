//! How a test says that it could not run here: one line that `cargo xtask test` counts
//! as skipped and repeats at the end, instead of passing without a word.

/// Prints the line. The test then returns.
pub fn skipped(test: &str, reason: &str) {
    println!("SKIPPED: {test}: {reason}");
}
