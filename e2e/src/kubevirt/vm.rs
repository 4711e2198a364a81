//! A real guest's VM, as a test controls it: its console, and what a person at the machine could do.

use anyhow::{Context, Result};
use http::Request;
use maroonedpods_common::names::VM_NAMESPACE;

use crate::control_plane::ControlPlane;

/// The container of a launcher that QEMU runs in.
const COMPUTE: &str = "compute";
/// The container of a launcher that repeats what the guest writes to its serial console.
pub(crate) const CONSOLE: &str = "guest-console-log";
/// How libvirt is reached from there.
const LIBVIRT: &str = "qemu+unix:///session?socket=/run/libvirt/virtqemud-sock";

/// The VM of one VMI, for as long as its launcher runs.
pub struct RealVm<'a> {
    control_plane: &'a ControlPlane,
    vmi: String,
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
            vmi: vmi.to_owned(),
            launcher,
        })
    }

    /// Name of the launcher pod.
    #[must_use]
    pub fn launcher(&self) -> &str {
        &self.launcher
    }

    /// UID of the launcher pod.
    pub async fn pod_uid(&self) -> Result<String> {
        let arguments = [
            "get",
            "pod",
            &self.launcher,
            "--output",
            "jsonpath={.metadata.uid}",
        ];
        kubectl(self.control_plane, &arguments).await
    }

    /// What the guest wrote to its serial console so far, as `kubectl logs` shows it.
    pub async fn console(&self) -> Result<String> {
        self.logs(&[]).await
    }

    /// [`Self::console`], each line with the time when it was written.
    pub async fn timed_console(&self) -> Result<String> {
        self.logs(&["--timestamps"]).await
    }

    /// Stops the guest's processors. Its memory and its connections stay.
    pub async fn pause(&self) -> Result<()> {
        self.ask("pause").await
    }

    /// Lets the guest go on after [`Self::pause`].
    pub async fn resume(&self) -> Result<()> {
        self.ask("unpause").await
    }

    /// Asks the guest to end (ACPI), as its VMI's deletion does.
    pub async fn press_power_button(&self) -> Result<()> {
        self.virsh(&format!("shutdown {} --mode acpi", self.domain()))
            .await
            .map(drop)
    }

    /// Kills QEMU on the spot.
    pub async fn kill(&self) -> Result<()> {
        self.shell("pkill -9 qemu-system").await.map(drop)
    }

    /// Gives QEMU a command of the machine protocol (QMP), and returns its answer.
    pub async fn qmp(&self, command: &str) -> Result<String> {
        let domain = self.domain();
        self.virsh(&format!("qemu-monitor-command {domain} '{command}'"))
            .await
    }

    /// Runs a shell script next to QEMU, with QEMU's rights, and returns what it prints.
    pub async fn shell(&self, script: &str) -> Result<String> {
        let arguments = [
            "exec",
            &self.launcher,
            "--container",
            COMPUTE,
            "--",
            "/bin/bash",
            "-c",
            script,
        ];
        kubectl(self.control_plane, &arguments).await
    }

    /// libvirt's name of the machine.
    fn domain(&self) -> String {
        format!("{VM_NAMESPACE}_{}", self.vmi)
    }

    async fn virsh(&self, command: &str) -> Result<String> {
        self.shell(&format!("virsh --quiet --connect '{LIBVIRT}' {command}"))
            .await
    }

    async fn logs(&self, more: &[&str]) -> Result<String> {
        let arguments = ["logs", &self.launcher, "--container", CONSOLE];
        kubectl(self.control_plane, &[&arguments, more].concat()).await
    }

    /// Uses a subresource of the VMI, as virtctl does.
    async fn ask(&self, what: &str) -> Result<()> {
        let path = format!(
            "/apis/subresources.kubevirt.io/v1/namespaces/{VM_NAMESPACE}/virtualmachineinstances/{}/{what}",
            self.vmi
        );
        let admin = self.control_plane.admin().await?;
        let request = Request::put(path).body(b"{}".to_vec())?;
        admin.request_text(request).await?;
        Ok(())
    }
}

async fn kubectl(control_plane: &ControlPlane, arguments: &[&str]) -> Result<String> {
    control_plane
        .kubectl(&[&["--namespace", VM_NAMESPACE], arguments].concat())
        .await
}
