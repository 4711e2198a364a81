//! What the kernel says of a process: proc(5).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// To the kernel, the thread that asks.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Processor time of a process's threads so far, user and system, in the scheduler's nanoseconds: what
/// `/proc/<pid>/stat` has is in ticks of 10 ms.
pub fn cpu_time(process: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // One that ended in between is forgotten, here and by the kernel.
        if let Ok(stat) = fs::read_to_string(thread?.path().join("schedstat")) {
            total += run_time(&stat).with_context(|| format!("a schedstat reads {stat}"))?;
        }
    }
    Ok(total)
}

/// Ids of the processes that there are. Any may end before it is looked at.
pub fn ids() -> Result<Vec<u32>> {
    let names = fs::read_dir("/proc")?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<Result<Vec<_>>>()?;
    Ok(names
        .iter()
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

/// Memory of a process that is in RAM, in bytes; what several processes share is divided among them (PSS).
pub fn proportional_bytes(process: u32) -> Result<u64> {
    let rollup = read(process, "smaps_rollup")?;
    bytes(&rollup, "Pss").with_context(|| format!("/proc/{process}/smaps_rollup has no Pss"))
}

/// Memory of a process that is in RAM, in bytes.
pub fn resident_bytes(process: u32) -> Result<u64> {
    memory(process, "VmRSS")
}

/// The most that it ever was.
pub fn peak_resident_bytes(process: u32) -> Result<u64> {
    memory(process, "VmHWM")
}

/// The processors that this thread may run on.
pub fn allowed_cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(THIS_THREAD)?;
    Ok((0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect())
}

/// Binds a process, or with `None` this thread, to one processor. Threads made later inherit it.
pub fn pin(process: Option<u32>, cpu: usize) -> Result<()> {
    let process = match process {
        Some(id) => Pid::from_raw(i32::try_from(id)?),
        None => THIS_THREAD,
    };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(process, &set).with_context(|| format!("binding to processor {cpu}"))
}

fn memory(process: u32, field: &str) -> Result<u64> {
    let status = read(process, "status")?;
    bytes(&status, field).with_context(|| format!("/proc/{process}/status has no {field}"))
}

fn read(process: u32, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{process}/{file}"))
        .with_context(|| format!("process {process} is not there"))
}

fn run_time(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().next()?;
    Some(Duration::from_nanos(nanoseconds.parse().ok()?))
}

fn bytes(status: &str, field: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_time_comes_first() {
        assert_eq!(run_time("1500 77 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(run_time(""), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    9000 kB\nVmRSS:\t    8192 kB\n";
        assert_eq!(bytes(status, "VmRSS"), Some(8 << 20));
        assert_eq!(bytes(status, "VmSwap"), None);
        let rollup = "55-7f ---p 0 00:00 0 [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Anon: 7 kB\n";
        assert_eq!(bytes(rollup, "Pss"), Some(1 << 20));
    }

    #[test]
    fn this_process_is_there() {
        let own = std::process::id();
        assert!(ids().unwrap().contains(&own));
        assert!(resident_bytes(own).unwrap() > 0);
        assert!(proportional_bytes(own).unwrap() > 0);
        assert!(peak_resident_bytes(own).unwrap() >= resident_bytes(own).unwrap() / 2);
        assert!(cpu_time(own).is_ok());
        assert!(!allowed_cpus().unwrap().is_empty());
    }
}
