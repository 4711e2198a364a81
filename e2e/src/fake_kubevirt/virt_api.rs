//! virt-api's webhooks: what it makes of VMIs, and its part in a drain. While it is down, VMIs can neither be created nor
//! changed, for their webhook fails closed.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::accounts::is_kubevirts;
use super::crd::vmis;
use super::eviction;
use super::machine::FINALIZER;
use super::vmi::now;
use crate::api::apply::apply_yaml;
use crate::api::check::eventually;
use crate::system::pki::Authority;

const LIMIT: Duration = Duration::from_secs(30);

/// The server of the webhooks, on loopback.
pub(super) struct VirtApi {
    address: SocketAddr,
    tls: RustlsConfig,
    router: Router,
    serving: Mutex<Option<Handle<SocketAddr>>>,
}

impl VirtApi {
    /// Registers the webhooks with the rights of `admin`, as virt-operator does, and serves them with those of `client`.
    /// Evictions are judged in `namespace` alone.
    pub(super) async fn install(admin: &Client, client: Client, namespace: String) -> Result<Self> {
        let authority = Authority::new("kubevirt")?;
        let pair = authority.server(&["127.0.0.1"])?;
        let tls = RustlsConfig::from_pem(pair.certificate.into_bytes(), pair.key.into_bytes()).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let registered = registration(listener.local_addr()?, &authority.pem(), &namespace);
        let virt_api = Self {
            address: listener.local_addr()?,
            tls,
            router: router(client, namespace),
            serving: Mutex::default(),
        };
        virt_api.serve(listener)?;
        for configuration in registered {
            apply_yaml(admin, &configuration.to_string())
                .await
                .context("registering virt-api's webhooks")?;
        }
        virt_api.is_called(admin).await?;
        Ok(virt_api)
    }

    /// The API server learns of webhooks by a watch.
    async fn is_called(&self, admin: &Client) -> Result<()> {
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let vmi: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {"name": "dry-run"},
            "spec": {"domain": {"devices": {}, "memory": {"guest": "1Mi"}}},
        }))?;
        eventually("virt-api's webhook to be called", LIMIT, || async {
            let made = vmis(admin, "kubevirt").create(&dry_run, &vmi).await?;
            Ok((!made.finalizers().is_empty()).then_some(()))
        })
        .await
    }

    /// Serves again, at the same address.
    pub(super) async fn start(&self) -> Result<()> {
        // A connection of this machine may have the port as its source for a moment.
        let listener = eventually("virt-api's address to be free", LIMIT, || async {
            Ok(Some(TcpListener::bind(self.address)?))
        });
        self.serve(listener.await?)
    }

    /// Closes all connections; nothing listens from now on.
    pub(super) fn stop(&self) {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = serving.take() {
            handle.shutdown();
        }
    }

    fn serve(&self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let handle = Handle::new();
        let server = axum_server::from_tcp_rustls(listener, self.tls.clone())?.handle(handle.clone());
        let service = self.router.clone().into_make_service();
        tokio::spawn(async move {
            if let Err(error) = server.serve(service).await {
                tracing::warn!(%error, "virt-api's webhooks ended");
            }
        });
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        Ok(())
    }
}

impl Drop for VirtApi {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The webhooks' configurations, their failure policies as KubeVirt's.
fn registration(address: SocketAddr, ca: &str, namespace: &str) -> [Value; 2] {
    let called =
        |path: &str| json!({"url": format!("https://{address}{path}"), "caBundle": STANDARD.encode(ca)});
    [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "virt-api-mutator"},
            "webhooks": [{
                "name": "virtualmachineinstances-mutator.kubevirt.io",
                "clientConfig": called("/mutate"),
                "rules": [{
                    "apiGroups": ["kubevirt.io"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                    "resources": ["virtualmachineinstances"],
                }],
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
            }],
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "virt-api-validator"},
            "webhooks": [{
                "name": "virt-launcher-eviction-interceptor.kubevirt.io",
                "clientConfig": called("/evict"),
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods/eviction"],
                }],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "NoneOnDryRun",
                "failurePolicy": "Ignore",
            }],
        }),
    ]
}

fn router(client: Client, namespace: String) -> Router {
    let evict = move |body: Bytes| {
        let (client, namespace) = (client.clone(), namespace.clone());
        async move {
            let request = request(&body);
            answer(&request, eviction::judge(&client, &namespace, &request).await)
        }
    };
    let mutate = async |body: Bytes| {
        let request = request(&body);
        let patch = Value::from(mutation(&request)).to_string();
        let patched = json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch)});
        answer(&request, patched)
    };
    Router::new()
        .route("/evict", post(evict))
        .route("/mutate", post(mutate))
}

/// A body that is not a review gets an answer that is not one either, and the API server reports that.
fn request(body: &[u8]) -> Value {
    let review: Value = serde_json::from_slice(body).unwrap_or_default();
    review["request"].clone()
}

fn answer(request: &Value, mut response: Value) -> ([(http::HeaderName, &'static str); 1], String) {
    response["uid"] = request["uid"].clone();
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    ([(CONTENT_TYPE, "application/json")], review.to_string())
}

/// What virt-api changes in a VMI, as a JSON patch (1.9, `vmi-mutator.go`): a new one gets KubeVirt's finalizer, its first
/// phase and defaults; of an existing one, only KubeVirt's own accounts change the status: another client's change is
/// dropped, and the answer is still 200.
fn mutation(request: &Value) -> Vec<Value> {
    let (new, old) = (&request["object"], &request["oldObject"]);
    if request["operation"] == "CREATE" {
        let finalizers = new["metadata"]["finalizers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let finalizers: Vec<_> = finalizers.into_iter().chain([json!(FINALIZER)]).collect();
        let mut patch = vec![
            json!({"op": "add", "path": "/metadata/finalizers", "value": finalizers}),
            json!({"op": "add", "path": "/status", "value": {
                "phase": "Pending",
                "phaseTransitionTimestamps": [{"phase": "Pending", "phaseTransitionTimestamp": now()}],
                "runtimeUser": 107,
            }}),
        ];
        let cpu = &new["spec"]["domain"]["cpu"];
        if cpu.is_object() && cpu["model"].is_null() {
            patch.push(json!({"op": "add", "path": "/spec/domain/cpu/model", "value": "host-model"}));
        }
        return patch;
    }
    let user = request["userInfo"]["username"].as_str().unwrap_or_default();
    match (&new["status"], &old["status"]) {
        (new, old) if new == old || is_kubevirts(user) => Vec::new(),
        (_, Value::Null) => vec![json!({"op": "remove", "path": "/status"})],
        (_, old) => vec![json!({"op": "add", "path": "/status", "value": old})],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_vmi_gets_what_kubevirt_gives_it() {
        let request = json!({"operation": "CREATE", "object": {
            "metadata": {"finalizers": ["a"]}, "spec": {"domain": {"cpu": {"cores": 1}}}}});
        let mut patch = mutation(&request);
        let entered = &mut patch[1]["value"]["phaseTransitionTimestamps"][0];
        assert!(entered["phaseTransitionTimestamp"].take().is_string());
        assert_eq!(
            patch,
            [
                json!({"op": "add", "path": "/metadata/finalizers",
                    "value": ["a", "kubevirt.io/foregroundDeleteVirtualMachine"]}),
                json!({"op": "add", "path": "/status", "value": {"phase": "Pending", "phaseTransitionTimestamps":
                    [{"phase": "Pending", "phaseTransitionTimestamp": null}], "runtimeUser": 107}}),
                json!({"op": "add", "path": "/spec/domain/cpu/model", "value": "host-model"}),
            ]
        );
    }

    #[test]
    fn a_strangers_status_is_dropped_in_silence() {
        let update = |user: &str| {
            let request = json!({"operation": "UPDATE", "userInfo": {"username": user},
                "object": {"status": {"phase": "Failed"}}, "oldObject": {"status": {"phase": "Running"}}});
            mutation(&request)
        };
        assert_eq!(
            update("admin"),
            [json!({"op": "add", "path": "/status", "value": {"phase": "Running"}})]
        );
        assert!(update("system:serviceaccount:kubevirt:kubevirt-controller").is_empty());
    }
}
