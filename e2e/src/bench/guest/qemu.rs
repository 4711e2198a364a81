//! The QEMU of a guest, as this machine's kernel sees it: nodes have namespaces of their own, and are still visible
//! here.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::bench::proc;

/// Ticks of `/proc/<pid>/stat` in a second: the same on all architectures of today.
const TICKS: f64 = 100.0;
/// What a process of QEMU is called; the kernel keeps 15 characters.
const NAME: &str = "qemu-system-x86";

/// A running one.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// Its process id.
    pub id: u32,
    /// When it was started: what is called power-on. To a hundredth of a second.
    pub started: Timestamp,
}

impl Qemu {
    /// That of the machine with this firmware UUID; none while there is none.
    pub fn find(uuid: &str) -> Result<Option<Self>> {
        for id in proc::ids()? {
            let path = PathBuf::from(format!("/proc/{id}"));
            // Others come and go meanwhile.
            let Ok(command) = fs::read(path.join("cmdline")) else {
                continue;
            };
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let arguments: Vec<&[u8]> = command.split(|&byte| byte == 0).collect();
            if name.trim() != NAME || !arguments.contains(&uuid.as_bytes()) {
                continue;
            }
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            let uptime = fs::read_to_string("/proc/uptime")?;
            let age = age(&stat, &uptime).with_context(|| format!("QEMU's stat reads {stat}"))?;
            return Ok(Some(Self {
                id,
                started: Timestamp::now() - age,
            }));
        }
        Ok(None)
    }

    /// Processor time so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        proc::cpu_time(self.id)
    }

    /// Its memory in RAM, in KiB: the part that is the memory of the guest, which has so many MiB, and the rest.
    pub fn memory(&self, guest_mi: u64) -> Result<(u64, u64)> {
        let maps = fs::read_to_string(format!("/proc/{}/smaps", self.id))?;
        split(&maps, guest_mi * 1024).context("QEMU has no mapping as large as the guest's memory")
    }
}

/// Since when a process runs, from its stat and the machine's uptime.
fn age(stat: &str, uptime: &str) -> Option<Duration> {
    // The name may have spaces and parentheses in it; what follows has none.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64((uptime - ticks / TICKS).max(0.0)).ok()
}

/// What is resident of the mappings of this size, and of all others; sizes in KiB.
fn split(smaps: &str, guest: u64) -> Option<(u64, u64)> {
    let (mut of_guest, mut other, mut found) = (0, 0, false);
    let mut is_guest = false;
    for line in smaps.lines() {
        let value = |line: &str| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok();
        if let Some(size) = line.strip_prefix("Size:").and_then(value) {
            is_guest = size == guest;
            found |= is_guest;
        } else if let Some(resident) = line.strip_prefix("Rss:").and_then(value) {
            *(if is_guest { &mut of_guest } else { &mut other }) += resident;
        }
    }
    found.then_some((of_guest, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_as_old_as_its_stat_says() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 1250 0 0\n";
        assert_eq!(age(stat, "20.00 30.00\n"), Some(Duration::from_millis(7_500)));
        assert_eq!(age("odd", "20.00"), None);
    }

    #[test]
    fn the_guests_memory_is_told_from_the_rest() {
        let smaps = "00-10 rw-p 0 00:00 0\nSize:             524288 kB\nRss:              100 kB\n\
                     20-30 r-xp 0 00:00 1 /qemu\nSize:   64 kB\nRss:   40 kB\nSize: 8 kB\nRss: 2 kB\n";
        assert_eq!(split(smaps, 524_288), Some((100, 42)));
        assert_eq!(split(smaps, 1), None);
    }

    #[test]
    fn there_is_no_machine_of_another_number() {
        assert!(Qemu::find("no such uuid").unwrap().is_none());
    }
}
