//! The bootstrap token of one attempt (Kubernetes: "Authenticating with Bootstrap Tokens").

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::join_info::Token;
use maroonedpods_common::names;

use crate::objects::record::owner_reference;

const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const ID_KEY: &str = "token-id";
const SECRET_KEY: &str = "token-secret";

/// The Secret that makes `id` and `secret` a bootstrap token of our group until `expires`.
#[must_use]
pub fn secret(record: &MaroonedNode, id: &str, secret: &str, expires: Timestamp) -> Secret {
    // RFC 3339 in whole seconds: the token cleaner reads nothing finer.
    let expiration = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let data = [
        (ID_KEY, id),
        (SECRET_KEY, secret),
        ("expiration", &expiration),
        ("usage-bootstrap-authentication", "true"),
        ("auth-extra-groups", names::BOOTSTRAP_GROUP),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(names::token_secret_name(id)),
            namespace: Some(names::TOKEN_NAMESPACE.to_owned()),
            labels: Some(
                [(
                    names::POD_UID_LABEL.to_owned(),
                    record.spec.pod_ref.uid.to_string(),
                )]
                .into(),
            ),
            owner_references: Some(vec![owner_reference(record)]),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        string_data: Some(
            data.into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// Reads the token `id` out of a stored Secret, if the Secret is one of `record`'s and a bootstrap token of this id.
#[must_use]
pub fn read(stored: &Secret, record: &MaroonedNode, id: &str) -> Option<Token> {
    let owner = stored.metadata.owner_references.iter().flatten().next()?;
    let data: &BTreeMap<_, _> = stored.data.as_ref()?;
    let text = |key: &str| data.get(key).and_then(|v| std::str::from_utf8(&v.0).ok());
    let is_ours = Some(&owner.uid) == record.metadata.uid.as_ref()
        && stored.type_.as_deref() == Some(SECRET_TYPE)
        && text(ID_KEY) == Some(id);
    is_ours.then(|| text(SECRET_KEY).map(|secret| Token::new(id, secret)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::tests::record;
    use k8s_openapi::ByteString;

    /// As the API server stores it.
    fn stored(record: &MaroonedNode) -> Secret {
        let mut secret = secret(record, "abcdef", "0123456789abcdef", Timestamp::MAX);
        let data = secret.string_data.take().unwrap();
        secret.data = Some(
            data.into_iter()
                .map(|(key, value)| (key, ByteString(value.into_bytes())))
                .collect(),
        );
        secret
    }

    #[test]
    fn only_the_records_own_token_is_read() {
        let record = record();
        let mut other = record.clone();
        other.metadata.uid = Some("another".to_owned());
        let ours = stored(&record);
        assert!(read(&ours, &record, "abcdef").is_some());
        assert!(read(&ours, &record, "fedcba").is_none());
        assert!(read(&stored(&other), &record, "abcdef").is_none());
        let opaque = Secret {
            type_: Some("Opaque".to_owned()),
            ..ours
        };
        assert!(read(&opaque, &record, "abcdef").is_none());
    }
}
