//! Whether a pod's affinity names nodes, read without holding any of it: however many terms there are, two bits are
//! kept.

use maroonedpods_common::admission::{Term, Terms};
use serde::de::Deserializer;

use super::fold::fold;
use super::{Text, object, text};

/// `spec.affinity`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Affinity {
    #[serde(default, deserialize_with = "object")]
    node_affinity: Option<NodeAffinity>,
}

#[derive(Debug, serde::Deserialize)]
struct NodeAffinity {
    #[serde(
        default,
        deserialize_with = "object",
        rename = "requiredDuringSchedulingIgnoredDuringExecution"
    )]
    required: Option<Required>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Required {
    #[serde(default, deserialize_with = "terms")]
    node_selector_terms: Terms,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct OneTerm {
    #[serde(default, deserialize_with = "expressions")]
    match_expressions: Term,
    #[serde(default, deserialize_with = "fields")]
    match_fields: Term,
}

#[derive(serde::Deserialize)]
struct Requirement<'a> {
    #[serde(borrow, default)]
    key: Option<Text<'a>>,
    #[serde(borrow, default)]
    operator: Option<Text<'a>>,
}

impl Affinity {
    pub(super) fn names_nodes(&self) -> bool {
        let required = self
            .node_affinity
            .as_ref()
            .and_then(|node| node.required.as_ref());
        required.is_some_and(|required| required.node_selector_terms.name_nodes())
    }
}

fn terms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Terms, D::Error> {
    let add = |all: &mut Terms, term: OneTerm| all.add(term.match_expressions.and(term.match_fields));
    fold(deserializer, add)
}

fn expressions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Term, D::Error> {
    let add = |term: &mut Term, asked: Requirement<'de>| {
        term.add_expression(text(asked.key.as_ref()), text(asked.operator.as_ref()));
    };
    fold(deserializer, add)
}

fn fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Term, D::Error> {
    let add = |term: &mut Term, asked: Requirement<'de>| {
        term.add_field(text(asked.key.as_ref()), text(asked.operator.as_ref()));
    };
    fold(deserializer, add)
}
