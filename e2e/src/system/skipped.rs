//! Reports tests that are skipped because this machine lacks what they need.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;

use maroonedpods_image_build::command::say;

/// Environment variable with the path of a file to which each skipped test is added, as a line with its name, a tab and
/// the reason. `hack/test` sums them up.
const NOT_RUN: &str = "MAROONEDPODS_NOT_RUN";

/// Reports that a test was skipped, and why: on stderr, and in the last line of `hack/test`.
pub(crate) fn leave_out(test: &str, reason: &str) {
    say(&format!("not run: {test}: {reason}"));
    if let Some(list) = env::var_os(NOT_RUN) {
        let added = OpenOptions::new().append(true).create(true).open(&list);
        if let Err(error) = added.and_then(|mut list| writeln!(list, "{test}\t{reason}")) {
            say(&format!("{NOT_RUN}: {error}"));
        }
    }
}
