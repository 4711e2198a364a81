//! Boots the node image in bare QEMU, without a cluster: as far as a guest gets without an API server.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use maroonedpods_common::join_info::JoinInfo;
use maroonedpods_common::names::JOIN_INFO_PATH;
use maroonedpods_image_build::command::{self, last_lines};
use maroonedpods_image_build::node_image::Built;
use nix::unistd::geteuid;
use serde_json::json;
use tempfile::TempDir;

use crate::system::packages::{self, program};
use crate::system::process::Processes;
use crate::system::skipped::leave_out;

const QEMU: &str = "qemu-system-x86_64";
/// The constants of KubeVirt's masquerade, as the reconciler writes them.
const NETWORK_CONFIG: &str = "version: 2\nethernets: {eth0: {match: {name: \"e*\"}, set-name: eth0, addresses: [10.0.2.2/24], gateway4: 10.0.2.1}}\n";
/// The kernel's command line where there is no boot loader: the configuration's default.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 root=/dev/disk/by-id/virtio-root ro panic=5 no_timer_check";
const SCRATCH_BYTES: u64 = 2 << 30;
const POLL: Duration = Duration::from_millis(100);
/// A monitor that takes longer to run a command does not answer.
const MONITOR_LIMIT: Duration = Duration::from_secs(30);

/// How a guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFrom {
    /// As KubeVirt's kernelBoot: kernel and initrd are given.
    Kernel,
    /// As a plain containerDisk: the BIOS finds the boot loader.
    Disk,
}

/// A running guest; it ends when this is dropped.
#[derive(Debug)]
pub struct Guest {
    processes: Processes,
    folder: TempDir,
}

/// A line of the boot program: `marooned: phase=NAME elapsed=SECONDS`.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Which.
    pub name: String,
    /// Seconds since the kernel started.
    pub elapsed: f64,
}

/// Whether guests can be run: their programs are here, or there is the right to install them. If not, the running
/// test is reported as skipped.
#[must_use]
pub fn is_possible() -> bool {
    let missing = missing();
    let possible = missing.is_empty() || geteuid().is_root();
    if !possible {
        let test = thread::current().name().unwrap_or("guests").to_owned();
        leave_out(
            &test,
            &format!("without root, these are not installed: {}", missing.join(" ")),
        );
    }
    possible
}

/// The packages of the programs that are missing here.
fn missing() -> Vec<&'static str> {
    [("genisoimage", "genisoimage"), (QEMU, "qemu-system-x86")]
        .into_iter()
        .filter_map(|(name, package)| program(name).is_none().then_some(package))
        .collect()
}

/// The user data of a seed that brings this join info, as the reconciler writes it.
///
/// # Errors
/// The YAML writer's.
pub fn user_data(info: &JoinInfo) -> Result<String> {
    let file = json!({
        "path": JOIN_INFO_PATH, "permissions": "0600", "content": serde_yaml_ng::to_string(info)?,
    });
    let config = serde_yaml_ng::to_string(&json!({"write_files": [file]}))?;
    Ok(format!("#cloud-config\n{config}"))
}

impl Guest {
    /// Installs QEMU with apt-get if it is not here, and starts a guest of the image: q35, one emulated processor,
    /// 512 MiB. Blocks.
    pub fn start(image: &Built, from: BootFrom, user_data: &str) -> Result<Self> {
        packages::provide("guests in QEMU", missing)?;
        let folder = tempfile::tempdir()?;
        let seed = seed(folder.path(), user_data)?;
        let scratch = folder.path().join("scratch.img");
        fs::File::create(&scratch)?.set_len(SCRATCH_BYTES)?;
        let mut arguments: Vec<String> = "-machine q35,accel=tcg -cpu max -m 512 -smp 1 -nodefaults -no-user-config \
             -display none -no-reboot -uuid 5f0d2d5c-1c35-5f3c-8d2e-6f3f7d0b1a11 -serial stdio -netdev user,id=net,net=10.0.2.0/24,host=10.0.2.1,restrict=on \
             -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let monitor = folder.path().join("monitor");
        arguments.extend([
            "-monitor".to_owned(),
            format!("unix:{},server,nowait", monitor.display()),
        ]);
        for (serial, path, boot) in [
            ("root", &image.disk, ",bootindex=1"),
            ("scratch", &scratch, ""),
            ("seed", &seed, ""),
        ] {
            let read_only = if serial == "scratch" { "off" } else { "on" };
            arguments.extend([
                "-drive".to_owned(),
                format!(
                    "if=none,id={serial},file={},format=raw,readonly={read_only}",
                    path.display()
                ),
                "-device".to_owned(),
                format!("virtio-blk-pci,drive={serial},serial={serial}{boot}"),
            ]);
        }
        if from == BootFrom::Kernel {
            for (option, value) in [
                ("-kernel", image.kernel.display().to_string()),
                ("-initrd", image.initrd.display().to_string()),
                ("-append", KERNEL_ARGUMENTS.to_owned()),
            ] {
                arguments.extend([option.to_owned(), value]);
            }
        }
        let processes = Processes::new()?;
        let qemu = program(QEMU).context("QEMU is missing")?;
        processes.start("QEMU", &qemu, &arguments, &folder.path().join("console"))?;
        Ok(Self { processes, folder })
    }

    /// Everything that the guest has written to its console.
    pub fn console(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.console_path())?).into_owned())
    }

    /// Waits until `found` finds something on the console. Blocks.
    ///
    /// # Errors
    /// The guest ends before, or it takes longer than `limit`: with the last lines of the console.
    pub fn until<T>(&self, limit: Duration, found: impl Fn(&str) -> Option<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            // In this order, so that the last lines of a guest that ends are searched too.
            let ended = self.processes.ended()?;
            if let Some(found) = found(&self.console()?) {
                return Ok(found);
            }
            let words = last_lines(&self.console_path(), 20);
            if let Some(ended) = ended {
                bail!("QEMU ended ({}) after:\n{words}", ended.status);
            }
            if start.elapsed() > limit {
                bail!(
                    "waited {} s for the guest; its last words:\n{words}",
                    limit.as_secs()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until the guest is off. Blocks.
    ///
    /// # Errors
    /// It takes longer than `limit`, or QEMU fails.
    pub fn until_off(&self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(ended) = self.processes.ended()? {
                if ended.status.success() {
                    return Ok(());
                }
                bail!("QEMU failed ({}):\n{}", ended.status, last_lines(&ended.log, 20));
            }
            if start.elapsed() > limit {
                bail!("the guest is still on:\n{}", last_lines(&self.console_path(), 20));
            }
            thread::sleep(POLL);
        }
    }

    /// Presses the ACPI power button.
    pub fn press_power_button(&self) -> Result<()> {
        let mut monitor = UnixStream::connect(self.folder.path().join("monitor"))?;
        monitor.set_read_timeout(Some(MONITOR_LIMIT))?;
        monitor.write_all(b"system_powerdown\n")?;
        // The monitor prompts, and prompts again when the command is done; it drops the command of a client that hangs up
        // before.
        let mut said = Vec::new();
        let mut part = [0; 256];
        while String::from_utf8_lossy(&said).matches("(qemu)").count() < 2 {
            let length = monitor
                .read(&mut part)
                .context("QEMU's monitor does not answer")?;
            ensure!(length > 0, "QEMU's monitor hung up");
            said.extend_from_slice(&part[..length]);
        }
        Ok(())
    }

    fn console_path(&self) -> PathBuf {
        self.folder.path().join("console")
    }
}

/// The phases on a console, in order.
#[must_use]
pub fn phases(console: &str) -> Vec<Phase> {
    let phase = |line: &str| {
        let (_, rest) = line.trim_end().split_once("marooned: phase=")?;
        let (name, elapsed) = rest.split_once(" elapsed=")?;
        Some(Phase {
            name: name.to_owned(),
            elapsed: elapsed.parse().ok()?,
        })
    };
    console.lines().filter_map(phase).collect()
}

fn seed(folder: &Path, user_data: &str) -> Result<PathBuf> {
    let files = folder.join("seed");
    fs::create_dir(&files)?;
    fs::write(files.join("user-data"), user_data)?;
    fs::write(
        files.join("meta-data"),
        "instance-id: guest\nlocal-hostname: guest\n",
    )?;
    fs::write(files.join("network-config"), NETWORK_CONFIG)?;
    let seed = folder.join("seed.iso");
    command::run(
        Command::new(program("genisoimage").context("genisoimage is missing")?)
            .args(["-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"])
            .args([&seed, &files]),
    )?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_among_other_lines() {
        let console = "[    0.1] Linux\r\nmarooned: phase=initrd elapsed=1.250\r\nmarooned: error no disk\r\n\
                       marooned: phase=init elapsed=2.000\r\nmarooned: phase=odd elapsed=x\r\n";
        let phase = |name: &str, elapsed| Phase {
            name: name.to_owned(),
            elapsed,
        };
        assert_eq!(phases(console), [phase("initrd", 1.25), phase("init", 2.0)]);
    }
}
