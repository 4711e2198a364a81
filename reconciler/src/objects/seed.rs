//! The join-info Secret: a `NoCloud` seed (cloud-init) that carries `join-info.yaml` and nothing else.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use maroonedpods_common::api::{MaroonedNode, NetworkBinding};
use maroonedpods_common::join_info::{JoinInfo, KubeletSettings, Token};
use maroonedpods_common::{names, sizing};
use serde::Serialize;

use crate::objects::record::owner_reference;

/// Key of the user data in the Secret, fixed by KubeVirt.
const USER_DATA_KEY: &str = "userdata";
/// Key of the network configuration in the Secret, fixed by KubeVirt.
const NETWORK_DATA_KEY: &str = "networkdata";
/// The guest's side of KubeVirt's masquerade binding, whose addresses are constants of KubeVirt's.
const MASQUERADE: &str = "\
version: 2
ethernets:
  eth0:
    match: {name: \"e*\"}
    set-name: eth0
    addresses: [10.0.2.2/24]
    gateway4: 10.0.2.1
";

#[derive(Serialize)]
struct CloudConfig {
    write_files: Vec<WriteFile>,
}

#[derive(Serialize)]
struct WriteFile {
    path: &'static str,
    permissions: &'static str,
    content: String,
}

/// What the guest of an attempt is told.
#[must_use]
pub fn join_info(record: &MaroonedNode, token: Token, ca: String) -> JoinInfo {
    let (vm, size) = (&record.spec.vm, &record.spec.resources);
    let pod_uid = &record.spec.pod_ref.uid;
    JoinInfo {
        server_url: vm.join.server_url.clone(),
        token,
        taint_key: vm.taint_key.clone(),
        node_name: names::node_name(pod_uid),
        pod_uid: pod_uid.to_string(),
        ca,
        mode: vm.join.mode,
        cluster_dns: vm.join.cluster_dns.clone(),
        cluster_domain: vm.join.cluster_domain.clone(),
        host_network: record.spec.host_network,
        kubelet: KubeletSettings {
            port: names::KUBELET_PORT,
            reserved_cpu_milli: size.reserved_cpu_milli,
            reserved_memory_mi: size.reserved_memory_mi,
            eviction_memory_mi: sizing::EVICTION_MEMORY_MI,
        },
    }
}

/// Whether the seed has the guest's address; else the guest must ask on its link.
#[must_use]
pub fn has_network_data(record: &MaroonedNode) -> bool {
    match record.spec.vm.options.network_binding {
        NetworkBinding::Masquerade => true,
        NetworkBinding::Bridge => false,
    }
}

/// The Secret of an attempt. Immutable, owned by the record, deleted when the kubelet has joined.
///
/// # Errors
/// The YAML writer's, for a type that it cannot write; these types have none such.
pub fn secret(
    record: &MaroonedNode,
    attempt: u32,
    vm_namespace: &str,
    info: &JoinInfo,
) -> Result<Secret, serde_yaml_ng::Error> {
    let file = WriteFile {
        path: names::JOIN_INFO_PATH,
        permissions: "0600",
        content: serde_yaml_ng::to_string(info)?,
    };
    let user_data = format!(
        "#cloud-config\n{}",
        serde_yaml_ng::to_string(&CloudConfig {
            write_files: vec![file]
        })?
    );
    let mut data = BTreeMap::from([(USER_DATA_KEY.to_owned(), user_data)]);
    if has_network_data(record) {
        data.insert(NETWORK_DATA_KEY.to_owned(), MASQUERADE.to_owned());
    }
    let pod_uid = &record.spec.pod_ref.uid;
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(names::join_secret_name(pod_uid, attempt)),
            namespace: Some(vm_namespace.to_owned()),
            labels: Some([(names::POD_UID_LABEL.to_owned(), pod_uid.to_string())].into()),
            owner_references: Some(vec![owner_reference(record)]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        string_data: Some(data),
        ..Secret::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::tests::record;

    #[test]
    fn the_guest_reads_back_what_was_written() {
        let record = record();
        let info = join_info(
            &record,
            Token::new("abcdef", "0123456789abcdef"),
            "-----BEGIN\nx\n-----END\n".into(),
        );
        let secret = secret(&record, 2, "marooned-vms", &info).unwrap();
        assert!(secret.metadata.name.as_ref().unwrap().ends_with("-r2-join"));
        let user_data = &secret.string_data.unwrap()["userdata"];
        let config: serde_yaml_ng::Value =
            serde_yaml_ng::from_str(user_data.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        let file = &config["write_files"][0];
        assert_eq!(file["path"], "/etc/marooned/join-info.yaml");
        let read: JoinInfo = serde_yaml_ng::from_str(file["content"].as_str().unwrap()).unwrap();
        assert_eq!(read, info);
        assert!(!read.host_network);
    }

    #[test]
    fn the_guest_learns_where_and_in_which_domain_names_are() {
        let mut record = record();
        let written = |record: &MaroonedNode| {
            let info = join_info(record, Token::new("abcdef", "0123456789abcdef"), String::new());
            serde_yaml_ng::to_string(&info).unwrap()
        };
        // An older node image knows no such field.
        assert!(!written(&record).contains("cluster_domain"));
        record.spec.vm.join.cluster_dns = Some("10.96.0.10".to_owned());
        "corp.test".clone_into(&mut record.spec.vm.join.cluster_domain);
        let text = written(&record);
        assert!(
            text.contains("cluster_dns: 10.96.0.10\n") && text.contains("cluster_domain: corp.test\n"),
            "{text}"
        );
    }

    #[test]
    fn only_a_guest_behind_nat_is_told_its_address() {
        let mut record = record();
        let data = |record: &MaroonedNode| {
            let info = join_info(record, Token::new("abcdef", "0123456789abcdef"), String::new());
            secret(record, 1, "marooned-vms", &info)
                .unwrap()
                .string_data
                .unwrap()
        };
        let network: serde_yaml_ng::Value = serde_yaml_ng::from_str(&data(&record)["networkdata"]).unwrap();
        let link = &network["ethernets"]["eth0"];
        assert_eq!(link["addresses"][0], "10.0.2.2/24");
        assert_eq!(link["gateway4"], "10.0.2.1");
        record.spec.vm.options.network_binding = NetworkBinding::Bridge;
        assert!(!data(&record).contains_key("networkdata"));
    }

    #[test]
    fn the_guest_is_told_that_its_pod_uses_its_network() {
        let mut record = record();
        record.spec.host_network = true;
        let info = join_info(&record, Token::new("abcdef", "0123456789abcdef"), String::new());
        assert!(info.host_network);
    }
}
