//! Certificate requests: the expected ones, approved with a reason; the others, refused with a reason, and counted. Each
//! refusal's reason is provoked by one test only, so that its counter is that test's alone.

#![allow(clippy::unwrap_used, clippy::panic)]

mod flood;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, ListParams, ObjectMeta};
use kube::{Api, Client, ResourceExt};
use maroonedpods_common::names;
use maroonedpods_e2e::api::check::{accepts, eventually};
use maroonedpods_e2e::api::namespace::TestNamespace;
use maroonedpods_e2e::fake_kubevirt::GuestEvent;
use maroonedpods_e2e::fake_kubevirt::script::Script;
use maroonedpods_e2e::harness::marooned_pod::{MaroonedPod, SOON};
use maroonedpods_e2e::harness::test_env::{Running, TestEnv};
use maroonedpods_reconciler::token_id;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::json;

struct Test {
    env: &'static TestEnv,
    reconciler: &'static Running,
    admin: Client,
    namespace: TestNamespace,
}

impl Test {
    async fn new() -> Self {
        let (env, reconciler) = TestEnv::shared_with_reconciler().await.unwrap();
        let admin = env.control_plane().admin().await.unwrap();
        let namespace = TestNamespace::new(&admin, &[]).await.unwrap();
        Self {
            env,
            reconciler,
            admin,
            namespace,
        }
    }

    async fn pod(&self, name: &str, script: &Script) -> MaroonedPod {
        MaroonedPod::create(&self.admin, &self.namespace.name, name, script)
            .await
            .unwrap()
    }

    fn log(&self, pod: &MaroonedPod) -> Vec<GuestEvent> {
        self.env.kubevirt().guests().of(&pod.node_name())
    }

    async fn logged(&self, pod: &MaroonedPod, event: &GuestEvent) {
        eventually(&format!("{event:?}"), SOON, || async {
            Ok(self.log(pod).contains(event).then_some(()))
        })
        .await
        .unwrap();
    }

    async fn refused(&self, reason: &str) -> f64 {
        let name = format!("maroonedpods_csr_refused_total{{reason=\"{reason}\"}}");
        self.reconciler.metric(&name).await.unwrap()
    }

    /// Waits until as many refusals were counted; more would be one too many, of which `assert_eq` tells.
    async fn counts(&self, reason: &str, denials: usize) {
        let denials = denials.to_string();
        let counted = eventually("the count of refusals", SOON, || async {
            let count = self.refused(reason).await;
            Ok((count >= denials.parse()?).then_some(count))
        })
        .await
        .unwrap();
        assert_eq!(counted.to_string(), denials, "{reason}");
    }

    /// Waits for denied requests of the user, and sees that nothing else became of any of them: a guest may not say so.
    async fn denied_alone(&self, users: &[String], reason: &str) {
        let csrs: Api<CertificateSigningRequest> = Api::all(self.admin.clone());
        let what = format!("a request denied for {reason}");
        let denied = eventually(&what, SOON, || async {
            let mut all = csrs.list(&ListParams::default()).await?.items;
            all.retain(|csr| {
                let by_user = csr
                    .spec
                    .username
                    .as_ref()
                    .is_some_and(|user| users.contains(user));
                by_user && conditions(csr).any(|c| c.type_ == "Denied" && c.reason.as_deref() == Some(reason))
            });
            Ok((!all.is_empty()).then_some(all))
        });
        for csr in denied.await.unwrap() {
            let others = conditions(&csr).filter(|c| c.type_ != "Denied").count();
            assert_eq!(others, 0, "{csr:?}");
            assert!(!is_issued(&csr), "{csr:?}");
        }
    }

    /// The users of the tokens of both attempts.
    async fn token_users(&self, pod: &MaroonedPod) -> [String; 2] {
        let record = pod.record("there", |_| true).await.unwrap();
        [1, 2].map(|attempt| format!("{}{}", names::BOOTSTRAP_USER_PREFIX, token_id(&record, attempt)))
    }

    /// No certificate was ever worth anything: the pod waits for ever, and its guest never joined.
    async fn never_lifted(&self, pod: &MaroonedPod) {
        pod.reports("AttemptsExhausted").await.unwrap();
        let stored = pod.pods.get(&pod.name).await.unwrap().spec.unwrap();
        assert_eq!(stored.scheduling_gates.unwrap()[0].name, names::GATE);
        assert!(!self.log(pod).contains(&GuestEvent::Joined));
    }
}

fn denials(log: &[GuestEvent], reason: &str) -> usize {
    let denied = [
        GuestEvent::ClientRequestDenied(reason.to_owned()),
        GuestEvent::SecondRequestDenied(reason.to_owned()),
        GuestEvent::ServingRequestDenied(reason.to_owned()),
    ];
    log.iter().filter(|event| denied.contains(event)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_asks_to_be_another_node_is_refused() {
    let test = Test::new().await;
    let victim = test.pod("victim", &Script::default()).await;
    victim.running().await.unwrap();
    let script = Script {
        wrong_node_name: Some(victim.node_name()),
        ..Script::default()
    };
    let thief = test.pod("thief", &script).await;
    let users = test.token_users(&thief).await;
    test.denied_alone(&users, "WrongSubject").await;
    test.never_lifted(&thief).await;
    let denied = denials(&test.log(&thief), "WrongSubject");
    assert!(denied > 0);
    test.counts("WrongSubject", denied).await;
    assert!(
        victim
            .running()
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );
    thief.ends().await.unwrap();
    victim.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_names_are_refused_in_either_kind_of_request() {
    let test = Test::new().await;
    let foreign = vec!["kubernetes.default.svc".to_owned()];
    let serving = Script {
        serving_sans: foreign.clone(),
        ..Script::default()
    };
    let serves = test.pod("serving", &serving).await;
    serves.running().await.unwrap();
    test.logged(
        &serves,
        &GuestEvent::ServingRequestDenied("ForeignName".to_owned()),
    )
    .await;
    let client = Script {
        extra_sans: foreign,
        ..Script::default()
    };
    let kubelet = [format!("{}{}", names::NODE_USER_PREFIX, serves.node_name())];
    test.denied_alone(&kubelet, "ForeignName").await;
    let joins = test.pod("client", &client).await;
    let users = test.token_users(&joins).await;
    test.denied_alone(&users, "ForeignName").await;
    test.never_lifted(&joins).await;
    let denied = denials(&test.log(&joins), "ForeignName");
    assert!(denied > 0);
    // The kubelet that serves asks again after each refusal, and has asked again by now.
    test.counts("ForeignName", denied + denials(&test.log(&serves), "ForeignName"))
        .await;
    assert!(!test.log(&serves).contains(&GuestEvent::ServingCertificate));
    serves.ends().await.unwrap();
    joins.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gets_one_certificate() {
    let test = Test::new().await;
    // Which of two requests made at once is the first is not known: the other one is refused.
    let second = Script {
        attempts: 1,
        second_csr: true,
        ..Script::default()
    };
    let twice = test.pod("twice", &second).await;
    twice.running().await.unwrap();
    eventually("a refused request", SOON, || async {
        Ok((denials(&test.log(&twice), "SecondClient") > 0).then_some(()))
    })
    .await
    .unwrap();
    test.denied_alone(&test.token_users(&twice).await, "SecondClient")
        .await;
    assert!(!test.log(&twice).contains(&GuestEvent::SecondRequestGranted));
    let denied = denials(&test.log(&twice), "SecondClient");
    test.counts("SecondClient", denied).await;
    twice.ends().await.unwrap();

    let reuse = Script {
        reuse_token: true,
        ..Script::default()
    };
    let reuser = test.pod("again", &reuse).await;
    reuser.running().await.unwrap();
    test.logged(&reuser, &GuestEvent::TokenRefused).await;
    let record = reuser.record("there", |_| true).await.unwrap();
    let user = format!("{}{}", names::BOOTSTRAP_USER_PREFIX, token_id(&record, 1));
    let csrs: Api<CertificateSigningRequest> = Api::all(test.admin.clone());
    let by_token: Vec<_> = csrs
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .filter(|csr| csr.spec.username.as_ref() == Some(&user))
        .collect();
    assert!(by_token.len() > 1, "the token was not used again");
    assert_eq!(by_token.iter().filter(|csr| is_issued(csr)).count(), 1);
    let refused = by_token.iter().filter(|csr| is_denied(csr)).count();
    test.denied_alone(&[user], "SecondClient").await;
    test.counts("SecondClient", denied + refused).await;
    reuser.ends().await.unwrap();
}

fn conditions(csr: &CertificateSigningRequest) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    csr.status.iter().flat_map(|s| s.conditions.iter().flatten())
}

fn is_denied(csr: &CertificateSigningRequest) -> bool {
    conditions(csr).any(|c| c.type_ == "Denied")
}

fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status
        .as_ref()
        .is_some_and(|status| status.certificate.is_some())
}

/// What `kubectl describe csr` shows of the two requests of a guest that joins.
#[tokio::test(flavor = "multi_thread")]
async fn the_expected_requests_are_approved_with_a_reason() {
    let test = Test::new().await;
    let pod = test.pod("joins", &Script::default()).await;
    pod.running().await.unwrap();
    test.logged(&pod, &GuestEvent::ServingCertificate).await;
    let [token, _] = test.token_users(&pod).await;
    let kubelet = format!("system:node:{}", pod.node_name());
    let csrs: Api<CertificateSigningRequest> = Api::all(test.admin.clone());
    let all = csrs.list(&ListParams::default()).await.unwrap();
    for (user, signer) in [
        (token, "kubernetes.io/kube-apiserver-client-kubelet"),
        (kubelet, "kubernetes.io/kubelet-serving"),
    ] {
        let by_user: Vec<_> = all
            .iter()
            .filter(|csr| csr.spec.username.as_ref() == Some(&user) && csr.spec.signer_name == signer)
            .collect();
        let [csr] = by_user[..] else {
            panic!("not one request of {user}: {by_user:?}")
        };
        assert!(is_issued(csr), "{csr:?}");
        let said: Vec<_> = conditions(csr)
            .map(|c| {
                (
                    c.type_.as_str(),
                    c.status.as_str(),
                    c.reason.as_deref(),
                    c.message.as_deref(),
                )
            })
            .collect();
        let expected = "it is the one request expected of this VM";
        assert_eq!(said, [("Approved", "True", Some("MaroonedNode"), Some(expected))]);
    }
    pod.ends().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_strangers_are_left_alone() {
    let test = Test::new().await;
    let group = "system:bootstrappers:kubeadm:default-node-token";
    let binding = serde_json::from_value(json!({
        "metadata": {"name": "kubeadm:kubelet-bootstrap"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-bootstrapper"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
    }));
    let bindings: Api<ClusterRoleBinding> = Api::all(test.admin.clone());
    accepts(&bindings, &binding.unwrap()).await.unwrap();
    let token = serde_json::from_value(json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": group},
    }));
    let tokens: Api<Secret> = Api::namespaced(test.admin.clone(), names::TOKEN_NAMESPACE);
    accepts(&tokens, &token.unwrap()).await.unwrap();
    let kubeadm = test
        .env
        .control_plane()
        .bearer("abcdef.0123456789abcdef")
        .await
        .unwrap();

    let held = Script {
        never_joins: true,
        ..Script::default()
    };
    let pod = test.pod("pod", &held).await;
    pod.vmi(1, "Running").await.unwrap();
    // Both ask to be our Node, which does not make us responsible for them.
    let signers = [
        (&kubeadm, "kubernetes.io/kube-apiserver-client-kubelet"),
        (&test.admin, "kubernetes.io/kube-apiserver-client"),
    ];
    let mut filed = Vec::new();
    for (client, signer) in signers {
        let csrs = Api::all(client.clone());
        filed.push(accepts(&csrs, &request(&pod.node_name(), signer)).await.unwrap());
    }
    pod.ends().await.unwrap();
    let after = test.pod("after", &Script::default()).await;
    after.running().await.unwrap();
    after.ends().await.unwrap();

    let csrs: Api<CertificateSigningRequest> = Api::all(test.admin.clone());
    for csr in filed {
        let now = csrs.get(&csr.name_any()).await.unwrap();
        assert_eq!(now.resource_version(), csr.resource_version(), "{now:?}");
        csrs.delete(&csr.name_any(), &DeleteParams::default())
            .await
            .unwrap();
    }
    tokens
        .delete("bootstrap-token-abcdef", &DeleteParams::default())
        .await
        .unwrap();
}

fn request(node: &str, signer: &str) -> CertificateSigningRequest {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, names::NODES_GROUP);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{}{node}", names::NODE_USER_PREFIX));
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("stranger-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), "client auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}
