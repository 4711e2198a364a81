//! A stand-in for the node image, in the same layout: Debian's kernel, and an init that says what it finds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use maroonedpods_e2e::system::packages;
use maroonedpods_e2e::system::tools::{self, Tool};
use maroonedpods_image_build::oci::{Files, Image};

pub const IMAGE: &str = "localhost/stand-in:1";
/// What the disk's boot sector says.
pub const BOOT_SECTOR_SAYS: &str = "the boot sector speaks";
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// In this order.
const MODULES: [&str; 14] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "cdrom",
    "isofs",
    "evdev",
    "button",
    "virtio-rng",
];

/// Makes the image in `folder`. Blocks.
pub fn image(folder: &Path) -> PathBuf {
    let kernel = kernel(folder);
    let boot = kernel.join("boot");
    let vmlinuz = entry(&boot, |name| name.starts_with("vmlinuz"));
    let mut files = Files::default();
    files
        .file("/boot/vmlinuz", 0o644, fs::read(vmlinuz).unwrap())
        .unwrap();
    files
        .file("/boot/initrd", 0o644, initrd(folder, &kernel))
        .unwrap();
    files.file("/disk/node.img", 0o644, disk()).unwrap();
    let image = Image {
        name: IMAGE.to_owned(),
        files,
        entrypoint: Vec::new(),
        user: String::new(),
        env: Vec::new(),
        labels: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
    };
    let archive = folder.join("stand-in.tar");
    fs::write(&archive, image.archive().unwrap().bytes).unwrap();
    archive
}

/// Debian's kernel for clouds, unpacked.
fn kernel(folder: &Path) -> PathBuf {
    let depends = run(Command::new("apt-cache").args(["depends", "--important", META_PACKAGE]));
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "));
    packages::download("the stand-in guest", &[package.unwrap()], folder).unwrap();
    let archive = entry(folder, |name| name.starts_with("linux-image"));
    let unpacked = folder.join("kernel");
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .args([&archive, &unpacked]));
    fs::remove_file(archive).unwrap();
    unpacked
}

fn initrd(folder: &Path, kernel: &Path) -> Vec<u8> {
    let root = folder.join("initrd");
    for path in ["bin", "dev", "proc", "sys", "seed", "modules"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    let put = |from: &Path, to: &str| fs::copy(from, root.join(to)).map(drop).unwrap();
    let busybox = run(Command::new("which").arg("busybox"));
    put(Path::new(busybox.trim()), "bin/busybox");
    put(&tools::find(Tool::TestServer).unwrap(), "testserver");
    let modules = run(Command::new("find")
        .arg(kernel.join("lib"))
        .args(["-name", "*.ko"]));
    for module in MODULES {
        let file = format!("{module}.ko");
        let path = modules.lines().find(|path| path.ends_with(&format!("/{file}")));
        put(Path::new(path.unwrap()), &format!("modules/{file}"));
    }
    fs::write(
        root.join("modules/order"),
        MODULES.map(|name| format!("{name}\n")).concat(),
    )
    .unwrap();
    for (name, text) in [
        ("init", include_str!("guest-init.sh")),
        ("control", include_str!("guest-control.sh")),
    ] {
        fs::write(root.join(name), text).unwrap();
        run(Command::new("chmod").arg("755").arg(root.join(name)));
    }
    let pack = "busybox find . | busybox cpio -o -H newc";
    let mut child = Command::new("sh")
        .args(["-c", pack])
        .current_dir(&root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut packed = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut packed).unwrap();
    assert!(child.wait().unwrap().success());
    packed
}

/// A disk of a mebibyte whose boot sector writes to the serial port.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    let code = [
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xbe, 0x15, 0x7c, // mov si, 0x7c15: what follows the code
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xac, // lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz, over the next two
        0xee, // out dx, al
        0xeb, 0xf8, // jmp, back to lodsb
        0xf4, // hlt
        0xeb, 0xfd, // jmp, back to it
    ];
    let text = format!("{BOOT_SECTOR_SAYS}\n\0");
    disk[..code.len()].copy_from_slice(&code);
    disk[code.len()..][..text.len()].copy_from_slice(text.as_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

fn entry(folder: &Path, is: impl Fn(&str) -> bool) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&is))
        .unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
