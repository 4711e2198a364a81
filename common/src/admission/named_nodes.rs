//! Whether a pod asks for nodes by name, as the pods of an agent do that runs once on each node.

use k8s_openapi::api::core::v1::PodSpec;

use crate::names::HOSTNAME_LABEL;

/// The one field of a node that an affinity can ask for.
const NAME_FIELD: &str = "metadata.name";
const IN: &str = "In";

/// The terms of a required node affinity, added one by one. A node may match any of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    named: bool,
    open: bool,
}

/// One term, added requirement by requirement. A node must meet all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Term {
    asks: bool,
    names: bool,
}

impl Terms {
    /// Adds a term. One that asks for nothing matches no node.
    pub fn add(&mut self, term: Term) {
        self.named |= term.names;
        self.open |= term.asks && !term.names;
    }

    /// Whether the terms name the nodes that they allow: each of them does.
    #[must_use]
    pub fn name_nodes(&self) -> bool {
        self.named && !self.open
    }
}

impl Term {
    /// Adds one of the term's `matchExpressions`.
    pub fn add_expression(&mut self, key: &str, operator: &str) {
        self.asks = true;
        self.names |= (key, operator) == (HOSTNAME_LABEL, IN);
    }

    /// Adds one of the term's `matchFields`.
    pub fn add_field(&mut self, key: &str, operator: &str) {
        self.asks = true;
        self.names |= (key, operator) == (NAME_FIELD, IN);
    }

    /// A term that asks for what either asks for.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            asks: self.asks || other.asks,
            names: self.names || other.names,
        }
    }
}

/// Whether node selector or required node affinity of a typed pod name nodes.
pub(super) fn spec_names_nodes(spec: &PodSpec) -> bool {
    let by_hostname = spec
        .node_selector
        .as_ref()
        .is_some_and(|selector| selector.contains_key(HOSTNAME_LABEL));
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let mut terms = Terms::default();
    for typed in required.iter().flat_map(|required| &required.node_selector_terms) {
        let mut term = Term::default();
        for asked in typed.match_expressions.iter().flatten() {
            term.add_expression(&asked.key, &asked.operator);
        }
        for asked in typed.match_fields.iter().flatten() {
            term.add_field(&asked.key, &asked.operator);
        }
        terms.add(term);
    }
    by_hostname || terms.name_nodes()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Asked = &'static [(&'static str, &'static str)];

    fn name_nodes(terms: &[(Asked, Asked)]) -> bool {
        let mut added = Terms::default();
        for (expressions, fields) in terms {
            let (mut of_labels, mut of_fields) = (Term::default(), Term::default());
            expressions
                .iter()
                .for_each(|(key, operator)| of_labels.add_expression(key, operator));
            fields
                .iter()
                .for_each(|(key, operator)| of_fields.add_field(key, operator));
            added.add(of_labels.and(of_fields));
        }
        added.name_nodes()
    }

    #[test]
    fn each_term_must_name_nodes() {
        const NAME: Asked = &[("metadata.name", "In")];
        const HOST: Asked = &[("disk", "Exists"), ("kubernetes.io/hostname", "In")];
        const ZONE: Asked = &[("topology.kubernetes.io/zone", "In")];
        assert!(name_nodes(&[(&[], NAME)]));
        assert!(name_nodes(&[(HOST, &[])]));
        assert!(name_nodes(&[(ZONE, NAME), (HOST, &[]), (&[], &[])]));
        assert!(!name_nodes(&[]));
        assert!(!name_nodes(&[(&[], &[])]));
        assert!(!name_nodes(&[(HOST, &[]), (ZONE, &[])]));
    }

    #[test]
    fn other_operators_and_places_name_no_nodes() {
        const OTHERS: [Asked; 3] = [
            &[("kubernetes.io/hostname", "NotIn")],
            &[("kubernetes.io/hostname", "Exists")],
            // A label may have the field's name.
            &[("metadata.name", "In")],
        ];
        for asked in OTHERS {
            assert!(!name_nodes(&[(asked, &[])]), "{asked:?}");
        }
        assert!(!name_nodes(&[(&[], &[("metadata.name", "NotIn")])]));
    }
}
