//! Which disk is which: by virtio serial, and the seed by its label.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a disk may take to appear after its driver was loaded.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// Serial of the root disk where the kernel's command line names none.
const ROOT_SERIAL: &str = "root";
/// How a root is named on the command line; udev would make links of such names.
const BY_SERIAL: &str = "/dev/disk/by-id/virtio-";
/// A disk whose beginning is all zeros has no file system: an ext4 says what it is at 1,024 bytes.
const BLANK_BYTES: usize = 64 * 1024;
/// The label of a `NoCloud` seed, in either case.
const SEED_LABEL: &str = "cidata";
/// Where an ISO 9660 file system has its primary volume descriptor, and in that its label (ECMA-119, 8.4).
const DESCRIPTOR_AT: u64 = 16 * 2048;
const DESCRIPTOR_START: &[u8] = b"\x01CD001";
const LABEL_IN_DESCRIPTOR: std::ops::Range<usize> = 40..72;

/// The serial of the root disk that a kernel command line names.
///
/// # Errors
/// It names a root in a way that needs udev.
pub fn root_serial(command_line: &str) -> Result<&str> {
    let root = command_line
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("root="));
    match root {
        None => Ok(ROOT_SERIAL),
        Some(root) => root
            .strip_prefix(BY_SERIAL)
            .filter(|serial| !serial.is_empty())
            .with_context(|| format!("root={root} on the kernel's command line is not {BY_SERIAL}<serial>")),
    }
}

/// Waits for the disk with a serial. What comes back is a name in `/sys/block` and `/dev`.
pub fn wait_for_serial(serial: &str) -> Result<String> {
    wait(&format!("no disk has the serial {serial}"), || {
        Ok(disks(Path::new("/sys/block"))?.into_iter().find(|name| {
            let path = Path::new("/sys/block").join(name).join("serial");
            fs::read_to_string(path).is_ok_and(|found| found.trim_end() == serial)
        }))
    })
}

/// Waits for the disk labelled `cidata`.
pub fn wait_for_seed() -> Result<String> {
    wait(
        "no disk has the label cidata: the VM needs a cloudInitNoCloud volume",
        || {
            Ok(disks(Path::new("/sys/block"))?
                .into_iter()
                .find(|name| File::open(device(name)).is_ok_and(|disk| is_seed(&disk))))
        },
    )
}

/// The device of a disk's last partition, or the disk's own if it has none.
pub fn last_partition(disk: &str) -> Result<PathBuf> {
    let folder = Path::new("/sys/block").join(disk);
    let last = partitions(&folder, disk)?.into_iter().next_back();
    Ok(device(&last.map_or_else(|| disk.to_owned(), |(_, name)| name)))
}

/// The device of a disk or partition.
#[must_use]
pub fn device(name: &str) -> PathBuf {
    Path::new("/dev").join(name)
}

/// Whether nothing was ever written to the beginning of a disk.
pub fn is_blank(mut disk: impl Read) -> Result<bool> {
    let mut beginning = vec![0; BLANK_BYTES];
    disk.read_exact(&mut beginning)
        .context("reading a disk's beginning")?;
    Ok(beginning.iter().all(|&byte| byte == 0))
}

fn is_seed(disk: &File) -> bool {
    let mut descriptor = [0; 2048];
    disk.read_exact_at(&mut descriptor, DESCRIPTOR_AT).is_ok()
        && label(&descriptor).is_some_and(|label| label.eq_ignore_ascii_case(SEED_LABEL))
}

/// The label in an ISO 9660 primary volume descriptor, if this is one.
fn label(descriptor: &[u8]) -> Option<&str> {
    if !descriptor.starts_with(DESCRIPTOR_START) {
        return None;
    }
    let label = descriptor.get(LABEL_IN_DESCRIPTOR)?;
    std::str::from_utf8(label)
        .ok()
        .map(|label| label.trim_end_matches([' ', '\0']))
}

fn disks(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Numbers and names of a disk's partitions, in order.
fn partitions(folder: &Path, disk: &str) -> Result<Vec<(u32, String)>> {
    let mut partitions = Vec::new();
    for name in disks(folder)?.into_iter().filter(|name| name.starts_with(disk)) {
        match fs::read_to_string(folder.join(&name).join("partition")) {
            Ok(number) => partitions.push((number.trim().parse()?, name)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading partition {name}")),
        }
    }
    partitions.sort();
    Ok(partitions)
}

fn wait<T>(missing: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{missing} ({} s waited)", PATIENCE.as_secs());
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_command_line_names_the_root_by_serial() {
        assert_eq!(root_serial("console=ttyS0 ro").unwrap(), "root");
        assert_eq!(
            root_serial("root=/dev/disk/by-id/virtio-abc ro\n").unwrap(),
            "abc"
        );
        assert!(root_serial("root=UUID=1234").is_err());
        assert!(root_serial("root=/dev/disk/by-id/virtio-").is_err());
    }

    #[test]
    fn a_seed_is_known_by_its_label() {
        let mut descriptor = [b' '; 2048];
        descriptor[..6].copy_from_slice(DESCRIPTOR_START);
        descriptor[40..46].copy_from_slice(b"cidata");
        assert_eq!(label(&descriptor), Some("cidata"));
        descriptor[0] = 2;
        assert_eq!(label(&descriptor), None);
        assert_eq!(label(DESCRIPTOR_START), None);
    }

    #[test]
    fn a_disk_is_blank_until_something_is_written() {
        assert!(is_blank(io::repeat(0)).unwrap());
        assert!(!is_blank(io::repeat(0).take(1080).chain(io::repeat(0xef))).unwrap());
        assert!(is_blank(io::empty()).is_err());
    }

    #[test]
    fn partitions_are_ordered_by_number() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("queue")).unwrap();
        for number in [1, 10, 2] {
            let partition = folder.path().join(format!("vda{number}"));
            fs::create_dir(&partition).unwrap();
            fs::write(partition.join("partition"), format!("{number}\n")).unwrap();
        }
        let names: Vec<_> = partitions(folder.path(), "vda")
            .unwrap()
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        assert_eq!(names, ["vda1", "vda2", "vda10"]);
    }
}
