//! What the CRDs take.

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfig};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, gone, refused, rejects};
use maroonedpods_e2e::api::leftovers::nothing_left;
use serde_json::{Value, json};

use super::{SOON, UID, config_spec, from, installed};

fn record(name: &str, uid: &str) -> MaroonedNode {
    from(json!({
        "apiVersion": "maroonedpods.io/v1alpha1",
        "kind": "MaroonedNode",
        "metadata": {"name": name},
        "spec": {
            "podRef": {"namespace": "default", "name": "web-0", "uid": uid},
            "resources": {"cpu": 1, "memoryMi": 1024, "diskMi": 10240, "reservedMemoryMi": 256, "reservedCpuMilli": 100},
            "configHash": "0",
            "vm": {
                "nodeImage": "registry.example/node@sha256:0",
                "taintKey": "maroonedpods.io",
                "join": {"serverURL": "https://10.0.0.1:6443"},
                "options": {},
            },
        },
    }))
}

#[tokio::test]
async fn a_config_is_validated() {
    let (_, admin) = installed().await;
    let configs: Api<MaroonedPodsConfig> = Api::all(admin);
    let change = |spec: Value| {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let (configs, parameters) = (
            configs.clone(),
            PatchParams {
                dry_run: true,
                ..PatchParams::default()
            },
        );
        async move { configs.patch(names::CONFIG_NAME, &parameters, &patch).await }
    };
    for (spec, sentence) in [
        (
            json!({"resourceOverhead": {"cpu": "half"}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"cpu": "-1"}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"cpu": -1}}),
            "must be a quantity of 0 or more",
        ),
        (
            json!({"resourceOverhead": {"memory": "10Mi"}}),
            "must be a quantity of at least 256Mi",
        ),
        (
            json!({"deadlines": {"boot": "soon"}}),
            "must be a duration of at least 1s",
        ),
        (
            json!({"deadlines": {"join": "0s"}}),
            "must be a duration of at least 1s",
        ),
        (
            json!({"deadlines": {"finishedPodTTL": "-1s"}}),
            "must be a duration such as 60s",
        ),
        (
            json!({"join": {"serverURL": "http://10.0.0.1"}}),
            "must be an https URL",
        ),
        (
            json!({"join": {"serverURL": "10.0.0.1:6443"}}),
            "must be an https URL",
        ),
        (json!({"maxAttempts": 0}), "should be greater than or equal to 1"),
        (json!({"nodeImage": ""}), "should be at least 1 chars long"),
        (json!({"taintKey": "Bad_Key"}), "should match"),
        (json!({"vm": {"cpuModel": "a model"}}), "should match"),
        (json!({"vm": {"cpuModel": "-EPYC"}}), "should match"),
    ] {
        let message = refused(change(spec.clone()).await).unwrap();
        assert!(message.contains(sentence), "{spec}: {message}");
    }
    for spec in [
        json!({"resourceOverhead": {"cpu": 1, "memory": "1Gi"}}),
        json!({"resourceOverhead": {"memory": 536_870_912}}),
        json!({"deadlines": {"boot": "1h30m", "finishedPodTTL": "0s"}}),
        json!({"enableKernelBoot": true, "kernelBootConfig": {"initrdPath": null}}),
        json!({"vm": {"cpuModel": ""}}),
        json!({"vm": {"cpuModel": "Cascadelake-Server-v5"}}),
    ] {
        change(spec.clone())
            .await
            .unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
    // Not by a merge patch, where null means the default.
    let mut bootless = configs.get(names::CONFIG_NAME).await.unwrap();
    bootless.spec.enable_kernel_boot = true;
    bootless.spec.kernel_boot_config.kernel_path = None;
    bootless.spec.kernel_boot_config.initrd_path = None;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let message = refused(configs.replace(names::CONFIG_NAME, &dry_run, &bootless).await).unwrap();
    assert!(
        message.contains("kernelBootConfig needs kernelPath or initrdPath"),
        "{message}"
    );
    let second: MaroonedPodsConfig = from(json!({
        "apiVersion": "maroonedpods.io/v1alpha1",
        "kind": "MaroonedPodsConfig",
        "metadata": {"name": "second"},
        "spec": config_spec(),
    }));
    let message = rejects(&configs, &second).await.unwrap();
    assert!(message.contains("its name is \"default\""), "{message}");
}

#[tokio::test]
async fn a_record_is_named_after_its_pod_and_keeps_it() {
    let (_, admin) = installed().await;
    let records: Api<MaroonedNode> = Api::all(admin.clone());
    let message = rejects(&records, &record("marooned-other", UID)).await.unwrap();
    assert!(
        message.contains("a MaroonedNode is named marooned-<pod uid>"),
        "{message}"
    );

    let name = names::node_name(&UID.into());
    let made = accepts(&records, &record(&name, UID)).await.unwrap();
    assert_eq!(
        made.spec,
        record(&name, UID).spec,
        "server's and our defaults differ"
    );
    let other = json!({"spec": {"podRef": {"name": "web-1"}}});
    let message = refused(
        records
            .patch(&name, &PatchParams::default(), &Patch::Merge(other))
            .await,
    )
    .unwrap();
    assert!(message.contains("podRef is immutable"), "{message}");
    let harmless = json!({"spec": {"configHash": "1"}});
    records
        .patch(&name, &PatchParams::default(), &Patch::Merge(harmless))
        .await
        .unwrap();

    let left = nothing_left(&admin).await.unwrap();
    assert!(left.contains(&format!("MaroonedNode {name}")), "{left:?}");
    records.delete(&name, &DeleteParams::default()).await.unwrap();
    gone(&records, &name, SOON).await.unwrap();
}
