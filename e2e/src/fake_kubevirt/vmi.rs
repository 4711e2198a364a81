//! What KubeVirt makes of a VMI: phases and conditions, as functions of what is known.
//!
//! Measured on KubeVirt 1.9's virt-controller (its `pkg/virt-controller/watch/vmi/lifecycle.go`).

use jiff::Timestamp;
use serde_json::{Value, json};

/// The phases that a VMI of ours goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is no launcher pod.
    Pending,
    /// The launcher pod exists.
    Scheduling,
    /// The launcher pod is ready on its host.
    Scheduled,
    /// The domain is up. Says nothing about the guest's software.
    Running,
    /// Final: the guest was powered off.
    Succeeded,
    /// Final: it crashed, was destroyed, or its launcher went.
    Failed,
}

/// How a VM came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The guest powered itself off, or reacted to ACPI when the VMI was deleted, or reset where that is the end.
    PoweredOff,
    /// The VMI was deleted and the guest ignored ACPI within its grace.
    Destroyed,
    /// The guest panicked, or QEMU did.
    Crashed,
    /// The launcher pod was deleted, evicted or lost.
    LauncherLost,
}

impl Phase {
    /// The name in `status.phase`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Scheduling => "Scheduling",
            Self::Scheduled => "Scheduled",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// The final phase of a VM that had come this far. One that never ran cannot have succeeded.
    pub(super) fn after(self, ending: Ending) -> Self {
        match (self, ending) {
            (Self::Running, Ending::PoweredOff) => Self::Succeeded,
            _ => Self::Failed,
        }
    }

    /// The condition `Ready` of a VMI in this phase.
    pub(super) fn ready(self) -> Value {
        match self {
            Self::Running => condition("Ready", "True", "", ""),
            Self::Pending | Self::Succeeded | Self::Failed => condition(
                "Ready",
                "False",
                "PodNotExists",
                "virt-launcher pod has not yet been scheduled",
            ),
            Self::Scheduling | Self::Scheduled => condition(
                "Ready",
                "False",
                "GuestNotRunning",
                "Guest VM is not reported as running",
            ),
        }
    }
}

/// A condition as KubeVirt writes it.
pub(super) fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    let mut condition = json!({
        "type": type_,
        "status": status,
        "lastProbeTime": null,
        "lastTransitionTime": now(),
    });
    for (key, value) in [("reason", reason), ("message", message)] {
        if !value.is_empty() {
            condition[key] = json!(value);
        }
    }
    condition
}

/// The time, to the second, as Kubernetes writes it.
pub(super) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_vm_that_heeds_acpi_succeeds() {
        assert_eq!(Phase::Running.after(Ending::PoweredOff), Phase::Succeeded);
        for ending in [Ending::Destroyed, Ending::Crashed, Ending::LauncherLost] {
            assert_eq!(Phase::Running.after(ending), Phase::Failed, "{ending:?}");
        }
        assert_eq!(Phase::Scheduling.after(Ending::PoweredOff), Phase::Failed);
    }

    #[test]
    fn ready_says_why_not() {
        assert_eq!(Phase::Scheduling.ready()["reason"], "GuestNotRunning");
        assert_eq!(Phase::Pending.ready()["reason"], "PodNotExists");
        assert_eq!(Phase::Running.ready()["status"], "True");
        assert!(Phase::Running.ready().get("reason").is_none());
    }
}
