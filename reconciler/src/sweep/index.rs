//! Which records exist, and what belongs to them.

use std::collections::{HashMap, HashSet};

use maroonedpods_common::api::MaroonedNode;
use maroonedpods_common::{PodUid, names};

use crate::objects::{identity, record};
use crate::read::{Listed, Unreadable};

/// The records that exist, by pod UID, and what of an attempt is theirs.
pub(super) struct RecordIndex {
    records: HashMap<PodUid, Owner>,
    /// Ids of the tokens that their attempts may have filed requests with, and whether a guest may still join with it.
    /// Looked up for each request and each token, of which there may be far more than records.
    tokens: HashMap<String, bool>,
    /// Pod UIDs of records that exist and cannot be read: whatever may belong to one counts as its own.
    unreadable: HashSet<PodUid>,
    /// There is an unreadable record whose name cannot be read either.
    unnamed: bool,
}

/// What the sweep needs of a record.
struct Owner {
    attempt: u32,
    /// The kubelet has joined: credentials that turn up now are a stalled leader's, and must go.
    joined: bool,
}

impl RecordIndex {
    pub(super) fn of(listed: &Listed<MaroonedNode>) -> Self {
        let uid_of = |unreadable: &Unreadable| {
            let identity = unreadable.identity.as_ref()?;
            names::pod_uid_of(&identity.name)
        };
        let entry = |(_, r): &(_, MaroonedNode)| {
            let owner = Owner {
                attempt: record::attempt(r),
                joined: r.status.as_ref().is_some_and(record::has_joined),
            };
            (r.spec.pod_ref.uid.clone(), owner)
        };
        let mut tokens = HashMap::new();
        for (id, valid) in listed.items.iter().flat_map(|(_, r)| minted(r)) {
            // Ids are short: two records may share one.
            *tokens.entry(id).or_default() |= valid;
        }
        Self {
            tokens,
            records: listed.items.iter().map(entry).collect(),
            unreadable: listed.unreadable.iter().filter_map(uid_of).collect(),
            unnamed: listed.unreadable.iter().any(|u| uid_of(u).is_none()),
        }
    }

    /// Whether this may belong to a record that cannot be read.
    fn is_in_doubt(&self, name: &str) -> bool {
        self.unnamed || names::pod_uid_of(name).is_some_and(|uid| self.unreadable.contains(&uid))
    }

    /// Whether any token may belong to a record that cannot be read: its name derives from the record's UID, which only
    /// a readable record tells.
    fn are_tokens_in_doubt(&self) -> bool {
        self.unnamed || !self.unreadable.is_empty()
    }

    fn owner(&self, name: &str) -> Option<(&PodUid, &Owner)> {
        self.records.get_key_value(&names::pod_uid_of(name)?)
    }

    /// A VMI belongs to the attempt that its name says.
    pub(super) fn owns_vmi(&self, name: &str) -> bool {
        let its_own = |(uid, owner): (&PodUid, &Owner)| name == names::vmi_name(uid, owner.attempt);
        self.is_in_doubt(name) || self.owner(name).is_some_and(its_own)
    }

    pub(super) fn owns_seed(&self, name: &str) -> bool {
        let its_own = |(uid, owner): (&PodUid, &Owner)| {
            !owner.joined && name == names::join_secret_name(uid, owner.attempt)
        };
        self.is_in_doubt(name) || self.owner(name).is_some_and(its_own)
    }

    pub(super) fn owns_node(&self, name: &str) -> bool {
        self.is_in_doubt(name) || self.owner(name).is_some()
    }

    pub(super) fn owns_token(&self, id: &str) -> bool {
        self.are_tokens_in_doubt() || self.tokens.get(id).is_some_and(|valid| *valid)
    }

    /// Whether the token is that of a record's attempt, or of one not long before it, joined and failed ones included.
    pub(super) fn knows_token(&self, id: &str) -> bool {
        self.are_tokens_in_doubt() || self.tokens.contains_key(id)
    }
}

/// Ids of the tokens of a record's attempts, and whether it is the one that a guest may join with.
fn minted(record: &MaroonedNode) -> impl Iterator<Item = (String, bool)> {
    let attempt = record::attempt(record);
    let joined = record.status.as_ref().is_some_and(record::has_joined);
    let current = identity::token_id(record, attempt);
    identity::recent_token_ids(record, attempt).map(move |id| {
        let valid = !joined && id == current;
        (id, valid)
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use maroonedpods_common::api::{NodeCondition, NodeReason};

    use super::*;
    use crate::objects::record::tests::{RECORD_UID, record};
    use crate::read::Identity;

    /// A record in its 20th attempt, and one that has joined in its second.
    fn index() -> RecordIndex {
        let mut old = record();
        old.status.get_or_insert_default().attempts = 20;
        let mut joined = record();
        joined.metadata.uid = Some("other".to_owned());
        let status = joined.status.get_or_insert_default();
        status.attempts = 2;
        record::set_condition(
            status,
            NodeCondition::Registered,
            true,
            NodeReason::KubeletJoined,
            "",
            Timestamp::UNIX_EPOCH,
        );
        RecordIndex::of(&Listed {
            items: vec![(Identity::default(), old), (Identity::default(), joined)],
            ..Listed::default()
        })
    }

    #[test]
    fn a_token_is_owned_until_the_join_and_known_for_some_attempts_more() {
        let index = index();
        for (record_uid, attempt, owned, is_known) in [
            (RECORD_UID, 20, true, true),
            (RECORD_UID, 19, false, true),
            (RECORD_UID, 10, false, true),
            (RECORD_UID, 9, false, false),
            (RECORD_UID, 21, false, false),
            ("other", 2, false, true),
            ("other", 1, false, true),
            ("third", 1, false, false),
        ] {
            let mut record = record();
            record.metadata.uid = Some(record_uid.to_owned());
            let id = identity::token_id(&record, attempt);
            assert_eq!(
                (index.owns_token(&id), index.knows_token(&id)),
                (owned, is_known),
                "{record_uid} {attempt}"
            );
        }
    }
}
