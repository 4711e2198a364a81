//! What a pod needs of its guest beyond what each node has, and whether the node image offers it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PersistentVolumeSpec, PodSecurityContext, ResourceRequirements,
    SeccompProfile, SecurityContext, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use maroonedpods_common::{quantity, text};

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

/// The capabilities that a pod needs, collected field by field.
#[derive(Debug, Default)]
pub(super) struct Needs(BTreeSet<String>);

/// Checks that each need is among the capabilities. One that ends with `*` stands for all that begin like it.
pub(super) fn check(whose: &str, needs: &BTreeSet<String>, offered: &[String]) -> Result<(), String> {
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
        "{whose} needs what the VM's guest does not offer: {}; remove that from the pod, opt the pod out, or, if the node image \
         does offer it, add it to guestCapabilities of the MaroonedPodsConfig",
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
            ..
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
            ..
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

    /// Claims are judged by what they are bound to, in [`super::claims`]. The pattern names each type of volume.
    pub(super) fn of_volume(&mut self, volume: &Volume) {
        let Volume {
            name: _,
            config_map: _,
            downward_api: _,
            empty_dir: _,
            ephemeral: _,
            host_path: _,
            image: _,
            persistent_volume_claim: _,
            projected: _,
            secret: _,
            csi,
            aws_elastic_block_store,
            azure_disk,
            azure_file,
            cephfs,
            cinder,
            fc,
            flex_volume,
            flocker,
            gce_persistent_disk,
            git_repo,
            glusterfs,
            iscsi,
            nfs,
            photon_persistent_disk,
            portworx_volume,
            quobyte,
            rbd,
            scale_io,
            storageos,
            vsphere_volume,
        } = volume;
        if let Some(csi) = csi {
            self.named("csi", &csi.driver);
        }
        self.of_types([
            ("awsElasticBlockStore", aws_elastic_block_store.is_some()),
            ("azureDisk", azure_disk.is_some()),
            ("azureFile", azure_file.is_some()),
            ("cephfs", cephfs.is_some()),
            ("cinder", cinder.is_some()),
            ("fc", fc.is_some()),
            ("flexVolume", flex_volume.is_some()),
            ("flocker", flocker.is_some()),
            ("gcePersistentDisk", gce_persistent_disk.is_some()),
            ("gitRepo", git_repo.is_some()),
            ("glusterfs", glusterfs.is_some()),
            ("iscsi", iscsi.is_some()),
            ("nfs", nfs.is_some()),
            ("photonPersistentDisk", photon_persistent_disk.is_some()),
            ("portworxVolume", portworx_volume.is_some()),
            ("quobyte", quobyte.is_some()),
            ("rbd", rbd.is_some()),
            ("scaleIO", scale_io.is_some()),
            ("storageos", storageos.is_some()),
            ("vsphereVolume", vsphere_volume.is_some()),
        ]);
    }

    /// What a claim is bound to, as [`Self::of_volume`]. A local volume is no matter of the guest.
    pub(super) fn of_persistent_volume(&mut self, volume: &PersistentVolumeSpec) {
        let PersistentVolumeSpec {
            access_modes: _,
            capacity: _,
            claim_ref: _,
            host_path: _,
            local: _,
            mount_options: _,
            node_affinity: _,
            persistent_volume_reclaim_policy: _,
            storage_class_name: _,
            volume_attributes_class_name: _,
            volume_mode: _,
            csi,
            aws_elastic_block_store,
            azure_disk,
            azure_file,
            cephfs,
            cinder,
            fc,
            flex_volume,
            flocker,
            gce_persistent_disk,
            glusterfs,
            iscsi,
            nfs,
            photon_persistent_disk,
            portworx_volume,
            quobyte,
            rbd,
            scale_io,
            storageos,
            vsphere_volume,
        } = volume;
        if let Some(csi) = csi {
            self.named("csi", &csi.driver);
        }
        self.of_types([
            ("awsElasticBlockStore", aws_elastic_block_store.is_some()),
            ("azureDisk", azure_disk.is_some()),
            ("azureFile", azure_file.is_some()),
            ("cephfs", cephfs.is_some()),
            ("cinder", cinder.is_some()),
            ("fc", fc.is_some()),
            ("flexVolume", flex_volume.is_some()),
            ("flocker", flocker.is_some()),
            ("gcePersistentDisk", gce_persistent_disk.is_some()),
            ("glusterfs", glusterfs.is_some()),
            ("iscsi", iscsi.is_some()),
            ("nfs", nfs.is_some()),
            ("photonPersistentDisk", photon_persistent_disk.is_some()),
            ("portworxVolume", portworx_volume.is_some()),
            ("quobyte", quobyte.is_some()),
            ("rbd", rbd.is_some()),
            ("scaleIO", scale_io.is_some()),
            ("storageos", storageos.is_some()),
            ("vsphereVolume", vsphere_volume.is_some()),
        ]);
    }

    fn of_types<const N: usize>(&mut self, types: [(&str, bool); N]) {
        for (type_, _) in types.into_iter().filter(|(_, used)| *used) {
            self.named("volume", type_);
        }
    }
}
