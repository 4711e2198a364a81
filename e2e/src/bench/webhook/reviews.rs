//! Admission reviews as kube-apiserver sends them for a pod's creation: its order of fields, its defaults.

use serde::Serialize;

/// How much a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Size {
    /// 2.2 KB: one container, made by hand.
    Small,
    /// 12.8 KB: a Deployment's pod with two containers, an init container and managed fields.
    Typical,
    /// 146 KB: a dozen containers with long environments.
    Large,
}

impl Size {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Small, Self::Typical, Self::Large];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Typical => "typical",
            Self::Large => "large",
        }
    }

    /// The request's body.
    #[must_use]
    pub fn review(self) -> String {
        match self {
            Self::Small => review(&Shape {
                containers: 1,
                init_containers: 0,
                env: 0,
                by_controller: false,
                annotations: 0,
            }),
            Self::Typical => review(&Shape {
                containers: 2,
                init_containers: 1,
                env: 5,
                by_controller: true,
                annotations: 3,
            }),
            Self::Large => review(&Shape {
                containers: 12,
                init_containers: 2,
                env: 43,
                by_controller: true,
                annotations: 12,
            }),
        }
    }
}

struct Shape {
    containers: usize,
    init_containers: usize,
    env: usize,
    /// With what a controller's pods usually have: owner, managed fields, service account token, probes.
    by_controller: bool,
    annotations: usize,
}

const UID: &str = "705ab4f5-6393-11e8-b7cc-42010a800002";

fn review(shape: &Shape) -> String {
    let kind = r#"{"group":"","version":"v1","kind":"Pod"}"#;
    let resource = r#"{"group":"","version":"v1","resource":"pods"}"#;
    let user = concat!(
        r#"{"username":"system:serviceaccount:kube-system:replicaset-controller","#,
        r#""uid":"f0c3c7a1-9e52-4b0e-8a1f-3c9a8b8f2f11","groups":["system:serviceaccounts","#,
        r#""system:serviceaccounts:kube-system","system:authenticated"],"#,
        r#""extra":{"authentication.kubernetes.io/credential-id":["JTI=2bd1a1f8-54f7-4f53-a2a3-0bb5a8b8a1c0"]}}"#
    );
    let options = r#"{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}"#;
    format!(
        r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"{UID}","kind":{kind},"resource":{resource},"requestKind":{kind},"requestResource":{resource},"namespace":"shop","operation":"CREATE","userInfo":{user},"object":{},"oldObject":null,"dryRun":false,"options":{options}}}}}"#,
        pod(shape)
    )
}

fn pod(shape: &Shape) -> String {
    let list = |names: &str, count: usize| {
        let items: Vec<_> = (0..count)
            .map(|index| container(&format!("{names}-{index}"), shape))
            .collect();
        items.join(",")
    };
    let init = if shape.init_containers == 0 {
        String::new()
    } else {
        format!(r#""initContainers":[{}],"#, list("init", shape.init_containers))
    };
    let volumes = given(
        shape.by_controller,
        r#""volumes":[{"name":"kube-api-access-7x2lq","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}}],"defaultMode":420}}],"#,
    );
    format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{},"spec":{{{volumes}{init}"containers":[{}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"checkout","serviceAccount":"checkout","securityContext":{{}},"schedulerName":"default-scheduler","tolerations":[{{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}},{{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}}],"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"}},"status":{{}}}}"#,
        metadata(shape),
        list("app", shape.containers)
    )
}

fn metadata(shape: &Shape) -> String {
    let annotations: Vec<_> = (0..shape.annotations)
        .map(|n| format!(r#""example.com/note-{n}":"{{\"rev\":{n},\"by\":\"team \\\"shop\\\"\"}}""#))
        .collect();
    let annotations = if annotations.is_empty() {
        String::new()
    } else {
        format!(r#","annotations":{{{}}}"#, annotations.join(","))
    };
    let managed = if shape.by_controller {
        format!(r#","managedFields":[{}]"#, managed_fields(shape))
    } else {
        String::new()
    };
    let owner = given(
        shape.by_controller,
        r#","ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"checkout-6d4b75cb6d","uid":"e1ff6f0a-4f2b-4b4c-8d6a-9f1b5c2d3e4f","controller":true,"blockOwnerDeletion":true}]"#,
    );
    format!(
        r#"{{"generateName":"checkout-6d4b75cb6d-","namespace":"shop","creationTimestamp":null,"labels":{{"app":"checkout","app.kubernetes.io/part-of":"shop","maroonedpods.io/maroon":"true","pod-template-hash":"6d4b75cb6d"}}{annotations}{owner}{managed}}}"#
    )
}

fn given(wanted: bool, text: &str) -> &str {
    if wanted { text } else { "" }
}

/// What kube-controller-manager owns of the pod that it made: every field of the pod's template (structured merge's
/// `FieldsV1`).
fn managed_fields(shape: &Shape) -> String {
    let containers = |prefix: &str, count: usize| {
        let items: Vec<_> = (0..count)
            .map(|index| {
                format!(
                    r#""k:{{\"name\":\"{prefix}-{index}\"}}":{{{}}}"#,
                    container_fields(shape)
                )
            })
            .collect();
        items.join(",")
    };
    let init = if shape.init_containers == 0 {
        String::new()
    } else {
        format!(
            r#""f:initContainers":{{".":{{}},{}}},"#,
            containers("init", shape.init_containers)
        )
    };
    let annotations: Vec<_> = (0..shape.annotations)
        .map(|n| format!(r#","f:example.com/note-{n}":{{}}"#))
        .collect();
    let annotations = annotations.concat();
    format!(
        r#"{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"2026-11-21T09:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:annotations":{{".":{{}}{annotations}}},"f:generateName":{{}},"f:labels":{{".":{{}},"f:app":{{}},"f:app.kubernetes.io/part-of":{{}},"f:maroonedpods.io/maroon":{{}},"f:pod-template-hash":{{}}}},"f:ownerReferences":{{".":{{}},"k:{{\"uid\":\"e1ff6f0a-4f2b-4b4c-8d6a-9f1b5c2d3e4f\"}}":{{}}}}}},"f:spec":{{"f:containers":{{{}}},"f:dnsPolicy":{{}},"f:enableServiceLinks":{{}},{init}"f:restartPolicy":{{}},"f:schedulerName":{{}},"f:securityContext":{{}},"f:serviceAccount":{{}},"f:serviceAccountName":{{}},"f:terminationGracePeriodSeconds":{{}}}}}}}}"#,
        containers("app", shape.containers)
    )
}

fn container_fields(shape: &Shape) -> String {
    let env: String = (0..shape.env)
        .map(|n| match n % 3 {
            0 => format!(r#","k:{{\"name\":\"SETTING_{n}\"}}":{{".":{{}},"f:name":{{}},"f:value":{{}}}}"#),
            source => {
                let source = if source == 1 { "configMapKeyRef" } else { "fieldRef" };
                format!(
                    r#","k:{{\"name\":\"SETTING_{n}\"}}":{{".":{{}},"f:name":{{}},"f:valueFrom":{{".":{{}},"f:{source}":{{}}}}}}"#
                )
            }
        })
        .collect();
    let probe = |name: &str| {
        format!(
            r#""f:{name}":{{".":{{}},"f:failureThreshold":{{}},"f:httpGet":{{".":{{}},"f:path":{{}},"f:port":{{}},"f:scheme":{{}}}},"f:initialDelaySeconds":{{}},"f:periodSeconds":{{}},"f:successThreshold":{{}},"f:timeoutSeconds":{{}}}},"#
        )
    };
    format!(
        r#"".":{{}},"f:command":{{}},"f:env":{{".":{{}}{env}}},"f:image":{{}},"f:imagePullPolicy":{{}},{}"f:name":{{}},"f:ports":{{".":{{}},"k:{{\"containerPort\":8080,\"protocol\":\"TCP\"}}":{{".":{{}},"f:containerPort":{{}},"f:name":{{}},"f:protocol":{{}}}}}},{}"f:resources":{{".":{{}},"f:limits":{{".":{{}},"f:cpu":{{}},"f:memory":{{}}}},"f:requests":{{".":{{}},"f:cpu":{{}},"f:memory":{{}}}}}},"f:securityContext":{{".":{{}},"f:allowPrivilegeEscalation":{{}},"f:capabilities":{{".":{{}},"f:drop":{{}}}},"f:runAsNonRoot":{{}}}},{}"f:terminationMessagePath":{{}},"f:terminationMessagePolicy":{{}}"#,
        probe("livenessProbe"),
        probe("readinessProbe"),
        probe("startupProbe"),
    )
}

fn container(name: &str, shape: &Shape) -> String {
    let env: Vec<_> = (0..shape.env)
        .map(|n| match n % 3 {
            0 => format!(r#"{{"name":"SETTING_{n}","value":"postgres://shop:5432/{name}?sslmode=verify-full&pool={n}"}}"#),
            1 => format!(r#"{{"name":"SETTING_{n}","valueFrom":{{"configMapKeyRef":{{"name":"settings","key":"setting-{n}"}}}}}}"#),
            _ => format!(r#"{{"name":"SETTING_{n}","valueFrom":{{"fieldRef":{{"apiVersion":"v1","fieldPath":"metadata.labels['app']"}}}}}}"#),
        })
        .collect();
    let probe = |path: &str| {
        format!(
            r#"{{"httpGet":{{"path":"{path}","port":8080,"scheme":"HTTP"}},"initialDelaySeconds":5,"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}}"#
        )
    };
    let probes = if shape.by_controller {
        format!(
            r#""livenessProbe":{},"readinessProbe":{},"startupProbe":{},"#,
            probe("/healthz"),
            probe("/readyz"),
            probe("/started")
        )
    } else {
        String::new()
    };
    let mounts = given(
        shape.by_controller,
        r#""volumeMounts":[{"name":"kube-api-access-7x2lq","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],"#,
    );
    format!(
        r#"{{"name":"{name}","image":"registry.example/shop/{name}@sha256:3f2b5c1d9e8a7f6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b","command":["/bin/server","--listen=:8080","--log=json"],"ports":[{{"name":"http","containerPort":8080,"protocol":"TCP"}}],"env":[{}],"resources":{{"limits":{{"cpu":"1","memory":"512Mi"}},"requests":{{"cpu":"250m","memory":"256Mi"}}}},{mounts}{probes}"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","securityContext":{{"capabilities":{{"drop":["ALL"]}},"runAsNonRoot":true,"allowPrivilegeEscalation":false}}}}"#,
        env.join(",")
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::admission::AdmissionReview;
    use maroonedpods_common::admission::OptOut;
    use maroonedpods_webhook::metrics::AdmissionResult;
    use maroonedpods_webhook::review::answer;

    use super::*;
    use crate::bench::stats::number;

    #[test]
    fn sizes_are_as_said() {
        let kilobytes = |size: Size| number(size.review().len()) / 1000.0;
        for (size, wanted) in [(Size::Small, 2.2), (Size::Typical, 12.8), (Size::Large, 146.0)] {
            let made = kilobytes(size);
            assert!((made / wanted - 1.0).abs() < 0.03, "{}: {made} KB", size.name());
        }
    }

    #[test]
    fn kube_reads_them_and_our_webhook_patches_them() {
        for size in Size::ALL {
            let review = size.review();
            let typed: AdmissionReview<Pod> = serde_json::from_str(&review).unwrap();
            let pod = typed.request.unwrap().object.unwrap();
            assert!(!pod.spec.unwrap().containers.is_empty());
            let answer = answer(review.as_bytes(), OptOut::Honoured);
            assert_eq!(answer.result, AdmissionResult::Patched);
        }
    }
}
