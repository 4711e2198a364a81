//! A real guest's VM, as a test controls it: its console, and what a person at the machine could do.

use anyhow::{Context, Result};

use crate::control_plane::ControlPlane;
use maroonedpods_common::names::VM_NAMESPACE;

/// The VM of one VMI, for as long as its launcher runs.
pub struct RealVm<'a> {
    control_plane: &'a ControlPlane,
    launcher: String,
}

impl<'a> RealVm<'a> {
    /// The VM of this VMI in [`VM_NAMESPACE`].
    ///
    /// # Errors
    /// It has no launcher yet, or any more.
    pub async fn find(control_plane: &'a ControlPlane, vmi: &str) -> Result<Self> {
        let path = format!(
            "jsonpath={{.items[?(@.metadata.annotations.kubevirt\\.io/domain==\"{vmi}\")].metadata.name}}"
        );
        let arguments = [
            "get",
            "pods",
            "--selector",
            "kubevirt.io=virt-launcher",
            "--output",
            &path,
        ];
        let launcher = kubectl(control_plane, &arguments).await?;
        let launcher = launcher.split_whitespace().next().map(str::to_owned);
        let launcher = launcher.with_context(|| format!("{vmi} has no launcher"))?;
        Ok(Self {
            control_plane,
            launcher,
        })
    }

    /// Name of the launcher pod.
    #[must_use]
    pub fn launcher(&self) -> &str {
        &self.launcher
    }

    /// What the guest wrote to its serial console so far, as `kubectl logs` shows it.
    pub async fn console(&self) -> Result<String> {
        kubectl(
            self.control_plane,
            &["logs", &self.launcher, "--container", "compute"],
        )
        .await
    }

    /// Stops the guest's processors. Its memory and its connections stay.
    pub async fn pause(&self) -> Result<()> {
        self.qmp("stop").await
    }

    /// Lets the guest go on after [`Self::pause`].
    pub async fn resume(&self) -> Result<()> {
        self.qmp("cont").await
    }

    /// Asks the guest to end (ACPI), as its VMI's deletion does.
    pub async fn press_power_button(&self) -> Result<()> {
        self.qmp("system_powerdown").await
    }

    /// Kills QEMU on the spot.
    pub async fn kill(&self) -> Result<()> {
        self.shell("killall -9 qemu-system-x86_64").await.map(drop)
    }

    /// Gives QEMU a command without arguments (QMP).
    async fn qmp(&self, command: &str) -> Result<()> {
        let script = format!("echo '{{\"execute\": \"{command}\"}}' > /run/vm/qmp.in");
        self.shell(&script).await.map(drop)
    }

    /// Runs a shell script next to QEMU, with QEMU's rights, and returns what it prints.
    pub async fn shell(&self, script: &str) -> Result<String> {
        let arguments = [
            "exec",
            &self.launcher,
            "--container",
            "compute",
            "--",
            "/bin/busybox",
            "sh",
            "-c",
            script,
        ];
        kubectl(self.control_plane, &arguments).await
    }
}

async fn kubectl(control_plane: &ControlPlane, arguments: &[&str]) -> Result<String> {
    control_plane
        .kubectl(&[&["--namespace", VM_NAMESPACE], arguments].concat())
        .await
}
