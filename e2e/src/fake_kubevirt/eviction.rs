//! virt-api's part in a drain: a launcher of a VMI with `evictionStrategy: External` is not evicted; its VMI is marked,
//! and the client that created it must act.

use anyhow::{Context, Result};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::crd::{pods, vmis};
use super::launcher::DOMAIN;
use super::vmi::condition;
use super::writes::change;

const TOO_MANY_REQUESTS: u16 = 429;

/// The response to a review of an eviction.
pub(super) async fn judge(client: &Client, namespace: &str, request: &Value) -> Value {
    let refusal = evacuate(client, namespace, request)
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "judging an eviction failed");
            None
        });
    response(refusal.as_deref())
}

/// Marks the VMI whose launcher is to be evicted; why the launcher is not, or none where that is nothing of ours.
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
    let again = if is_marked { "Evacuation in progress: " } else { "" };
    Ok(Some(format!(
        "{again}Eviction triggered evacuation of VMI \"{namespace}/{domain}\""
    )))
}

/// Marks a VMI for evacuation from the host that it is on.
pub(super) async fn mark(vmis: &Api<DynamicObject>, vmi: &str) -> Result<()> {
    let found = vmis.get(vmi).await?;
    let status = &found.data["status"];
    let host = status["nodeName"]
        .as_str()
        .with_context(|| format!("{vmi} is on no host yet"))?;
    let requested = condition(
        "EvictionRequested",
        "True",
        "EvictionRequested",
        "VMI is marked for eviction",
    );
    let evacuated = json!({"status": {"evacuationNodeName": host}});
    change(vmis, vmi, &evacuated, &[requested]).await?;
    Ok(())
}

/// An eviction that started an evacuation is to be tried again later.
fn response(refusal: Option<&str>) -> Value {
    let mut response = json!({"allowed": refusal.is_none()});
    if let Some(message) = refusal {
        response["status"] = json!({"code": TOO_MANY_REQUESTS, "message": message});
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eviction_that_evacuates_is_to_be_tried_again() {
        let refused = response(Some("v"));
        assert_eq!(refused["allowed"], false);
        assert_eq!(refused["status"]["code"], 429);
        assert_eq!(response(None), json!({"allowed": true}));
    }
}
