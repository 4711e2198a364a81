//! Finds out whether KVM works here, by using it: with the QEMU of `KubeVirt`'s image.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use maroonedpods_image_build::command::say;

/// Usual is a fifth of a second.
const EMULATION_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// What QEMU exits with when a guest writes 16 to `isa-debug-exit`.
const DONE: i32 = 33;
/// Runs a program in the file system of an image, with the machine's devices and a folder as `/tmp`; ends with its parent.
const IN_IMAGE: &str = r#"root=$1 folder=$2
shift 2
mount --bind /dev "$root/dev" && mount --bind "$folder" "$root/tmp" &&
    exec setpriv --pdeathsig KILL chroot "$root" "$@""#;
const DISK: usize = 1 << 20;

/// Whether guests may use KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kvm {
    /// Emulate.
    Never,
    /// Use it where it works: a tiny guest must end no later with it than when it is emulated.
    Auto,
}

/// Whether guests have to be emulated; says so where there was a choice. `root` is the file system of the image. Blocks
/// for up to a second or so.
pub(super) fn needed(kvm: Kvm, root: &Path) -> Result<bool> {
    if kvm == Kvm::Never || !Path::new("/dev/kvm").exists() {
        return Ok(true);
    }
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("disk"), boot_sector())?;
    let emulated =
        run(root, folder.path(), "tcg", EMULATION_LIMIT)?.context("QEMU cannot run a tiny guest")?;
    let needed = run(root, folder.path(), "kvm", emulated)?.is_none();
    say(if needed {
        "guests are emulated: KVM fails here, or is slower than that"
    } else {
        "guests run with KVM"
    });
    Ok(needed)
}

/// A disk whose boot sector counts down from 2^28 and ends its machine.
fn boot_sector() -> Vec<u8> {
    let mut disk = vec![0; DISK];
    let code = [
        0x66, 0xb9, 0x00, 0x00, 0x00, 0x10, // mov ecx, 0x10000000
        0x66, 0x49, // dec ecx
        0x75, 0xfc, // jnz, back to it
        0xba, 0x01, 0x05, // mov dx, 0x501
        0xb0, 0x10, // mov al, 16
        0xee, // out dx, al
        0xf4, // hlt
    ];
    disk[..code.len()].copy_from_slice(&code);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// How long the guest took; none when it did not come to its end within `limit`.
fn run(root: &Path, folder: &Path, accelerator: &str, limit: Duration) -> Result<Option<Duration>> {
    let start = Instant::now();
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", IN_IMAGE, "sh"])
        .args([root, folder])
        .args([
            "/usr/bin/qemu-system-x86_64",
            "-machine",
            "q35",
            "-accel",
            accelerator,
            "-m",
            "32",
        ])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-drive"])
        .arg("file=/tmp/disk,format=raw,if=virtio")
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let ended = await_end(&mut child, start + limit)?;
    Ok(match ended {
        Some(DONE) => Some(start.elapsed()),
        _ => None,
    })
}

/// The exit code; none when it was killed, at `deadline` or by a signal.
fn await_end(child: &mut Child, deadline: Instant) -> Result<Option<i32>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}
