//! What a pod needs of its guest beyond what each node has, and whether the node image offers it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PersistentVolumeSpec, PodSecurityContext, ResourceRequirements,
    SeccompProfile, SecurityContext, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use maroonedpods_common::{quantity, text};
use serde::Serialize;

/// What each node has.
const PLAIN_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Sysctls that each kubelet allows (Pod Security Standards, "safe").
const SAFE_SYSCTLS: [&str; 13] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Fields of a pod's volume that need nothing of the guest.
const PLAIN_VOLUMES: [&str; 10] = [
    "name",
    "configMap",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "hostPath",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// Fields of a `PersistentVolume` that need nothing of the guest.
const PLAIN_OF_PERSISTENT_VOLUMES: [&str; 11] = [
    "accessModes",
    "capacity",
    "claimRef",
    "hostPath",
    "local",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// The capabilities that a pod needs, collected field by field.
#[derive(Debug, Default)]
pub(super) struct Needs(BTreeSet<String>);

/// Checks that each need is among the capabilities. One that ends with `*` stands for all that begin like it.
pub(super) fn check(
    whose: &str,
    needs: &BTreeSet<String>,
    offered: &[String],
    remedy: &str,
) -> Result<(), String> {
    let meets = |need: &str, capability: &str| match capability.strip_suffix('*') {
        Some(beginning) => need.starts_with(beginning),
        None => need == capability,
    };
    let missing: Vec<String> = needs
        .iter()
        .filter(|need| !offered.iter().any(|capability| meets(need, capability)))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{whose} needs what the VM's guest does not offer: {}; {remedy}, or, if the node image does offer it, ask the \
         administrator to list it in guestCapabilities of the MaroonedPodsConfig",
        text::listed(&missing)
    ))
}

impl Needs {
    pub(super) fn into_set(self) -> BTreeSet<String> {
        self.0
    }

    pub(super) fn is_needed(&mut self, capability: &str, needed: bool) {
        if needed {
            self.0.insert(capability.to_owned());
        }
    }

    pub(super) fn named(&mut self, kind: &str, name: &str) {
        self.0.insert(format!("{kind}/{name}"));
    }

    /// A container's own. The pattern names each field, as [`super::Wishes::of`] does with the pod's.
    pub(super) fn of_container(&mut self, container: &Container) {
        let Container {
            resources,
            security_context,
            // The same on every node.
            args: _,
            command: _,
            env: _,
            env_from: _,
            image: _,
            image_pull_policy: _,
            lifecycle: _,
            liveness_probe: _,
            name: _,
            ports: _,
            readiness_probe: _,
            resize_policy: _,
            restart_policy: _,
            restart_policy_rules: _,
            startup_probe: _,
            stdin: _,
            stdin_once: _,
            termination_message_path: _,
            termination_message_policy: _,
            tty: _,
            // Of volumes, which are judged by themselves.
            volume_devices: _,
            volume_mounts: _,
            working_dir: _,
        } = container;
        self.of_resources(resources.as_ref());
        let Some(SecurityContext {
            app_armor_profile,
            seccomp_profile,
            // The same on every node with Linux.
            allow_privilege_escalation: _,
            capabilities: _,
            privileged: _,
            proc_mount: _,
            read_only_root_filesystem: _,
            run_as_group: _,
            run_as_non_root: _,
            run_as_user: _,
            se_linux_options: _,
            windows_options: _,
        }) = security_context
        else {
            return;
        };
        self.of_profiles(app_armor_profile.as_ref(), seccomp_profile.as_ref());
    }

    pub(super) fn of_resources(&mut self, resources: Option<&ResourceRequirements>) {
        if let Some(ResourceRequirements { requests, limits, .. }) = resources {
            self.of_list(requests.as_ref());
            self.of_list(limits.as_ref());
        }
    }

    /// None of a resource is none on every node.
    pub(super) fn of_list(&mut self, list: Option<&BTreeMap<String, Quantity>>) {
        for (name, amount) in list.into_iter().flatten() {
            let some = quantity::units(amount) != Ok(0);
            if some && !PLAIN_RESOURCES.contains(&name.as_str()) {
                self.named("resource", name);
            }
        }
    }

    pub(super) fn of_security(&mut self, context: Option<&PodSecurityContext>) {
        let Some(PodSecurityContext {
            app_armor_profile,
            seccomp_profile,
            sysctls,
            // The same on every node with Linux and containerd 2.
            fs_group: _,
            fs_group_change_policy: _,
            run_as_group: _,
            run_as_non_root: _,
            run_as_user: _,
            se_linux_change_policy: _,
            se_linux_options: _,
            supplemental_groups: _,
            supplemental_groups_policy: _,
            windows_options: _,
        }) = context
        else {
            return;
        };
        self.of_profiles(app_armor_profile.as_ref(), seccomp_profile.as_ref());
        for sysctl in sysctls.iter().flatten() {
            // The kubelet takes either way of writing one.
            let name = sysctl.name.replace('/', ".");
            if !SAFE_SYSCTLS.contains(&name.as_str()) {
                self.named("sysctl", &name);
            }
        }
    }

    /// A kubelet rejects a pod with any `AppArmor` profile where the kernel has none; profiles of seccomp in files must be
    /// there.
    fn of_profiles(&mut self, app_armor: Option<&AppArmorProfile>, seccomp: Option<&SeccompProfile>) {
        self.is_needed(
            "apparmor",
            app_armor.is_some_and(|profile| profile.type_ != "Unconfined"),
        );
        self.is_needed(
            "seccomp-profiles",
            seccomp.is_some_and(|profile| profile.type_ == "Localhost"),
        );
    }

    /// A volume of a pod. Claims are judged by what they are bound to, in [`super::claims`].
    pub(super) fn of_volume(&mut self, volume: &Volume) {
        self.of_source(volume, &PLAIN_VOLUMES);
    }

    /// What a claim is bound to, as [`Self::of_volume`]. A local volume is no matter of the guest.
    pub(super) fn of_persistent_volume(&mut self, volume: &PersistentVolumeSpec) {
        self.of_source(volume, &PLAIN_OF_PERSISTENT_VOLUMES);
    }

    /// The field that is none of the plain ones is the volume's type. So a type that a later Kubernetes adds is needed, too.
    fn of_source(&mut self, volume: &impl Serialize, plain: &[&str]) {
        let fields = serde_json::to_value(volume).unwrap_or_default();
        for (type_, source) in fields.as_object().into_iter().flatten() {
            match source["driver"].as_str() {
                Some(driver) if type_ == "csi" => self.named("csi", driver),
                _ if plain.contains(&type_.as_str()) => {}
                _ => self.named("volume", type_),
            }
        }
    }
}
