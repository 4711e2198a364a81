//! A tenant: edit rights in two namespaces, and beyond them those of one who runs a scheduler and a controller of
//! their own (bindings, status of pods) and VMs.

use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually, refused};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::TestEnv;
use maroonedpods_e2e::system::logs::logs;
use serde_json::json;

use crate::fixtures::{create, dry_run, from};
use crate::placement::{binds, tolerates_everything};
use crate::pods::{changes_pods, creates_pods, escapes};
use crate::table::Table;

const ACCOUNT: &str = "tenant";
/// Gives a service account of `namespace` its rights there.
async fn account(env: &TestEnv, admin: &Client, namespace: &str) -> Client {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    let made = accepts(&accounts, &from(json!({"metadata": {"name": ACCOUNT}}))).await;
    made.unwrap();
    let client = env
        .control_plane()
        .service_account(namespace, ACCOUNT)
        .await
        .unwrap()
        .client;
    entitle(admin, namespace, namespace).await;
    client
}

/// Gives the service account of `home` its rights in `namespace`.
async fn entitle(admin: &Client, home: &str, namespace: &str) {
    let roles: Api<Role> = Api::namespaced(admin.clone(), namespace);
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods/binding", "bindings"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
        {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachineinstances"], "verbs": ["create"]},
    ]);
    let role = from(json!({"metadata": {"name": "more"}, "rules": rules}));
    accepts(&roles, &role).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), namespace);
    for (kind, name) in [("ClusterRole", "edit"), ("Role", "more")] {
        let binding = from(json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}],
        }));
        accepts(&bindings, &binding).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_gets_nowhere() {
    logs();
    let env = TestEnv::shared().await.unwrap();
    let admin = env.control_plane().admin().await.unwrap();
    let home = TestNamespace::new(&admin, &[]).await.unwrap();
    let enforced = TestNamespace::new(&admin, &[(names::MAROON_LABEL, names::MAROON_ENFORCED)])
        .await
        .unwrap();
    let client = account(env, &admin, &home.name).await;
    entitle(&admin, &home.name, &enforced.name).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &home.name);
    // Rights take a moment too.
    eventually("the tenant's rights", SOON, || async {
        Ok(Some(create(&pods, json!({}), json!({})).await?))
    })
    .await
    .unwrap();

    let victims = TestNamespace::new(&admin, &[]).await.unwrap();
    let victim = MaroonedPod::create(&admin, &victims.name, "victim", &Script::default())
        .await
        .unwrap();
    victim.running().await.unwrap();

    let mut table = Table::of("tenant");
    table.aims_at(&victim.pods, &victim.name);
    table.aims_at(&victim.nodes(), &victim.node_name());
    table.settles().await;
    creates_pods(&mut table, &pods, &victim.node_name()).await;
    escapes(&mut table, &client, &home.name, &enforced.name).await;
    let waits = Script {
        never_joins: true,
        ..Script::default()
    };
    let waiting = MaroonedPod::create(&admin, &home.name, "waiting", &waits)
        .await
        .unwrap();
    // Until then the reconciler changes the pod's condition.
    waiting.reports("AttemptsExhausted").await.unwrap();
    table.aims_at(&waiting.pods, &waiting.name);
    table.settles().await;
    changes_pods(&mut table, &pods).await;
    let (ungated, params) = (
        Patch::Merge(json!({"spec": {"schedulingGates": null}})),
        PatchParams::default(),
    );
    let by_admin = waiting.pods.patch(&waiting.name, &params, &ungated).await;
    let message = refused(by_admin).unwrap();
    assert!(message.contains("is removed by the reconciler"), "{message}");
    binds(&mut table, &pods, &client, &victim).await;
    let events = Api::namespaced(client.clone(), &home.name);
    tolerates_everything(&mut table, &pods, &events, &victim.node_name()).await;
    makes_vms(&mut table, env, &client, &home.name).await;
    table.print();

    waiting.delete().await.unwrap();
    waiting.gone().await.unwrap();
    waiting.leaves_nothing().await.unwrap();
    victim.running().await.unwrap();
    victim.ends().await.unwrap();
}

async fn makes_vms(table: &mut Table, env: &TestEnv, tenant: &Client, home: &str) {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "kubevirt.io",
        "v1",
        "VirtualMachineInstance",
    ));
    let vmis = |client: &Client, namespace: &str| {
        Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind)
    };
    let vmi: DynamicObject = from(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": names::node_name(&"8c2f4f9e-52b3-4d1c-9a77-0d6f6f2f7b10".into())},
        "spec": {"domain": {"memory": {"guest": "1Gi"}, "devices": {}}},
    }));
    table
        .refuses(
            "create a VM in our namespace",
            "cannot create resource \"virtualmachineinstances\"",
            vmis(tenant, names::VM_NAMESPACE).create(&dry_run(), &vmi),
            vmis(tenant, home).create(&dry_run(), &vmi),
        )
        .await;

    // Beyond any tenant: VMs in all namespaces.
    let admin = env.control_plane().admin().await.unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(admin);
    let binding = from(json!({
        "metadata": {"name": "vms-everywhere"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "vm-admin"}],
    }));
    accepts(&bindings, &binding).await.unwrap();
    let vm_admin = env.control_plane().user("vm-admin", "vm-admins").await.unwrap();
    table
        .refuses(
            "… with rights to VMs in all namespaces",
            "is for the VMs of marooned pods",
            vmis(&vm_admin, names::VM_NAMESPACE).create(&dry_run(), &vmi),
            vmis(&vm_admin, home).create(&dry_run(), &vmi),
        )
        .await;

    let secrets = |namespace: &str| Api::<Secret>::namespaced(tenant.clone(), namespace);
    let (all, own) = (ListParams::default(), secrets(home));
    table
        .refuses(
            "list the VMs' Secrets",
            "cannot list resource \"secrets\"",
            secrets(names::VM_NAMESPACE).list(&all),
            own.list(&all),
        )
        .await;
}
