//! What the demo's user creates: ordinary Kubernetes objects. All that is new are two labels.

use maroonedpods_common::names;
use serde_json::{Value, json};

use crate::harness::real_env::TOOLBOX;

/// Holds pods that opt in by a label of their own, and an ordinary one.
pub const BY_POD: &str = "demo";
/// A namespace that opts all of its pods in.
pub const BY_NAMESPACE: &str = "demo-isolated";
/// The Deployment, and its Service.
pub const WEB: &str = "web";
/// The StatefulSet.
pub const STORE: &str = "store";
/// The Job, in [`BY_NAMESPACE`].
pub const REPORT: &str = "report";
/// The ordinary pod.
pub const PLAIN: &str = "plain";

/// How many pods are marooned when the Deployment has so many replicas: its own, the StatefulSet's and the Job's.
pub fn marooned(replicas: u32) -> u32 {
    replicas.saturating_add(2)
}

/// The two namespaces.
pub fn namespaces() -> Vec<Value> {
    let namespace = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    vec![
        namespace(BY_POD, json!({})),
        namespace(BY_NAMESPACE, json!({names::MAROON_LABEL: "true"})),
    ]
}

/// What is in them, with so many replicas of the Deployment.
pub fn objects(replicas: u32) -> Vec<Value> {
    let serve = "/bin/busybox uname -a; exec /testserver serve";
    let report = "echo report from Linux $(/bin/busybox uname -r); /bin/busybox sleep 3; echo done";
    let mut web = spec(serve);
    web["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    let mut once = spec(report);
    once["restartPolicy"] = json!("Never");
    let labels = |app: &str| json!({"app": app, names::MAROON_LABEL: "true"});
    vec![
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": BY_POD, "name": WEB},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": WEB}},
                "template": {"metadata": {"labels": labels(WEB)}, "spec": web}},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": BY_POD, "name": WEB},
            "spec": {"selector": {"app": WEB}, "ports": [{"port": 80, "targetPort": 8080}]},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"namespace": BY_POD, "name": STORE},
            "spec": {"replicas": 1, "serviceName": STORE, "selector": {"matchLabels": {"app": STORE}},
                "template": {"metadata": {"labels": labels(STORE)}, "spec": spec(serve)}},
        }),
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": BY_NAMESPACE, "name": REPORT},
            "spec": {"backoffLimit": 0, "template": {"spec": once}},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": BY_POD, "name": PLAIN},
            "spec": spec(serve),
        }),
    ]
}

/// One container that runs a script. It leaves at once when it is told to.
fn spec(script: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 2,
        "containers": [{
            "name": "main",
            "image": TOOLBOX,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/busybox", "sh", "-c", script],
            "resources": {"requests": {"memory": "32Mi"}},
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_adds_labels_and_nothing_else() {
        let all = Value::from([namespaces(), objects(1)].concat()).to_string();
        let opt_in = format!("\"{}\":\"true\"", names::MAROON_LABEL);
        assert_eq!(all.matches(&opt_in).count(), 3);
        assert_eq!(all.matches("maroonedpods.io").count(), 3);
    }

    #[test]
    fn the_deployment_has_its_replicas() {
        assert_eq!(objects(4)[0]["spec"]["replicas"], 4);
        assert_eq!(marooned(4), 6);
    }
}
