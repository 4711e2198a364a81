//! promtool, from Debian's package where it is not installed: it is only unpacked, nothing is installed or started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

const ELSEWHERE: &str = "put promtool on the PATH (it is part of Prometheus)";

/// Runs promtool in a folder; panics with its own words where it does not agree.
pub fn promtool(folder: &Path, arguments: &[&str]) {
    let output = Command::new(find())
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "promtool {arguments:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn find() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let installed = env::var_os("PATH")
            .iter()
            .flat_map(env::split_paths)
            .map(|folder| folder.join("promtool"))
            .find(|program| program.exists());
        installed.unwrap_or_else(unpacked)
    })
}

fn unpacked() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kept = folder.join("promtool");
    if !kept.exists() {
        let work = tempfile::tempdir_in(folder).unwrap();
        if run(work.path(), "apt-get", &["download", "--quiet", "prometheus"]).is_err() {
            // A new machine has no lists of packages yet.
            run(work.path(), "apt-get", &["update", "--quiet"])
                .unwrap_or_else(|why| panic!("{why}; {ELSEWHERE}"));
            run(work.path(), "apt-get", &["download", "--quiet", "prometheus"])
                .unwrap_or_else(|why| panic!("{why}; {ELSEWHERE}"));
        }
        let package = fs::read_dir(work.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .file_name();
        run(
            work.path(),
            "dpkg-deb",
            &["--extract", package.to_str().unwrap(), "."],
        )
        .unwrap();
        fs::rename(work.path().join("usr/bin/promtool"), &kept).unwrap();
    }
    kept
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .current_dir(folder)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program} does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments:?} failed: {}", errors.trim()))
}
