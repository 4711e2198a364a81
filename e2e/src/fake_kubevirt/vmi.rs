//! What KubeVirt makes of a VMI: phases and conditions, as functions of what is known.
//!
//! Measured on KubeVirt 1.9's virt-controller (its `pkg/virt-controller/watch/vmi/lifecycle.go`).

use jiff::Timestamp;
use kube::core::DynamicObject;
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
    /// The launcher pod is gone, and was not told to stop before.
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

    /// The conditions that a VMI gets in this phase. What is said of its launcher besides, at its end too, is
    /// [`launcher_ends`] and [`launcher_gone`].
    pub(super) fn conditions(self) -> Vec<Value> {
        let not_yet = || {
            condition(
                "Ready",
                "False",
                "GuestNotRunning",
                "Guest VM is not reported as running",
            )
        };
        match self {
            Self::Scheduling => vec![not_yet()],
            Self::Scheduled => vec![
                not_yet(),
                condition("LiveMigratable", "True", "", ""),
                condition("StorageLiveMigratable", "True", "", ""),
            ],
            Self::Running => vec![condition("Ready", "True", "", "")],
            Self::Pending | Self::Succeeded | Self::Failed => Vec::new(),
        }
    }

    /// The VM has ended for good.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// `Ready` of a VMI whose launcher is being deleted, or has ended.
pub(super) fn launcher_ends() -> Value {
    condition(
        "Ready",
        "False",
        "PodTerminating",
        "virt-launcher pod is terminating",
    )
}

/// `Ready` of a VMI whose launcher is gone.
pub(super) fn launcher_gone() -> Value {
    condition(
        "Ready",
        "False",
        "PodNotExists",
        "virt-launcher pod has not yet been scheduled",
    )
}

/// The VMI's conditions with these among them; `None` if they say the same already.
pub(super) fn with(vmi: &DynamicObject, news: &[Value]) -> Option<Value> {
    let mut all = vmi.data["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut changed = false;
    for new in news {
        match all.iter_mut().find(|old| old["type"] == new["type"]) {
            Some(old)
                if ["status", "reason", "message"]
                    .iter()
                    .all(|key| old[key] == new[key]) =>
            {
                continue;
            }
            Some(old) => *old = new.clone(),
            None => all.push(new.clone()),
        }
        changed = true;
    }
    changed.then_some(Value::Array(all))
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
    fn conditions_are_kept_by_type() {
        let evicted = condition("EvictionRequested", "True", "EvictionRequested", "m");
        let mut vmi: DynamicObject = serde_json::from_value(json!({"metadata": {}, "status": {"conditions":
            [Phase::Scheduling.conditions()[0], evicted]}}))
        .unwrap();
        let running = with(&vmi, &Phase::Running.conditions()).unwrap();
        assert_eq!(running[0]["status"], "True");
        assert!(running[0].get("reason").is_none());
        assert_eq!(running[1], evicted);
        vmi.data["status"]["conditions"] = running;
        assert_eq!(with(&vmi, &Phase::Running.conditions()), None);
    }
}
