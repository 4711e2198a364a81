//! Pairs as they are issued, stored and read again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::issue::{Issued, issue};
use super::pair::{Bundle, CURRENT, Flaw, NEXT, Pair};
use super::secret;

const NAME: &str = "maroonedpods-webhook.maroonedpods-system.svc";
const LIFETIME: Duration = Duration::from_secs(3600);

fn issued() -> Issued {
    issue(NAME, Timestamp::now(), LIFETIME).unwrap()
}

fn stored(issued: &Issued) -> Secret {
    secret::created(&secret::instead(issued, NAME)).unwrap()
}

fn changed(secret: &Secret, change: &serde_json::Value) -> Secret {
    let mut value = json!(secret);
    json_patch::merge(&mut value, change);
    serde_json::from_value(value).unwrap()
}

fn data(secret: &Secret) -> &BTreeMap<String, ByteString> {
    secret.data.as_ref().unwrap()
}

fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

#[test]
fn what_is_issued_is_accepted_for_its_name_and_time_only() {
    let secret = stored(&issued());
    let read = |name, seconds| Pair::read(data(&secret), CURRENT, name, in_seconds(seconds));
    let pair = read(NAME, 0).unwrap();
    let left = pair.not_after.duration_since(Timestamp::now()).as_secs();
    assert!((3590..=3600).contains(&left), "{left}");
    assert_eq!(pair.trust.len(), 1);
    // Other clocks may be behind.
    assert!(read(NAME, -3000).is_ok());
    assert!(matches!(read(NAME, 3700), Err(Flaw::Unusable(_))));
    assert!(matches!(read(NAME, -4000), Err(Flaw::Unusable(_))));
    assert!(matches!(read("other.svc", 0), Err(Flaw::Unusable(_))));
}

#[test]
fn a_pair_is_only_as_good_as_its_parts() {
    let (one, other) = (issued(), issued());
    let secret = stored(&one);
    let with = |key: &str, content: &str| {
        let mut data = data(&secret).clone();
        data.insert(key.to_owned(), ByteString(content.as_bytes().to_vec()));
        Pair::read(&data, CURRENT, NAME, Timestamp::now())
    };
    assert_eq!(with("tls.crt", ""), Err(Flaw::Missing("tls.crt")));
    assert_eq!(with("tls.crt", "garbage"), Err(Flaw::Malformed("tls.crt")));
    assert_eq!(with("tls.key", "garbage"), Err(Flaw::Malformed("tls.key")));
    assert!(matches!(with("ca.crt", "garbage"), Err(Flaw::Unusable(_))));
    assert!(matches!(with("tls.key", &other.key), Err(Flaw::Unusable(_))));
    assert!(matches!(
        with("tls.crt", &other.certificate),
        Err(Flaw::Unusable(_))
    ));
    assert!(matches!(with("ca.crt", &other.ca), Err(Flaw::Unusable(_))));
    assert!(with("ca.crt", &format!("{}{}", other.ca, one.ca)).is_ok());
}

#[test]
fn a_next_pair_waits_beside_the_current_one_and_takes_its_place() {
    let (old, new) = (issued(), issued());
    let mut secret = stored(&old);
    secret.metadata.annotations = Some(BTreeMap::from([
        (secret::ROTATE_ANNOTATION.to_owned(), "now".to_owned()),
        ("user".to_owned(), "kept".to_owned()),
        ("cert-manager.io/certificate-name".to_owned(), "former".to_owned()),
    ]));
    let staged = changed(&secret, &secret::beside(&new));
    let read = |secret: &Secret, keys| Pair::read(data(secret), keys, NAME, Timestamp::now());
    assert_eq!(read(&staged, CURRENT), read(&secret, CURRENT));
    let next = read(&staged, NEXT).unwrap();
    let annotations = staged.metadata.annotations.as_ref().unwrap();
    assert!(!annotations.contains_key(secret::ROTATE_ANNOTATION));

    let promoted = changed(&staged, &secret::promoted(data(&staged), NAME));
    assert_eq!(read(&promoted, CURRENT), Ok(next));
    assert_eq!(data(&promoted).len(), 3);
    let annotations = promoted.metadata.annotations.unwrap();
    assert_eq!(annotations["user"], "kept");
    assert_eq!(annotations["cert-manager.io/alt-names"], NAME);
    assert!(!annotations.contains_key("cert-manager.io/certificate-name"));
}

#[test]
fn a_lost_secret_is_recreated_without_a_pair_to_serve() {
    let secret = secret::created(&secret::beside(&issued())).unwrap();
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    let read = |keys| Pair::read(data(&secret), keys, NAME, Timestamp::now());
    assert_eq!(read(CURRENT), Err(Flaw::Missing("ca.crt")));
    assert!(read(NEXT).is_ok());
}

#[test]
fn bundles_are_sets() {
    let (one, other) = (issued().ca, issued().ca);
    let both = Bundle::from_pem(format!("{one}{other}{one}").as_bytes());
    assert_eq!(both.len(), 2);
    assert_eq!(Bundle::from_pem(both.to_pem().as_bytes()), both);
    assert!(both.contains(&Bundle::from_pem(one.as_bytes())));
    assert!(Bundle::from_pem(b"garbage").is_empty());
}
