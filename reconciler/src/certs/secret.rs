//! The Secret with the webhook's pair, laid out as cert-manager does, so that the reconciler and cert-manager can
//! each continue with what the other left.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value, json};

use super::issue::Issued;
use super::pair::{CURRENT, Keys, NEXT};

/// Its name. Webhook pods mount it.
pub const NAME: &str = "maroonedpods-webhook-tls";
/// Annotation by which users request a new pair now, whatever its value.
pub const ROTATE_ANNOTATION: &str = "maroonedpods.io/rotate";

/// A change that puts a new pair beside the current one. It also removes the user's request, which is under way then.
#[must_use]
pub fn beside(issued: &Issued) -> Value {
    let mut data = Map::new();
    put(&mut data, NEXT, issued);
    change(&data, &json!({ROTATE_ANNOTATION: null}))
}

/// A change that puts a new pair in the current one's place.
#[must_use]
pub fn instead(issued: &Issued, dns_name: &str) -> Value {
    let mut data = without_next();
    put(&mut data, CURRENT, issued);
    let mut annotations = origin(dns_name);
    annotations[ROTATE_ANNOTATION] = Value::Null;
    change(&data, &annotations)
}

/// A change that makes the next pair the current one.
#[must_use]
pub fn promoted(stored: &BTreeMap<String, ByteString>, dns_name: &str) -> Value {
    let mut data = without_next();
    for (to, from) in [
        (CURRENT.ca, NEXT.ca),
        (CURRENT.certificate, NEXT.certificate),
        (CURRENT.key, NEXT.key),
    ] {
        data.insert(to.to_owned(), json!(stored.get(from)));
    }
    change(&data, &origin(dns_name))
}

/// A new Secret with a change applied to it. Its type requires both parts of the current pair, which may be empty.
///
/// # Errors
/// Never, as long as the change comes from this module.
pub fn created(change: &Value) -> Result<Secret, serde_json::Error> {
    let mut secret = json!({
        "metadata": {"name": NAME},
        "type": "kubernetes.io/tls",
        "data": {CURRENT.certificate: "", CURRENT.key: ""},
    });
    json_patch::merge(&mut secret, change);
    serde_json::from_value(secret)
}

fn change(data: &Map<String, Value>, annotations: &Value) -> Value {
    json!({"metadata": {"annotations": annotations}, "data": data})
}

fn put(data: &mut Map<String, Value>, keys: Keys, issued: &Issued) {
    for (key, content) in [
        (keys.ca, &issued.ca),
        (keys.certificate, &issued.certificate),
        (keys.key, &issued.key),
    ] {
        data.insert(key.to_owned(), json!(ByteString(content.clone().into_bytes())));
    }
}

fn without_next() -> Map<String, Value> {
    [NEXT.ca, NEXT.certificate, NEXT.key]
        .map(|key| (key.to_owned(), Value::Null))
        .into_iter()
        .collect()
}

/// The annotations that cert-manager writes beside a pair. An unknown issuer makes cert-manager replace our pair at
/// once when it takes over; without a certificate's name its cainjector does not touch the bundle until then.
fn origin(dns_name: &str) -> Value {
    json!({
        "cert-manager.io/alt-names": dns_name,
        "cert-manager.io/common-name": "",
        "cert-manager.io/ip-sans": "",
        "cert-manager.io/uri-sans": "",
        "cert-manager.io/issuer-name": "builtin",
        "cert-manager.io/issuer-kind": "Reconciler",
        "cert-manager.io/issuer-group": "maroonedpods.io",
        "cert-manager.io/certificate-name": null,
    })
}
