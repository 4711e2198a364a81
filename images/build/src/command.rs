//! Runs programs, says what is going on, and writes what was built.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a command and returns its standard output.
///
/// # Errors
/// The command cannot be run, or fails: then the error shows its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().context("running a tool")?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints a line on stderr at once. `eprintln!` would do, but for the test runner, which withholds what a test prints.
pub fn say(line: &str) {
    // Without a stderr there is no place to report the failure.
    let _ = writeln!(io::stderr(), "{line}");
}

/// The last `count` lines of a log, for an error message.
#[must_use]
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Writes a file at once or not at all: another test program may be reading the one that is there.
pub(crate) fn put(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = folder.join(name);
    let unfinished = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    fs::write(unfinished.path(), content)?;
    unfinished.persist(&path)?;
    Ok(path)
}
