use super::*;
use crate::placement::claims::{Behind, ClaimView, Reference, is_name};

const UID: &str = "8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10";

/// A pod with the claim `data`.
fn claiming(more: &Value) -> PodView {
    let mut spec = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    json_patch::merge(&mut spec, more);
    pod(&spec)
}

fn named(name: &str, ephemeral: bool) -> ClaimName {
    ClaimName {
        name: name.to_owned(),
        ephemeral,
    }
}

fn claim(more: &Value) -> ClaimView {
    let mut claim = json!({"metadata": {"name": "data", "uid": "c"}, "spec": {"storageClassName": "fast"}});
    json_patch::merge(&mut claim, more);
    view_of(&claim).unwrap()
}

fn bound() -> ClaimView {
    claim(&json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}))
}

fn volume(spec: &Value) -> Behind {
    volume_with(&json!({}), spec)
}

fn volume_with(labels: &Value, spec: &Value) -> Behind {
    let mut volume =
        json!({"metadata": {"name": "pv", "labels": labels}, "spec": {"claimRef": {"uid": "c"}}});
    json_patch::merge(&mut volume["spec"], spec);
    Behind::Volume(view_of(&volume))
}

fn class(more: &Value) -> Behind {
    let mut class = json!({"metadata": {"name": "fast"}, "provisioner": "disk.example.test",
        "volumeBindingMode": "WaitForFirstConsumer"});
    json_patch::merge(&mut class, more);
    Behind::Class(view_of(&class))
}

fn with(name: &str, claim: ClaimView, behind: Behind) -> PodClaim {
    PodClaim {
        name: named(name, false),
        claim: Some(claim),
        behind,
    }
}

fn affinity(terms: &Value) -> Value {
    json!({"hostPath": {"path": "/d"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}})
}

fn all(pod: &PodView, claims: &[PodClaim], offered: &[&str]) -> Result<Value, Unfit> {
    let config = config(&json!({"guestCapabilities": offered}));
    super::super::judge(pod, Some(claims), &config, Architecture::Amd64)
        .map(|fit| serde_json::to_value(fit.placement).unwrap())
}

fn why(unfit: Unfit) -> String {
    match unfit {
        Unfit::Claims(why) => why,
        Unfit::Pod(_) | Unfit::ClaimsUnread => panic!("{unfit:?}"),
    }
}

/// Of a pod with one claim.
fn one(claim: ClaimView, behind: Behind, offered: &[&str]) -> Result<Value, String> {
    all(&claiming(&json!({})), &[with("data", claim, behind)], offered).map_err(why)
}

/// The terms that the VM's host must meet one of, for the volumes of these claims.
fn hosts_of(spec: &Value, volumes: &[Behind]) -> Result<Value, String> {
    let claims: Vec<_> = volumes.iter().map(|v| with("data", bound(), v.clone())).collect();
    let placement = all(&claiming(spec), &claims, &[]).map_err(why)?;
    let node = &placement["affinity"]["nodeAffinity"];
    Ok(node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone())
}

#[test]
fn claims_are_read_before_they_are_judged_and_only_those_of_pods_that_fit() {
    let unread =
        |spec: &Value| super::super::judge(&claiming(spec), None, &config(&json!({})), Architecture::Amd64);
    assert_eq!(unread(&json!({})).unwrap_err(), Unfit::ClaimsUnread);
    let selects = json!({"nodeSelector": {"gpu": "a100"}});
    assert!(matches!(unread(&selects), Err(Unfit::Pod(why)) if why.contains("gpu=a100")));
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "w", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}},
        {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}, {"name": "x", "emptyDir": {}}]);
    let names = claims_of(&pod(&json!({"volumes": volumes})));
    assert_eq!(names, [named("data", false), named("web-0-scratch", true)]);
    let many: Vec<_> = (0..=MOST_CLAIMS)
        .map(|n| json!({"name": "v", "persistentVolumeClaim": {"claimName": format!("c{n}")}}))
        .collect();
    let many = json!({"volumes": many});
    assert_eq!(claims_of(&pod(&many)), [], "none is read");
    assert!(matches!(unread(&many), Err(Unfit::Pod(why)) if why.contains("17 volume claims")));
}

#[test]
fn what_a_claim_refers_to_is_read() {
    assert_eq!(bound().refers_to(), Some(Reference::Volume("pv")));
    assert_eq!(claim(&json!({})).refers_to(), Some(Reference::Class("fast")));
    let annotated =
        json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "older"}}});
    assert_eq!(claim(&annotated).refers_to(), Some(Reference::Class("older")));
    for nothing in [
        json!({"spec": {"storageClassName": ""}}),
        json!({"spec": {"storageClassName": null}}),
        // Waits for that volume, whatever its class says.
        json!({"spec": {"volumeName": "pv"}}),
        json!({"spec": {"volumeName": "../nodes/n"}, "status": {"phase": "Bound"}}),
        json!({"spec": {"storageClassName": "a".repeat(254)}}),
    ] {
        assert_eq!(claim(&nothing).refers_to(), None, "{nothing}");
    }
    for name in ["", "..", "a/b", "a?b", "A", &"a".repeat(254)] {
        assert!(!is_name(name), "{name}");
    }
    assert!(is_name("pvc-1.example"));
}

#[test]
fn a_claim_that_is_not_ready_is_said() {
    let path = || volume(&json!({"hostPath": {"path": "/d"}}));
    let immediate = |mode: Value| class(&json!({"volumeBindingMode": mode}));
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Bound"},
        "spec": {"volumeName": "pv"}});
    let cases = [
        (
            claim(&json!({})),
            Behind::Class(None),
            "StorageClass fast does not exist",
        ),
        (
            claim(&json!({})),
            immediate(json!("Immediate")),
            "not bound to a volume yet",
        ),
        (
            claim(&json!({})),
            immediate(Value::Null),
            "not bound to a volume yet",
        ),
        (
            claim(&json!({"spec": {"volumeName": "pv"}})),
            Behind::Nothing,
            "not bound to a volume yet",
        ),
        (
            claim(&json!({"spec": {"storageClassName": ""}})),
            Behind::Nothing,
            "has no StorageClass",
        ),
        (
            claim(&json!({"status": {"phase": "Lost"}})),
            Behind::Nothing,
            "lost its volume",
        ),
        (claim(&deleted), path(), "is being deleted"),
        (bound(), Behind::Volume(None), "volume that does not exist"),
        (
            bound(),
            volume(&json!({"claimRef": {"uid": "d"}})),
            "bound to another claim",
        ),
        (
            bound(),
            volume(&json!({"claimRef": null})),
            "bound to another claim",
        ),
        (
            bound(),
            volume(&json!({"local": {"path": "/mnt"}})),
            "local volume",
        ),
    ];
    for (claim, behind, says) in cases {
        let found = with("data", claim.clone(), behind.clone());
        assert!(found.holds_back(&UID.into()), "{says}");
        let why = one(claim, behind, &["csi/*", "volume/*"]).expect_err(says);
        assert!(why.contains(says) && why.contains("claim data"), "{why}");
    }
    let missing = |ephemeral: bool| PodClaim {
        name: named("data", ephemeral),
        claim: None,
        behind: Behind::Nothing,
    };
    for (ephemeral, says) in [(false, "create it"), (true, "Kubernetes makes it")] {
        let why = why(all(&claiming(&json!({})), &[missing(ephemeral)], &[]).unwrap_err());
        assert!(why.contains("does not exist") && why.contains(says), "{why}");
    }
}

#[test]
fn a_claim_of_an_ephemeral_volume_must_be_the_pods_own() {
    let owned = |uid: &str, controller: bool| PodClaim {
        name: named("web-0-v", true),
        claim: Some(claim(&json!({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": uid, "controller": controller}]}}))),
        behind: class(&json!({})),
    };
    let offered = ["csi/disk.example.test"];
    let pod = pod(&json!({"volumes": [{"name": "v", "ephemeral": {}}]}));
    assert!(all(&pod, &[owned(UID, true)], &offered).is_ok());
    for other in [owned("another", true), owned(UID, false)] {
        let why = why(all(&pod, &[other], &offered).unwrap_err());
        assert!(why.contains("not made for the ephemeral volume"), "{why}");
    }
}

#[test]
fn a_bound_volume_needs_what_the_same_inline_volume_does() {
    for type_ in [
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cephfs",
        "cinder",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "glusterfs",
        "iscsi",
        "nfs",
        "photonPersistentDisk",
        "portworxVolume",
        "quobyte",
        "rbd",
        "scaleIO",
        "storageos",
        "vsphereVolume",
    ] {
        let need = format!("volume/{type_}");
        let why = one(bound(), volume(&json!({type_: {}})), &[]).expect_err(type_);
        assert!(why.contains(&need) && why.contains("claim data"), "{why}");
        assert!(
            one(bound(), volume(&json!({type_: {}})), &[&need]).is_ok(),
            "{type_}"
        );
        let inline = pod(&json!({"volumes": [{"name": "v", type_: {}}]}));
        let offering_nothing = config(&json!({"guestCapabilities": []}));
        let inline = judge(&inline, &offering_nothing, Architecture::Amd64).expect_err(type_);
        assert!(inline.contains(&need), "{inline}");
    }
    let csi = || {
        volume(
            &json!({"csi": {"driver": "disk.example.test", "volumeHandle": "h", "volumeAttributes": {"a": "b"}}}),
        )
    };
    assert!(
        one(bound(), csi(), &["volume/*"])
            .unwrap_err()
            .contains("csi/disk.example.test")
    );
    assert!(one(bound(), csi(), &["csi/disk.example.test"]).is_ok());
    assert!(one(bound(), volume(&json!({"hostPath": {"path": "/d"}})), &[]).is_ok());
}

#[test]
fn a_claim_that_binds_with_its_pod_is_judged_by_its_class() {
    let why = one(claim(&json!({})), class(&json!({})), &[]).unwrap_err();
    assert!(why.contains("csi/disk.example.test"), "{why}");
    assert!(one(claim(&json!({})), class(&json!({})), &["csi/disk.example.test"]).is_ok());
    let static_ = json!({"metadata": {"name": "disks"}, "provisioner": "kubernetes.io/no-provisioner"});
    let why = one(claim(&json!({})), class(&static_), &[]).unwrap_err();
    assert!(why.contains("storage-class/disks"), "{why}");
    assert!(one(claim(&json!({})), class(&static_), &["storage-class/disks"]).is_ok());
    let zones = json!({"allowedTopologies": [
        {"matchLabelExpressions": [{"key": ZONE, "values": ["a", "b"]}]},
        {"matchLabelExpressions": [{"key": "disk", "values": ["fast"]}]}]});
    let placement = one(claim(&json!({})), class(&zones), &["csi/*"]).unwrap();
    let required = &placement["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(
        required["nodeSelectorTerms"],
        json!([term(ZONE, "In", &["a", "b"]), term("disk", "In", &["fast"])])
    );
    assert_eq!(placement["hostLabels"], json!(["disk"]));
    let unbounded = json!({"allowedTopologies": []});
    assert_eq!(
        one(claim(&json!({})), class(&unbounded), &["csi/*"])
            .unwrap()
            .get("affinity"),
        None
    );
}

#[test]
fn where_a_volume_is_its_pods_vm_is() {
    let in_zone = |zones: &[&str]| volume(&affinity(&json!([term(ZONE, "In", zones)])));
    let free = json!({});
    assert_eq!(
        hosts_of(&free, &[in_zone(&["a"])]),
        Ok(json!([term(ZONE, "In", &["a"])]))
    );
    // The pod's own terms, and each volume's.
    let own = required(&json!([
        term("disk", "In", &["fast"]),
        term(ZONE, "NotIn", &["c"])
    ]));
    assert_eq!(
        hosts_of(&own, &[in_zone(&["a", "b"]), in_zone(&["a", "b"])]),
        Ok(json!([
            {"matchExpressions": [
                {"key": ZONE, "operator": "In", "values": ["a", "b"]}, {"key": "disk", "operator": "In", "values": ["fast"]}]},
            {"matchExpressions": [
                {"key": ZONE, "operator": "In", "values": ["a", "b"]}, {"key": ZONE, "operator": "NotIn", "values": ["c"]}]},
        ]))
    );
    let selects = json!({"nodeSelector": {ZONE: "a"}});
    let both = hosts_of(&selects, &[in_zone(&["a", "b"])]).unwrap();
    assert_eq!(both[0]["matchExpressions"].as_array().unwrap().len(), 2, "{both}");
    // What each marooned Node has asks nothing of the host.
    let met = volume(&affinity(&json!([term("kubernetes.io/arch", "In", &["amd64"])])));
    assert_eq!(hosts_of(&free, &[met]), Ok(Value::Null));
    // Labels, as older provisioners write them.
    for labels in [
        json!({ZONE: "a__b"}),
        json!({"failure-domain.beta.kubernetes.io/zone": "a__b"}),
    ] {
        let labelled = volume_with(&labels, &json!({"hostPath": {"path": "/d"}}));
        assert_eq!(
            hosts_of(&free, &[labelled]),
            Ok(json!([term(ZONE, "In", &["a", "b"])]))
        );
    }
    for (spec, volumes, says) in [
        (
            &free,
            vec![volume(&affinity(&json!([term(HOST, "In", &["host-1"])])))],
            HOST,
        ),
        (
            &free,
            vec![volume(&affinity(&json!([term("rack", "In", &["1"])])))],
            "claim data (rack)",
        ),
        (&free, vec![volume(&affinity(&json!([])))], "claim data"),
        (
            &free,
            vec![in_zone(&["a"]), in_zone(&["b"])],
            "exclude each other",
        ),
        (&selects, vec![in_zone(&["b"])], "exclude each other"),
        (
            &free,
            vec![
                in_zone(&["a"]),
                volume(&affinity(&json!([term(ZONE, "NotIn", &["a"])]))),
            ],
            "exclude each other",
        ),
        (&free, vec![in_zone(&[&"z".repeat(3000)])], "2048 bytes"),
    ] {
        let why = hosts_of(spec, &volumes).expect_err(says);
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn alternatives_are_joined_within_bounds() {
    let either = |n: usize| {
        let terms: Vec<_> = (0..2)
            .map(|m| term("disk", "NotIn", &[&format!("{n}-{m}")]))
            .collect();
        volume(&affinity(&json!(terms)))
    };
    let volumes = |n: usize| (0..n).map(either).collect::<Vec<_>>();
    let terms = hosts_of(&json!({}), &volumes(6)).unwrap();
    assert_eq!(terms.as_array().unwrap().len(), 64);
    let why = hosts_of(&json!({}), &volumes(7)).unwrap_err();
    assert!(why.contains("more than 64 terms"), "{why}");
}
