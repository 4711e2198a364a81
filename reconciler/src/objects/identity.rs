//! What of a VM's identity follows from its record: the token's id and the firmware's UUID.
//!
//! Both are functions of the record's UID and the attempt, so any leader, at any time, computes the same.

use maroonedpods_common::api::MaroonedNode;
use sha2::{Digest, Sha256};
use uuid::Uuid;

const TOKEN_ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Attempts before the one under way whose requests are still looked at; the sweep deletes those of older ones.
const RECENT_ATTEMPTS: u32 = 10;

/// Length of a bootstrap token's secret half.
pub const TOKEN_SECRET_LENGTH: usize = 16;

/// Id of the bootstrap token of one attempt: `[a-z0-9]{6}`, as Kubernetes wants it. Not a secret.
#[must_use]
pub fn token_id(record: &MaroonedNode, attempt: u32) -> String {
    let record_uid = uid(record);
    let digest = Sha256::digest(format!("maroonedpods.io/token/{record_uid}/{attempt}"));
    token_text(&digest[..6])
}

/// Ids of the tokens whose requests may still be there: this attempt's and those of a few before it. Attempts go on as
/// long as the pod waits, a day brings a hundred.
pub fn recent_token_ids(record: &MaroonedNode, attempt: u32) -> impl Iterator<Item = String> {
    let first = attempt.saturating_sub(RECENT_ATTEMPTS).max(1);
    (first..=attempt).map(move |attempt| token_id(record, attempt))
}

/// Maps random or hashed bytes to a token's alphabet.
///
/// 256 is not a multiple of 36, so the first four letters come up 14 % more often: 16 letters still carry more
/// than 82 of 83 possible bits.
#[must_use]
pub fn token_text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| char::from(TOKEN_ALPHABET[usize::from(*byte) % TOKEN_ALPHABET.len()]))
        .collect()
}

/// The VM's firmware UUID, which its kubelet reports as `systemUUID`: version 5, of the record's UID and the
/// attempt. It ties a Node to its VMI independently of any name.
#[must_use]
pub fn firmware_uuid(record: &MaroonedNode, attempt: u32) -> Uuid {
    let record_uid = uid(record);
    Uuid::new_v5(
        &Uuid::NAMESPACE_OID,
        format!("maroonedpods.io/vm/{record_uid}/{attempt}").as_bytes(),
    )
}

fn uid(record: &MaroonedNode) -> &str {
    record.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::tests::record;

    #[test]
    fn identities_differ_by_record_and_attempt_and_repeat() {
        let of = |uid: &str| {
            let mut record = record();
            record.metadata.uid = Some(uid.to_owned());
            record
        };
        let all = [(of("a"), 1), (of("a"), 2), (of("b"), 1)];
        for (i, (one, attempt)) in all.iter().enumerate() {
            assert_eq!(token_id(one, *attempt), token_id(one, *attempt));
            for (other, other_attempt) in &all[i + 1..] {
                assert_ne!(token_id(one, *attempt), token_id(other, *other_attempt));
                assert_ne!(firmware_uuid(one, *attempt), firmware_uuid(other, *other_attempt));
            }
        }
    }

    #[test]
    fn token_text_keeps_to_the_alphabet() {
        let every_byte: Vec<u8> = (0..=255).collect();
        let text = token_text(&every_byte);
        assert_eq!(text.len(), 256);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    }
}
