//! virt-api's part in a drain: a launcher of a VMI with `evictionStrategy: External` is not evicted; its VMI is marked,
//! and the client that created it must act.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::routing::post;
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::crd::{pods, vmis};
use super::launcher::DOMAIN;
use super::vmi::condition;
use crate::api::apply::apply_yaml;
use crate::system::pki::Authority;

const NAME: &str = "virt-launcher-eviction-interceptor.kubevirt.io";
const TOO_MANY_REQUESTS: u16 = 429;

/// Asks the API server to have each eviction in `namespace` judged here, on loopback; the returned future judges them.
pub(super) async fn interceptor(
    client: Client,
    namespace: String,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    let authority = Authority::new("kubevirt")?;
    let pair = authority.server(&["127.0.0.1"])?;
    let tls = RustlsConfig::from_pem(pair.certificate.into_bytes(), pair.key.into_bytes()).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "virt-api-validator"},
        "webhooks": [{
            "name": NAME,
            "clientConfig": {
                "url": format!("https://{address}/"),
                "caBundle": STANDARD.encode(authority.pem()),
            },
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods/eviction"],
            }],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "NoneOnDryRun",
            "failurePolicy": "Ignore",
        }],
    });
    apply_yaml(&client, &configuration.to_string())
        .await
        .context("registering for evictions")?;
    let judge = move |body: Bytes| {
        let (client, namespace) = (client.clone(), namespace.clone());
        async move {
            // A request that is not a review gets an answer that is not one either, and the API server reports that.
            let review: Value = serde_json::from_slice(&body).unwrap_or_default();
            let request = &review["request"];
            let evacuated = evacuate(&client, &namespace, request)
                .await
                .unwrap_or_else(|error| {
                    tracing::warn!(error = format!("{error:#}"), "judging an eviction failed");
                    None
                });
            let answer = answer(request, evacuated.as_deref()).to_string();
            ([(CONTENT_TYPE, "application/json")], answer)
        }
    };
    let service = axum::Router::new().route("/", post(judge)).into_make_service();
    let server = axum_server::from_tcp_rustls(listener, tls)?;
    Ok(async move {
        if let Err(error) = server.serve(service).await {
            tracing::warn!(%error, "virt-api's webhook ended");
        }
    })
}

/// Marks the VMI whose launcher is to be evicted; its name, or none where that is nothing of ours.
async fn evacuate(client: &Client, namespace: &str, request: &Value) -> Result<Option<String>> {
    let name = request["name"]
        .as_str()
        .context("an eviction that names no pod")?;
    let pod = pods(client, namespace).get_opt(name).await?;
    let domain = pod.and_then(|pod| pod.annotations().get(DOMAIN).cloned());
    let Some(domain) = domain else { return Ok(None) };
    let vmis = vmis(client, namespace);
    let vmi = vmis.get_opt(&domain).await?;
    let Some(vmi) = vmi.filter(|vmi| vmi.data["spec"]["evictionStrategy"] == "External") else {
        return Ok(None);
    };
    let over = matches!(vmi.data["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if over {
        return Ok(None);
    }
    let is_marked = vmi.data["status"]["evacuationNodeName"].is_string();
    if !is_marked && request["dryRun"] != true {
        mark(&vmis, &domain).await?;
    }
    Ok(Some(domain))
}

/// Marks a VMI for evacuation from the host that it is on.
pub(super) async fn mark(vmis: &Api<DynamicObject>, vmi: &str) -> Result<()> {
    let found = vmis.get(vmi).await?;
    let status = &found.data["status"];
    let host = status["nodeName"]
        .as_str()
        .with_context(|| format!("{vmi} is on no host yet"))?;
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.push(condition(
        "EvictionRequested",
        "True",
        "EvictionRequested",
        "VMI eviction was requested",
    ));
    let evicted = json!({"status": {"evacuationNodeName": host, "conditions": conditions}});
    vmis.patch(vmi, &PatchParams::default(), &Patch::Merge(evicted))
        .await?;
    Ok(())
}

/// The answer to an admission request: an eviction that started an evacuation is to be tried again later.
fn answer(request: &Value, evacuated: Option<&str>) -> Value {
    let mut response = json!({"uid": request["uid"], "allowed": evacuated.is_none()});
    if let Some(vmi) = evacuated {
        let message = format!("Eviction triggered evacuation of VMI \"{vmi}\"");
        response["status"] =
            json!({"code": TOO_MANY_REQUESTS, "reason": "TooManyRequests", "message": message});
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eviction_that_evacuates_is_to_be_tried_again() {
        let request = json!({"uid": "u"});
        let refused = answer(&request, Some("v"));
        assert_eq!(refused["response"]["allowed"], false);
        assert_eq!(refused["response"]["status"]["code"], 429);
        assert_eq!(
            answer(&request, None)["response"],
            json!({"uid": "u", "allowed": true})
        );
    }
}
