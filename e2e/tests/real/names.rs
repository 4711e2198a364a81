//! Names that a marooned pod resolves, by the cluster's DNS Service, which the configuration does not name.

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::cluster::{CLUSTER_DOMAIN, DNS_ADDRESS};
use maroonedpods_e2e::harness::real_env::RUNS;
use maroonedpods_e2e::install::dns;

use crate::network::Pods;

/// `CoreDNS` answers with the Services' addresses, and the pod finds them by their short names.
pub async fn are_resolved(pods: &Pods<'_>) {
    dns::serve(&pods.env.admin, CLUSTER_DOMAIN).await.unwrap();
    let services: Api<Service> = Api::namespaced(pods.env.admin.clone(), &pods.namespace);
    let spec = services.get("plain-1").await.unwrap().spec.unwrap();
    let address = spec.cluster_ip.unwrap();
    let namespace = &pods.namespace;
    for (name, address) in [
        (format!("plain-1.{namespace}"), address.as_str()),
        ("kubernetes.default".to_owned(), "10.96.0.1"),
    ] {
        let name = format!("{name}.svc.{CLUSTER_DOMAIN}");
        let answer = eventually(&format!("the address of {name}"), RUNS, || async {
            let answer = looks_up(pods, &name).await?;
            Ok(answer
                .contains(&format!("Address: {address}\n"))
                .then_some(answer))
        })
        .await
        .unwrap();
        println!("$ kubectl exec marooned-a -- nslookup {name}\n{answer}");
    }
    // Its own namespace, and that of another pod: what the search list is for.
    for name in ["plain-1", &format!("plain-1.{namespace}")] {
        let url = format!("http://{name}/");
        let answer = pods.test("marooned-a", &["get", &url]).await.unwrap();
        assert_eq!(answer, "this is plain-1", "{url}");
    }
    let nothing = format!("nothing.{namespace}.svc.{CLUSTER_DOMAIN}");
    let answer = looks_up(pods, &nothing).await.unwrap();
    assert!(answer.contains("NXDOMAIN"), "{answer}");

    let resolver = ["/bin/busybox", "cat", "/etc/resolv.conf"];
    let resolver = pods.exec("marooned-a", &resolver).await.unwrap();
    println!("$ kubectl exec marooned-a -- cat /etc/resolv.conf\n{resolver}");
    let search = format!("search {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}");
    assert!(resolver.contains(&search), "{resolver}");
    assert!(
        resolver.contains(&format!("nameserver {DNS_ADDRESS}\n")),
        "{resolver}"
    );
}

/// What busybox is told, or that it is told nothing.
async fn looks_up(pods: &Pods<'_>, name: &str) -> anyhow::Result<String> {
    let script = format!("/bin/busybox nslookup {name} 2>&1; true");
    pods.exec("marooned-a", &["/bin/busybox", "sh", "-c", &script])
        .await
}
