//! The faults that a simulated VM has: JSON in the pod's annotation `fake-kubevirt.test/script`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The annotation on the pod.
pub const SCRIPT_ANNOTATION: &str = "fake-kubevirt.test/script";
/// Annotation on a pod: seconds after which its containers exit with 0, or `never`. Without it, pods that are not
/// restarted exit after one second and others run on.
pub const EXIT_AFTER_ANNOTATION: &str = "fake-kubevirt.test/exit-after";
/// Annotation on a pod: seconds that its processes take to stop when they are told to, at most the pod's grace. None
/// without it.
pub const STOP_AFTER_ANNOTATION: &str = "fake-kubevirt.test/stop-after";

/// How a VM and its guest behave. By default they work, and fast. Times are in seconds.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
// Each is a fault of its own: any two may be asked for at once.
#[allow(clippy::struct_excessive_bools)]
pub struct Script {
    /// Only the first so many VMs of the pod follow the script; 0 is all of them.
    pub attempts: u32,
    /// From a running launcher to a running VM.
    pub boot_delay: f64,
    /// From a running VM to its first word to the API server.
    pub join_delay: f64,
    /// The launcher runs, the VM never does.
    pub never_boots: bool,
    /// No host node has room for the launcher.
    pub unschedulable: bool,
    /// The VM runs, its kubelet never speaks.
    pub never_joins: bool,
    /// Asks for a client certificate of this Node.
    pub wrong_node_name: Option<String>,
    /// DNS names or addresses in the request for a client certificate, where there must be none.
    pub extra_sans: Vec<String>,
    /// Foreign DNS names or addresses in the request for a serving certificate.
    pub serving_sans: Vec<String>,
    /// Files a second request for a client certificate, with another key, at once.
    pub second_csr: bool,
    /// Uses the bootstrap token again once it has joined.
    pub reuse_token: bool,
    /// The VM fails so long after it ran.
    pub dies_at: Option<f64>,
    /// The kubelet reports that it is not ready so long after the VM ran; 0 is from its first word on.
    pub not_ready_at: Option<f64>,
    /// The guest hangs so long after the VM ran: its kubelet is silent and does nothing, the VM runs on.
    pub silent_at: Option<f64>,
    /// The guest resets so long after the VM ran. It starts again with the same disk in the same VM, unless the VMI says
    /// that this is the VM's end.
    pub reboot_at: Option<f64>,
    /// The guest powers off so long after the VM ran.
    pub powers_off_at: Option<f64>,
    /// Its kubelet renews its client certificate so long after the VM ran.
    pub renews_at: Option<f64>,
    /// Its kubelet rejects every pod, for this reason.
    pub rejects: Option<String>,
    /// The guest ignores ACPI: it lives on for so long after its VM's deletion was asked for.
    pub slow_delete: f64,
}

impl Script {
    /// The script for the VM of the given attempt (from 1).
    #[must_use]
    pub fn for_attempt(self, attempt: u32) -> Self {
        if self.attempts == 0 || attempt <= self.attempts {
            self
        } else {
            Self::default()
        }
    }

    /// Whether the guest does nothing that the API server should refuse: what fails in it is not its doing.
    pub(super) fn is_honest(&self) -> bool {
        let Self {
            wrong_node_name,
            extra_sans,
            serving_sans,
            second_csr,
            reuse_token,
            ..
        } = self;
        wrong_node_name.is_none()
            && extra_sans.is_empty()
            && serving_sans.is_empty()
            && !second_csr
            && !reuse_token
    }

    /// Adds a random boot delay of up to a second, a function of seed and VM.
    #[must_use]
    pub fn jittered(mut self, seed: u64, vmi_uid: &str) -> Self {
        if seed != 0 {
            let digest =
                uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("{seed}/{vmi_uid}").as_bytes());
            self.boot_delay += f64::from(digest.as_bytes()[0]) / 255.0;
        }
        self
    }
}

/// The attempt (from 1) that a VMI is, by its name.
pub(super) fn attempt_of(vmi_name: &str) -> u32 {
    vmi_name
        .rsplit_once("-r")
        .and_then(|(_, attempt)| attempt.parse().ok())
        .unwrap_or(1)
}

/// A delay of a script as a duration; nonsense is none.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<Script>(r#"{"neverBoot": true}"#).is_err());
        assert!(
            serde_json::from_str::<Script>(r#"{"neverBoots": true}"#)
                .unwrap()
                .never_boots
        );
    }

    #[test]
    fn later_attempts_may_behave() {
        let script = Script {
            attempts: 1,
            never_joins: true,
            ..Script::default()
        };
        assert!(script.clone().for_attempt(1).never_joins);
        assert!(!script.for_attempt(2).never_joins);
    }

    #[test]
    fn a_vmi_is_named_after_its_attempt() {
        for (name, attempt) in [
            ("marooned-8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10", 1),
            ("marooned-8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10-r2", 2),
            ("marooned-8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10-r13", 13),
        ] {
            assert_eq!(attempt_of(name), attempt);
        }
    }

    #[test]
    fn a_seed_repeats() {
        let delay = |seed, vm| Script::default().jittered(seed, vm).boot_delay;
        assert!((delay(7, "a") - delay(7, "a")).abs() < f64::EPSILON);
        assert!((delay(0, "a") - 0.0).abs() < f64::EPSILON);
    }
}
