//! How Kubernetes reads tolerations.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether a toleration covers a taint (`ToleratesTaint` of Kubernetes' component helpers); `None` if that depends on
/// an operator of a later Kubernetes that this program does not know.
pub fn covers(toleration: &Toleration, taint: &Taint) -> Option<bool> {
    let any_or = |wanted: &Option<String>, found: &str| {
        wanted
            .as_deref()
            .is_none_or(|wanted| wanted.is_empty() || wanted == found)
    };
    if !any_or(&toleration.effect, &taint.effect) || !any_or(&toleration.key, &taint.key) {
        return Some(false);
    }
    match toleration.operator.as_deref() {
        Some("Exists") => Some(true),
        None | Some("" | "Equal") => Some(
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        ),
        Some(_) => None,
    }
}
