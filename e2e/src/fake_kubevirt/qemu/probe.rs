//! Finds out whether KVM works here, by using it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use maroonedpods_image_build::command::say;

use super::image;
use crate::system::packages::program;

/// Usual is a fifth of a second.
const EMULATION_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// What QEMU exits with when a guest writes 16 to `isa-debug-exit`.
const DONE: i32 = 33;
const DISK: usize = 1 << 20;

/// Whether guests may use KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kvm {
    /// Emulate.
    Never,
    /// Use it where it works: a tiny guest must end no later with it than when it is emulated.
    Auto,
}

/// The accelerator that runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Chooses, and says so. Blocks for up to a second or so.
pub(in super::super) fn accelerator(kvm: Kvm) -> Result<Accelerator> {
    image::provide_launcher()?;
    if kvm == Kvm::Never || !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::Tcg);
    }
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    fs::write(&disk, boot_sector())?;
    let emulated = run(&disk, Accelerator::Tcg, EMULATION_LIMIT)?.context("QEMU cannot run a tiny guest")?;
    let found = match run(&disk, Accelerator::Kvm, emulated)? {
        Some(_) => Accelerator::Kvm,
        None => Accelerator::Tcg,
    };
    say(match found {
        Accelerator::Kvm => "guests run with KVM",
        Accelerator::Tcg => "guests are emulated: KVM fails here, or is slower than that",
    });
    Ok(found)
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
fn run(disk: &Path, accelerator: Accelerator, limit: Duration) -> Result<Option<Duration>> {
    let qemu = program("qemu-system-x86_64").context("QEMU is missing: install qemu-system-x86")?;
    let start = Instant::now();
    let mut child = Command::new(qemu)
        .args(["-machine", "q35", "-accel", accelerator.name(), "-m", "32"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-drive"])
        .arg(format!("file={},format=raw,if=virtio", disk.display()))
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
