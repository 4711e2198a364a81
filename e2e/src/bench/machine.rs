//! What a figure was measured on.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine and the build. A fact that cannot be had is empty.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Processors.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
    /// Commit of this repository, with `-dirty` where files differ from it.
    pub commit: String,
    /// Day of the measurement, in UTC.
    pub date: String,
}

impl Machine {
    /// This machine, today.
    #[must_use]
    pub fn here() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: cpu_model(&info).unwrap_or_default().to_owned(),
            cores: info.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: kernel.trim().to_owned(),
            rustc: said_by("rustc", &["--version"]),
            commit: said_by("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            cpu,
            cores,
            kernel,
            rustc,
            commit,
            date,
        } = self;
        write!(
            f,
            "{date}, {cores} x {cpu}, Linux {kernel}, {rustc}, commit {commit}"
        )
    }
}

fn cpu_model(info: &str) -> Option<&str> {
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, model)| model.trim())
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found() {
        let info = "processor\t: 0\nmodel name\t: Example 9000 @ 2GHz\nmodel name\t: second\n";
        assert_eq!(cpu_model(info), Some("Example 9000 @ 2GHz"));
        assert_eq!(cpu_model(""), None);
    }
}
