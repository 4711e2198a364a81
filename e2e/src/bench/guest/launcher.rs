//! What runs in a launcher pod beside QEMU: virt-launcher, libvirt and their helpers, as this machine's kernel sees them.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bench::proc;

/// Their processes at one moment.
#[derive(Clone, Debug)]
pub struct Helpers {
    ids: Vec<u32>,
}

impl Helpers {
    /// Those of the pod with this UID, all but the process `qemu`.
    pub fn find(pod_uid: &str, qemu: u32) -> Result<Self> {
        let mut ids = proc::ids()?;
        ids.retain(|&id| {
            let groups = fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap_or_default();
            id != qemu && is_of(&groups, pod_uid)
        });
        ensure!(!ids.is_empty(), "no process is of pod {pod_uid}");
        Ok(Self { ids })
    }

    /// Their memory in RAM, in bytes; what several share counts once (PSS).
    pub fn memory(&self) -> Result<u64> {
        self.ids.iter().map(|&id| proc::proportional_bytes(id)).sum()
    }

    /// Their processor time so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.ids.iter().map(|&id| proc::cpu_time(id)).sum()
    }
}

/// Whether the control groups are those of a pod: the kubelet names them after its UID.
fn is_of(groups: &str, pod_uid: &str) -> bool {
    let systemd = pod_uid.replace('-', "_");
    groups.contains(&format!("/pod{pod_uid}/")) || groups.contains(&format!("-pod{systemd}.slice/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_a_pod() {
        let uid = "5f979115-8930-4543-85b2-46e169bdc37d";
        for groups in [
            "4:memory:/a/kubepods/burstable/pod5f979115-8930-4543-85b2-46e169bdc37d/0123\n",
            "0::/kubepods.slice/kubepods-pod5f979115_8930_4543_85b2_46e169bdc37d.slice/cri-0123.scope\n",
        ] {
            assert!(is_of(groups, uid), "{groups}");
        }
        assert!(!is_of("0::/kubepods/pod5f979115/0123\n", uid));
    }

    #[test]
    fn a_pod_that_is_not_there_has_no_processes() {
        assert!(Helpers::find("no-such-uid", 0).is_err());
    }
}
