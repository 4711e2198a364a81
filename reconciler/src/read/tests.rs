use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use maroonedpods_common::api::{MaroonedNode, MaroonedPodsConfig};
use maroonedpods_common::names;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::csr::Filed;
use crate::network_policies::PolicyView;
use crate::objects::record::tests::{POD_UID, record};
use crate::view::Packed;
use crate::view::{NodeView, PodView, VmiView};

/// The last second that the API server accepts; our types end a day before it.
const TOO_LATE: &str = "9999-12-31T23:59:59Z";

fn metadata(name: &str) -> Value {
    json!({"name": name, "namespace": "ns", "uid": POD_UID, "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {(names::MAROON_LABEL): "true", "app": "web"}, "annotations": {"note": "x".repeat(100)},
        "managedFields": [{"manager": "m", "operation": "Update", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]})
}

fn pod(name: &str) -> Value {
    let env: Vec<_> = (0..5)
        .map(|n| json!({"name": format!("V{n}"), "value": "secret"}))
        .collect();
    json!({"metadata": metadata(name),
        "spec": {"containers": [{"name": "main", "image": "i", "env": env,
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
            "schedulingGates": [{"name": names::GATE}, {"name": "other"}],
            "nodeSelector": {(names::CLASS_LABEL): "true"},
            "tolerations": [{"key": "k", "operator": "Exists"}]},
        "status": {"phase": "Pending",
            "conditions": [{"type": names::NODE_READY_CONDITION, "status": "False", "reason": "Launching",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "main", "restartCount": 1,
                "state": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}}]}})
}

fn node(name: &str) -> Value {
    json!({"metadata": metadata(name), "spec": {"taints": [{"key": "t", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"systemUUID": "u", "bootID": "b"}}})
}

fn vmi(name: &str) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata(name),
        "spec": {"domain": {}}, "status": {"phase": "Running", "nodeName": "host-1",
            "interfaces": [{"name": "default", "ipAddress": "10.1.2.3"}]}})
}

fn csr(name: &str) -> Value {
    json!({"metadata": metadata(name), "spec": {"request": "YQ==", "signerName": "s",
        "username": format!("{}marooned-{POD_UID}", names::NODE_USER_PREFIX), "groups": ["g"], "usages": ["u"]},
        "status": {"conditions": [{"type": "Approved", "status": "True"}]}})
}

fn policy(name: &str) -> Value {
    json!({"metadata": metadata(name), "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "egress": [{}]}})
}

fn a_record(name: &str) -> Value {
    let mut record = serde_json::to_value(record()).unwrap();
    record["metadata"] = metadata(name);
    record
}

fn config(name: &str) -> Value {
    let spec = serde_json::to_value(crate::settings::tests::spec()).unwrap();
    json!({"apiVersion": "maroonedpods.io/v1alpha1", "kind": "MaroonedPodsConfig", "metadata": metadata(name), "spec": spec})
}

fn daemon_set(name: &str) -> Value {
    json!({"metadata": metadata(name), "spec": {"selector": {}, "template": {"spec": {"containers": []}}}})
}

fn slice(name: &str) -> Value {
    json!({"metadata": metadata(name), "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]})
}

fn listed<V: View>(items: &[Value]) -> Listed<V> {
    let mut listed = Listed::default();
    listed
        .add_page(&json!({"kind": "List", "metadata": {"resourceVersion": "9"}, "items": items}).to_string())
        .unwrap();
    listed
}

/// What a hostile author may write anywhere.
fn oddity() -> impl Strategy<Value = Value> {
    let deep = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    prop_oneof![
        Just(json!(TOO_LATE)),
        Just(json!("-0001-01-01T00:00:00Z")),
        Just(json!("0000-00-00")),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, 1, "a", {"a": []}])),
        Just(json!(u64::MAX)),
        Just(json!(-1.5e300)),
        Just(json!(true)),
        Just(deep(100)),
        ".{0,40}".prop_map(|text| json!(text)),
    ]
}

/// Replaces the value at `path` with `odd`; each step of the path is taken modulo the number of choices.
fn put(value: &mut Value, path: &[usize], odd: Value) {
    let Some((step, rest)) = path.split_first() else {
        *value = odd;
        return;
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let key = fields.keys().nth(step % fields.len()).unwrap().clone();
            put(&mut fields[&key], rest, odd);
        }
        Value::Array(elements) if !elements.is_empty() => {
            let at = step % elements.len();
            put(&mut elements[at], rest, odd);
        }
        _ => *value = odd,
    }
}

/// Whatever is done to one object: it is read or reported, and its neighbours are read as without it.
fn neighbours_stay<V: View + std::fmt::Debug>(make: fn(&str) -> Value, path: &[usize], odd: Value) {
    let mut broken = make("broken");
    put(&mut broken, path, odd);
    let read = listed::<V>(&[make("before"), broken, make("after")]);
    assert!(read.items.len() + read.unreadable.len() <= 3);
    let of = |name: &str| {
        read.items
            .iter()
            .find(|(identity, _)| identity.name == name)
            .unwrap()
    };
    for name in ["before", "after"] {
        assert_eq!(of(name).1, view_of::<V>(&make(name)).unwrap());
    }
    for unreadable in &read.unreadable {
        assert!(unreadable.error.len() <= 200, "{unreadable}");
    }
}

macro_rules! neighbours_stay {
    ($($name:ident: $view:ty, $make:ident;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(256))]
            $(
                #[test]
                fn $name(path in prop::collection::vec(any::<usize>(), 1..7), odd in oddity()) {
                    neighbours_stay::<$view>($make, &path, odd);
                }
            )*
        }
    };
}

neighbours_stay! {
    one_pod_costs_no_other: PodView, pod;
    one_node_costs_no_other: NodeView, node;
    one_vmi_costs_no_other: VmiView, vmi;
    one_csr_costs_no_other: Filed, csr;
    one_policy_costs_no_other: PolicyView, policy;
    one_record_costs_no_other: MaroonedNode, a_record;
    one_configuration_costs_no_other: MaroonedPodsConfig, config;
    one_daemon_set_costs_no_other: DaemonSet, daemon_set;
    one_slice_costs_no_other: EndpointSlice, slice;
}

/// The view of an object whose field at `path` is `value`.
fn with<V: View>(make: fn(&str) -> Value, path: &str, value: Value) -> V {
    let mut object = make("odd");
    *object.pointer_mut(path).unwrap() = value;
    view_of(&object).unwrap()
}

#[test]
fn times_that_no_view_reads_do_no_harm() {
    let path = "/metadata/managedFields/0/time";
    assert_eq!(
        with::<PodView>(pod, path, json!(TOO_LATE)),
        view_of(&pod("odd")).unwrap()
    );
    assert_eq!(
        with::<NodeView>(node, path, json!(TOO_LATE)),
        view_of(&node("odd")).unwrap()
    );
    assert_eq!(
        with::<PolicyView>(policy, path, json!(TOO_LATE)),
        view_of(&policy("odd")).unwrap()
    );
    let record = with::<MaroonedNode>(a_record, path, json!(TOO_LATE));
    assert_eq!(record, view_of(&a_record("odd")).unwrap());
    let heartbeat = with::<NodeView>(node, "/status/conditions/0/lastHeartbeatTime", json!(TOO_LATE));
    assert!(heartbeat.ready);
}

#[test]
fn a_time_beyond_our_types_is_absent_and_a_deadline_is_not() {
    let created = with::<PodView>(pod, "/metadata/creationTimestamp", json!(TOO_LATE));
    assert_eq!(created.created, None);
    let mut going = pod("odd");
    going["metadata"]["deletionTimestamp"] = json!(TOO_LATE);
    assert!(view_of::<PodView>(&going).unwrap().deletion_deadline.is_some());
}

#[test]
fn of_a_status_of_another_shape_only_the_phase_is_read() {
    let mut object = pod("odd");
    object["status"] = json!({"phase": "Succeeded", "conditions": "none"});
    let view = view_of::<PodView>(&object).unwrap();
    assert!(view.terminal && !view.ready && view.gate_index == Some(0));
}

#[test]
fn an_unreadable_object_is_named_and_quoted_in_few_words() {
    let mut odd = pod("odd");
    odd["spec"]["tolerations"] = json!("x".repeat(1 << 20));
    let listed = listed::<PodView>(&[pod("well"), odd]);
    assert_eq!(listed.items.len(), 1);
    let shown = listed.unreadable[0].to_string();
    assert!(
        shown.starts_with("ns/odd cannot be read: ") && shown.len() < 300,
        "{shown}"
    );
}

#[test]
fn a_cache_keeps_the_last_view_of_an_unreadable_object() {
    let cache = Cache::<PodView>::default();
    let (identity, view) = object::<PodView>(&pod("p").to_string()).unwrap();
    assert!(cache.apply(&identity, view.clone().unwrap()).is_some());
    assert!(cache.apply(&identity, view.unwrap()).is_none(), "nothing changed");
    cache.fill(Draft::default(), std::slice::from_ref(&identity));
    let uid = Mark::Pod(POD_UID.into());
    assert_eq!(cache.marked(&uid).len(), 1);
    assert_eq!(cache.get("ns", "p").unwrap().version, 7);
    cache.fill(Draft::default(), &[]);
    assert!(cache.marked(&uid).is_empty() && cache.get("ns", "p").is_none());
}

/// Bytes that a view holds, generously: its text, with an allowance for each piece of it.
fn weight(view: &impl std::fmt::Debug) -> usize {
    2 * format!("{view:?}").len()
}

#[test]
fn a_view_is_small_however_large_its_object() {
    let many = |number: usize| {
        (0..number)
            .map(|n| (format!("k{n}"), json!("v".repeat(40))))
            .collect::<Map<_, _>>()
    };
    let mut large = pod("p");
    large["metadata"]["labels"] = Value::Object(many(10_000));
    large["metadata"]["annotations"] = Value::Object(many(5_000));
    large["metadata"]["name"] = json!("n".repeat(253));
    large["spec"]["containers"] = (0..200)
        .map(|n| json!({"name": format!("c{n}"), "image": "i", "env": [{"name": "E", "value": "x".repeat(4_000)}]}))
        .collect();
    large["spec"]["schedulingGates"] = (0..3_000)
        .map(|n| json!({"name": format!("example.test/gate-{n}")}))
        .collect();
    large["spec"]["tolerations"] = (0..1_000)
        .map(|n| json!({"key": format!("k{n}"), "operator": "Exists"}))
        .collect();
    large["status"]["conditions"][0]["reason"] = json!("r".repeat(1 << 20));
    assert!(large.to_string().len() > 1_150_000);
    let view = view_of::<PodView>(&large).unwrap();
    assert!(weight(&view) < 9 << 10, "{}", weight(&view));
    assert_eq!(view.foreign_gates.last().unwrap(), "2990 more");

    let mut long_info = node("n");
    long_info["status"]["nodeInfo"] =
        json!({"systemUUID": "u".repeat(1 << 20), "bootID": "b".repeat(1 << 20)});
    let view = view_of::<NodeView>(&long_info).unwrap();
    assert!(weight(&view) < 8 << 10);
    assert_ne!(view.system_uuid, "u");

    let mut asked = csr("c");
    asked["spec"]["request"] = json!("YWFh".repeat(250_000));
    asked["spec"]["extra"] = json!({"k": ["v".repeat(100_000)]});
    let view = view_of::<Filed>(&asked).unwrap();
    assert!(weight(&view) < 8 << 10 && view.whole().unwrap().spec.request.0.is_empty());

    let mut blocked = vmi("v");
    blocked["status"]["conditions"] =
        json!([{"type": "PodScheduled", "status": "False", "message": "m".repeat(1 << 20)}]);
    assert!(weight(&view_of::<VmiView>(&blocked).unwrap()) < 8 << 10);
}

/// Bytes of memory that a pod's view takes: each list by its elements, each text with its allocation's overhead.
fn pod_weight(view: &PodView) -> usize {
    let text = |text: &String| text.len() + 16;
    let uid = view.uid.to_string();
    let texts = [
        &view.namespace,
        &view.name,
        &uid,
        &view.resource_version,
        &view.priority_class,
    ];
    let condition = view
        .condition
        .iter()
        .flat_map(|condition| [&condition.reason, &condition.message]);
    let scattered = texts
        .into_iter()
        .chain(condition)
        .chain(&view.rejected)
        .chain(view.request.as_ref().err());
    let tolerations = view.tolerations.iter().map(|t| {
        let texts = [&t.key, &t.operator, &t.value, &t.effect]
            .into_iter()
            .flatten()
            .map(text);
        size_of_val(t) + texts.sum::<usize>()
    });
    size_of::<PodView>()
        + format!("{:?}", view.maker).len()
        + scattered.map(text).sum::<usize>()
        + tolerations.sum::<usize>()
        + view
            .foreign_gates
            .iter()
            .map(|gate| size_of::<String>() + text(gate))
            .sum::<usize>()
        + view.labels.as_ref().map(Packed::bytes).unwrap_or_default()
        + view.demands.as_ref().map(Packed::bytes).unwrap_or_default()
        + view.wishes.as_ref().map(Packed::bytes).unwrap_or_default()
}

/// A pod with as much of what a tenant writes as there can be, in as many pieces of `letters` letters as fit `bytes`.
fn crowded(bytes: usize, letters: usize) -> Value {
    let pieces = || (0..bytes / letters).map(move |n| format!("{n:0letters$x}"));
    let mut pod = pod(&"p".repeat(253));
    pod["metadata"]["namespace"] = json!("n".repeat(63));
    pod["metadata"]["labels"] = pieces().map(|key| (key, json!(""))).collect::<Map<_, _>>().into();
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u".repeat(10_000), "controller": true}]);
    pod["spec"]["schedulingGates"] = pieces()
        .map(|name| json!({"name": name.repeat(300)}))
        .take(200)
        .collect();
    pod["spec"]["tolerations"] = pieces().map(|key| json!({"key": key})).collect();
    pod["spec"]["topologySpreadConstraints"] =
        json!([{"maxSkew": 1, "topologyKey": names::HOSTNAME_LABEL, "whenUnsatisfiable": "DoNotSchedule"}]);
    // A pod whose tolerations alone exceed the limit would keep no demands.
    pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "In", "values": pieces().collect::<Vec<_>>()}]}]}}});
    pod["status"]["conditions"][0]["reason"] = json!("r".repeat(bytes));
    pod["status"]["conditions"][0]["message"] = json!("m".repeat(bytes));
    pod
}

#[test]
fn a_pod_of_many_short_pieces_is_as_small_as_one_of_few_long_ones() {
    let (mut labels, mut demands, mut wishes) = (0, 0, 0);
    for letters in [2, 3, 10, 63] {
        for bytes in [1, 40, 100, 400, 700, 1_300, 2_000, 4_000, 100_000] {
            let mut crowded = crowded(bytes, letters);
            for tolerations in [crowded["spec"]["tolerations"].clone(), json!([])] {
                crowded["spec"]["tolerations"] = tolerations;
                let view = view_of::<PodView>(&crowded).unwrap();
                let weight = pod_weight(&view);
                assert!(weight <= 16 << 10, "{bytes} bytes by {letters}: {weight}");
                labels = labels.max(view.labels.as_ref().map_or(0, Packed::bytes));
                demands = demands.max(view.demands.as_ref().map_or(0, Packed::bytes));
                wishes = wishes.max(view.wishes.as_ref().map_or(0, Packed::bytes));
            }
        }
    }
    assert!(
        labels > 1 << 10 && demands > 2 << 10 && wishes > 2 << 10,
        "the bounds were tried: {labels}, {demands}, {wishes}"
    );
}

#[test]
fn the_labels_of_a_node_are_bounded_and_its_zone_is_kept() {
    let mut labelled = node("n");
    labelled["metadata"]["labels"] = (0..10_000)
        .map(|n| (format!("k{n}"), json!("")))
        .collect::<Map<_, _>>()
        .into();
    labelled["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("z");
    let view = view_of::<NodeView>(&labelled).unwrap();
    assert!(view.labels.is_none() && view.topology.len() == 1);
}

#[test]
fn requests_of_other_users_are_not_kept() {
    let mut foreign = csr("f");
    foreign["spec"]["username"] = json!("system:node:host-1");
    assert_eq!(view_of::<Filed>(&foreign), None);
    foreign["spec"]["username"] = json!("system:bootstrap:abcdef");
    assert_eq!(view_of::<Filed>(&foreign), None);
    foreign["spec"]["groups"] = json!([names::BOOTSTRAP_GROUP]);
    assert!(view_of::<Filed>(&foreign).is_some());
}

/// Requests as a guest may file them: pending, each with the largest body that is kept.
fn flood(user: &str, number: usize) -> Vec<(Identity, Filed)> {
    let filed = |n: usize| {
        let mut filed = csr(&format!("{user}-{n}"));
        filed["metadata"]["namespace"] = json!("");
        filed["spec"]["username"] = json!(format!("{}{user}", names::BOOTSTRAP_USER_PREFIX));
        filed["spec"]["groups"] = json!([names::BOOTSTRAP_GROUP]);
        filed["spec"]["request"] = json!("YWFh".repeat(1300));
        filed["status"] = json!({});
        let (identity, view) = object::<Filed>(&filed.to_string()).unwrap();
        (identity, view.unwrap())
    };
    (0..number).map(filed).collect()
}

fn of(cache: &Cache<Filed>, user: &str) -> (usize, usize) {
    let mark = Mark::User(format!("{}{user}", names::BOOTSTRAP_USER_PREFIX));
    let filed = cache.marked(&mark);
    let wholes = filed.iter().filter(|filed| filed.whole().is_some()).count();
    (wholes, filed.len() - wholes)
}

#[test]
fn a_flood_is_kept_in_brief_and_other_requests_whole() {
    let (most, number) = (30, 25_000);
    let mut draft = Draft::default();
    draft.add_page(flood("flooder", number));
    let cache = Cache::default();
    cache.fill(draft, &[]);
    for (identity, filed) in flood("honest", 2) {
        assert!(cache.apply(&identity, filed).is_some());
    }
    assert_eq!(of(&cache, "flooder"), (most, number - most));
    assert_eq!(of(&cache, "honest"), (2, 0));
    let weight: usize = cache.all().iter().map(|filed| weight(&**filed)).sum();
    assert!(weight < 16 << 20, "{weight}");
}

#[test]
fn removed_requests_make_room_for_others() {
    let cache = Cache::default();
    let filed = flood("flooder", 32);
    for (identity, filed) in filed.clone() {
        cache.apply(&identity, filed);
    }
    assert_eq!(of(&cache, "flooder"), (30, 2));
    let (last, again) = filed.last().unwrap();
    assert!(
        cache.apply(last, again.clone()).is_none(),
        "nothing changed in what is kept"
    );
    assert!(cache.remove(&filed[0].0).is_some());
    assert!(cache.apply(last, again.clone()).is_some(), "it is whole now");
    assert_eq!(of(&cache, "flooder"), (30, 1));
    // A decided request takes no place.
    let Filed::Whole(mut decided) = filed[1].1.clone() else {
        panic!()
    };
    decided.status.get_or_insert_default().certificate = Some(ByteString(b"a".to_vec()));
    let decided = <Filed as View>::read(*decided).unwrap();
    assert!(decided.whole().unwrap().spec.request.0.is_empty());
    cache.apply(&filed[1].0, decided);
    let (identity, one) = filed[30].clone();
    cache.apply(&identity, one);
    assert_eq!(of(&cache, "flooder"), (31, 0));
}
