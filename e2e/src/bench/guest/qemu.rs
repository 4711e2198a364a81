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

/// What QEMU keeps in RAM, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of the guest's memory.
    pub guest: u64,
    /// The guest's code as this machine runs it, where KVM does not: memory that may be written and executed.
    pub translated: u64,
    /// The rest.
    pub other: u64,
}

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

    /// Its memory in RAM; the guest has so many MiB.
    pub fn memory(&self, guest_mi: u64) -> Result<Memory> {
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

/// What is resident of the mapping of the guest's memory, which has this size in KiB, and of the others.
fn split(smaps: &str, guest: u64) -> Option<Memory> {
    let mut memory = Memory {
        guest: 0,
        translated: 0,
        other: 0,
    };
    let (mut found, mut is_guest, mut is_translated) = (false, false, false);
    for line in smaps.lines() {
        let value = |line: &str| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok();
        let mut words = line.split_whitespace();
        if let (Some(_), Some(rights)) = (words.next(), words.next())
            && rights.len() == 4
            && rights.ends_with(['p', 's'])
        {
            is_translated = rights.starts_with("rwx");
        } else if let Some(size) = line.strip_prefix("Size:").and_then(value) {
            is_guest = size == guest;
            found |= is_guest;
        } else if let Some(resident) = line.strip_prefix("Rss:").and_then(value) {
            let part = match (is_guest, is_translated) {
                (true, _) => &mut memory.guest,
                (false, true) => &mut memory.translated,
                (false, false) => &mut memory.other,
            };
            *part += resident;
        }
    }
    found.then_some(memory)
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
        let smaps = "00-10 rw-p 0 00:00 0\nSize:             524288 kB\nRss:              100 kB\nSwapPss: 0 kB\n\
                     20-30 r-xp 0 00:00 1 /qemu\nSize:   64 kB\nRss:   40 kB\n\
                     40-50 rwxp 0 00:00 0\nSize: 8 kB\nRss: 7 kB\nVmFlags: rd wr ex mr\n\
                     60-70 rw-s 0 00:00 0\nSize: 8 kB\nRss: 2 kB\n";
        let memory = Memory {
            guest: 100,
            translated: 7,
            other: 42,
        };
        assert_eq!(split(smaps, 524_288), Some(memory));
        assert_eq!(split(smaps, 1), None);
    }

    #[test]
    fn there_is_no_machine_of_another_number() {
        assert!(Qemu::find("no such uuid").unwrap().is_none());
    }
}
