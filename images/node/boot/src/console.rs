//! What the console says: one line per phase and per error, for people and for programs that time a boot.

use std::fmt;
use std::io::{self, Write};

use anyhow::Error;
use nix::time::{ClockId, clock_gettime};

/// The steps of a boot, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The initrd's init runs.
    Initrd,
    /// The root's init runs.
    Init,
    /// The seed is read and found good.
    Seed,
    /// The uplink has its address.
    Network,
    /// containerd answers.
    Containerd,
    /// The kubelet is started.
    Kubelet,
    /// The client certificate is there, and the token gone.
    Certificate,
    /// The serving certificate is there.
    Serving,
    /// The machine is being switched off.
    PowerOff,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initrd => "initrd",
            Self::Init => "init",
            Self::Seed => "seed",
            Self::Network => "network",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::Certificate => "certificate",
            Self::Serving => "serving",
            Self::PowerOff => "poweroff",
        })
    }
}

/// Says that a phase is reached.
pub fn reached(phase: Phase) {
    // Seconds since the kernel started. A clock that cannot be read must not stop the boot.
    let (seconds, millis) = match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(time) => (time.tv_sec(), time.tv_nsec() / 1_000_000),
        Err(_) => (0, 0),
    };
    say(&format!(
        "marooned: phase={phase} elapsed={seconds}.{millis:03}\n"
    ));
}

/// Says what failed and why, on one line.
pub fn error(error: &Error) {
    say(&error_line(error));
}

fn error_line(error: &Error) -> String {
    let text = format!("{error:#}");
    let words: Vec<&str> = text.split_whitespace().collect();
    format!("marooned: error {}\n", words.join(" "))
}

/// One write per line, so that no other program's output gets in between. A console that is gone must not stop the
/// guest.
fn say(line: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = anyhow!("line 1\n  line 2").context("join-info.yaml cannot be used");
        assert_eq!(
            error_line(&error),
            "marooned: error join-info.yaml cannot be used: line 1 line 2\n"
        );
    }
}
