//! The disk: a master boot record, GRUB in the gap behind it, and the root file system as the only partition. GRUB's core
//! image holds its configuration and reads kernel and initrd from the root file system; there is no second copy of
//! anything, and no file system that would have to be mounted to be filled.

use anyhow::{Context, Result, ensure};

const SECTOR: usize = 512;
/// Where partitions begin by convention, in sectors (1 MiB): the gap before it is the boot loader's.
const ROOT_BEGINS: usize = 2048;
/// GRUB's program in the boot sector; behind it are a disk's own fields and the partition table.
const PROGRAM: usize = 440;
const PARTITION_TABLE: usize = 446;
/// The type of a Linux partition.
const LINUX: u8 = 0x83;

/// The parts of GRUB for a PC's BIOS, as `grub-mkimage` leaves them.
pub(super) struct Grub {
    /// What the BIOS loads. It loads the next sector.
    pub(super) boot: Vec<u8>,
    /// That sector, which loads the rest, and the rest.
    pub(super) core: Vec<u8>,
}

/// GRUB's configuration: `root` is the disk that it was loaded from.
pub(super) fn grub_configuration(kernel_arguments: &str) -> String {
    format!(
        "set root=($root,msdos1)
linux /boot/vmlinuz {kernel_arguments}
initrd /boot/initrd
boot
"
    )
}

/// A raw disk with `root` as its one partition, bootable where there is a GRUB.
///
/// # Errors
/// GRUB does not fit its gap, or the root file system a partition.
pub(super) fn disk(grub: Option<&Grub>, root: &[u8]) -> Result<Vec<u8>> {
    let sectors = root.len().div_ceil(SECTOR);
    let length = u32::try_from(sectors).context("the root file system is larger than a partition can be")?;
    let begins = u32::try_from(ROOT_BEGINS)?;
    let mut disk = vec![0; ROOT_BEGINS * SECTOR];
    if let Some(grub) = grub {
        ensure!(
            grub.boot.len() >= PROGRAM && grub.core.len() <= disk.len() - SECTOR,
            "GRUB has an odd size: {} and {} bytes",
            grub.boot.len(),
            grub.core.len()
        );
        disk[..PROGRAM].copy_from_slice(&grub.boot[..PROGRAM]);
        disk[SECTOR..SECTOR + grub.core.len()].copy_from_slice(&grub.core);
    }
    // Active, and with the cylinders that say that only the sector numbers count.
    let mut entry = vec![0x80, 0xfe, 0xff, 0xff, LINUX, 0xfe, 0xff, 0xff];
    entry.extend(begins.to_le_bytes());
    entry.extend(length.to_le_bytes());
    disk[PARTITION_TABLE..PARTITION_TABLE + entry.len()].copy_from_slice(&entry);
    disk[SECTOR - 2..SECTOR].copy_from_slice(&[0x55, 0xaa]);
    disk.extend_from_slice(root);
    disk.resize((ROOT_BEGINS + sectors) * SECTOR, 0);
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_file_system_is_the_only_partition() {
        let disk = disk(None, &[7; 1000]).unwrap();
        assert_eq!(disk.len(), (2048 + 2) * 512);
        assert_eq!(disk[2048 * 512..2048 * 512 + 1000], [7; 1000]);
        assert_eq!(disk[446], 0x80);
        assert_eq!(disk[450], 0x83);
        assert_eq!(disk[454..462], [0, 8, 0, 0, 2, 0, 0, 0]);
        assert_eq!(disk[462..510], [0; 48]);
        assert_eq!(disk[510..512], [0x55, 0xaa]);
        assert_eq!(disk[..440], [0; 440]);
    }

    #[test]
    fn grub_lies_before_it_and_leaves_the_table_alone() {
        let grub = Grub {
            boot: vec![1; 512],
            core: vec![2; 600],
        };
        let disk = disk(Some(&grub), &[7]).unwrap();
        assert_eq!(disk[..440], [1; 440]);
        assert_eq!(disk[440..446], [0; 6]);
        assert_eq!(disk[512..1112], [2; 600]);
        assert_eq!(disk[1112], 0);
    }

    #[test]
    fn a_grub_that_is_too_large_is_refused() {
        let grub = Grub {
            boot: vec![1; 512],
            core: vec![2; 2048 * 512],
        };
        assert!(disk(Some(&grub), &[7]).is_err());
    }
}
