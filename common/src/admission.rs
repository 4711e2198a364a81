//! The admission rule: which pods are marooned, and what such a pod carries from its creation on.
//!
//! The webhook applies it to raw JSON, the reconciler to typed pods; both see a [`PodView`], so that they cannot
//! disagree. Everything the rule adds is a constant: a pod has no UID yet when it is admitted.

mod named_nodes;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration as ApiToleration};
use serde::Serialize;

use crate::names::{
    CLASS_LABEL, CLASS_LABEL_VALUE, CLASS_TAINT, CLASS_TAINT_VALUE, GATE, HOSTNAME_LABEL, MAROON_FALSE,
    MAROON_LABEL, MAROON_TRUE, TAINT_EFFECTS, UNREACHABLE_TOLERATION_SECONDS,
};
use crate::text;

pub use named_nodes::{Term, Terms};

/// Annotation by which the API server marks the mirror of a kubelet's static pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The scheduler of pods that name none. The API server has written it into them before webhooks see them, so that nothing
/// distinguishes it from the author's own.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Taints that the node lifecycle controller puts on a node that it has lost.
const LOST_NODE_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// What the rule looks at in a pod, borrowed from wherever the pod is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "five facts that hold or not independently of one another, each asked for alone"
)]
pub struct PodView<'a> {
    /// Value of the pod's own label [`MAROON_LABEL`].
    pub opt_in: Option<&'a str>,
    /// One of the owner references names a `DaemonSet` of the group `apps`.
    pub daemon_set_owned: bool,
    /// The pod carries [`MIRROR_ANNOTATION`].
    pub mirror: bool,
    /// `spec.nodeName`, empty where the scheduler is to choose.
    pub node_name: &'a str,
    /// Node selector or required node affinity ask for nodes by name ([`Terms::name_nodes`]): none of these is a node of
    /// the pod's own.
    pub names_nodes: bool,
    /// [`GATE`] is among the scheduling gates.
    pub gated: bool,
    /// `spec.schedulerName`, empty where the pod names none.
    pub scheduler_name: &'a str,
    /// A volume claim or a resource claim: what binds such a pod must choose or reserve what the claim gets.
    pub has_claims: bool,
    /// Value of [`CLASS_LABEL`] in the node selector.
    pub class_selector: Option<&'a str>,
    /// All tolerations of the pod.
    pub tolerations: Vec<Toleration<'a>>,
}

/// A toleration of core/v1. An empty string stands for an absent field, as it does in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Toleration<'a> {
    /// Taint key; empty matches all keys, and then the operator must be `Exists`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub key: &'a str,
    /// `Exists` or `Equal`; empty means `Equal`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub operator: &'a str,
    /// Taint value that `Equal` compares with.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub value: &'a str,
    /// Taint effect; empty matches all effects.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub effect: &'a str,
    /// For how long a `NoExecute` taint is tolerated, in seconds; for ever if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// Whether a pod may opt out by the label value [`MAROON_FALSE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptOut {
    /// The pod opted in by itself, or its namespace says `"true"`.
    Honoured,
    /// The namespace says `"enforced"`: a pod that opts out is refused.
    Overruled,
}

/// What the webhook does with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Admit the pod as it is.
    LeaveAlone(Reason),
    /// Refuse the pod; the message says what to do.
    Deny(String),
    /// Admit the pod with these additions, never empty.
    Add(Vec<Addition>),
}

/// Why a pod is admitted as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The pod's label says `"false"`.
    OptedOut,
    /// A `DaemonSet` owns the pod: it belongs to the node that it is for. A gated one would cause a new node, for which
    /// the `DaemonSet` controller would create a new pod, without end.
    DaemonSet,
    /// The pod is for a node that it names, and its namespace alone opted it in. Whatever made it may make one for each
    /// node, and would make one for the pod's own.
    NamesNodes,
    /// The pod mirrors a static pod that a kubelet runs already.
    MirrorPod,
    /// Nothing is missing: the webhook was called again, or the author wrote it all.
    Complete,
}

/// One thing that a marooned pod carries and this pod lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// [`MAROON_LABEL`]`: "true"`, on a pod without the label. A value of the user's is never changed: whatever made the
    /// pod may find it by that label.
    Label,
    /// The scheduling gate [`GATE`].
    Gate,
    /// [`CLASS_LABEL`] in the node selector.
    ClassSelector,
    /// [`crate::names::SCHEDULER_NAME`] in place of [`DEFAULT_SCHEDULER`]: no scheduler looks at the pod, and the
    /// reconciler binds it.
    SchedulerName,
    /// A toleration, appended to the list.
    Toleration(Toleration<'static>),
}

/// Decides what the webhook does with a pod that is being created in its scope.
///
/// The caller guarantees that the pod is in scope: the selectors of the webhook configuration see namespace labels,
/// this function does not. Applying the additions and deciding again yields [`Reason::Complete`].
#[must_use]
pub fn decide(pod: &PodView<'_>, opt_out: OptOut) -> Outcome {
    if pod.mirror {
        return Outcome::LeaveAlone(Reason::MirrorPod);
    }
    if pod.daemon_set_owned {
        return Outcome::LeaveAlone(Reason::DaemonSet);
    }
    match (pod.opt_in, opt_out) {
        (Some(MAROON_FALSE), OptOut::Honoured) => return Outcome::LeaveAlone(Reason::OptedOut),
        (Some(MAROON_FALSE), OptOut::Overruled) => return Outcome::Deny(no_opt_out()),
        (None, OptOut::Honoured) if pod.names_nodes => return Outcome::LeaveAlone(Reason::NamesNodes),
        (None | Some(MAROON_TRUE), _) => {}
        (Some(other), _) => return Outcome::Deny(unknown_label_value(other)),
    }
    if pod.names_nodes {
        return Outcome::Deny(named_nodes(opt_out));
    }
    if !pod.node_name.is_empty() {
        return Outcome::Deny(preset_node(pod.node_name));
    }
    if let Some(value) = pod.class_selector.filter(|value| *value != CLASS_LABEL_VALUE) {
        return Outcome::Deny(preset_selector(value));
    }
    let additions = missing(pod);
    if additions.is_empty() {
        Outcome::LeaveAlone(Reason::Complete)
    } else {
        Outcome::Add(additions)
    }
}

/// What the webhook adds to a marooned pod and this pod lacks, in the order in which it is added.
#[must_use]
pub fn missing(pod: &PodView<'_>) -> Vec<Addition> {
    let mut additions = Vec::new();
    if pod.opt_in != Some(MAROON_TRUE) {
        additions.push(Addition::Label);
    }
    if !pod.gated {
        additions.push(Addition::Gate);
    }
    if pod.class_selector != Some(CLASS_LABEL_VALUE) {
        additions.push(Addition::ClassSelector);
    }
    if is_default_scheduler(pod.scheduler_name) && !pod.has_claims {
        additions.push(Addition::SchedulerName);
    }
    // A wider toleration of the user's does not count: the exact one is simple to find, and stays ours when the user
    // changes theirs.
    let class = TAINT_EFFECTS
        .map(class_toleration)
        .into_iter()
        .filter(|ours| !pod.tolerations.iter().any(|theirs| theirs.explicit() == *ours));
    // DefaultTolerationSeconds runs before webhooks. Where it is on, its 300 s are there already and count as set:
    // nothing distinguishes them from the user's own.
    let lost_node = LOST_NODE_TAINTS
        .into_iter()
        .filter(|taint| {
            !pod.tolerations
                .iter()
                .any(|theirs| theirs.covers_no_execute(taint))
        })
        .map(lost_node_toleration);
    additions.extend(class.chain(lost_node).map(Addition::Toleration));
    additions
}

impl Toleration<'_> {
    /// This toleration with its default operator spelt out.
    fn explicit(self) -> Self {
        if self.operator.is_empty() {
            Self {
                operator: "Equal",
                ..self
            }
        } else {
            self
        }
    }

    /// Whether this tolerates the taint `key` (without a value) of effect `NoExecute`, by the rule of
    /// `Toleration.ToleratesTaint` in k8s.io/api.
    fn covers_no_execute(&self, key: &str) -> bool {
        let effect = self.effect.is_empty() || self.effect == "NoExecute";
        let key = self.key.is_empty() || self.key == key;
        let value = match self.operator {
            "Exists" => true,
            "" | "Equal" => self.value.is_empty(),
            _ => false,
        };
        effect && key && value
    }
}

fn class_toleration(effect: &'static str) -> Toleration<'static> {
    Toleration {
        key: CLASS_TAINT,
        operator: "Equal",
        value: CLASS_TAINT_VALUE,
        effect,
        toleration_seconds: None,
    }
}

fn lost_node_toleration(taint: &'static str) -> Toleration<'static> {
    Toleration {
        key: taint,
        operator: "Exists",
        value: "",
        effect: "NoExecute",
        toleration_seconds: Some(UNREACHABLE_TOLERATION_SECONDS),
    }
}

fn unknown_label_value(value: &str) -> String {
    let value = text::value(value);
    format!(
        "the label {MAROON_LABEL} has the value {value:?}: set it to \"{MAROON_TRUE}\" to give the pod a node of \
         its own, to \"{MAROON_FALSE}\" to opt out, or remove it"
    )
}

fn no_opt_out() -> String {
    format!(
        "no pod of this namespace may opt out (the namespace's label {MAROON_LABEL} is \"enforced\"): remove the label \
         {MAROON_LABEL} from the pod, and from its controller's selector and template"
    )
}

fn named_nodes(opt_out: OptOut) -> String {
    let way_out = match opt_out {
        OptOut::Honoured => format!("opt out with the label {MAROON_LABEL}: \"{MAROON_FALSE}\""),
        OptOut::Overruled => "create the pod in a namespace that is not \"enforced\"".to_owned(),
    };
    format!(
        "node selector or affinity ask for a node by its name, but a marooned pod runs on a node that is made for it: \
         remove {HOSTNAME_LABEL} and metadata.name from them, or {way_out}"
    )
}

fn preset_node(node: &str) -> String {
    let node = text::value(node);
    format!(
        "spec.nodeName is set to {node:?}, but a marooned pod runs on a node that is made for it: remove \
         spec.nodeName, or, where the namespace allows it, opt out with the label {MAROON_LABEL}: \
         \"{MAROON_FALSE}\""
    )
}

fn preset_selector(value: &str) -> String {
    let value = text::value(value);
    format!(
        "spec.nodeSelector has {CLASS_LABEL}: {value:?}, a key that belongs to MaroonedPods: remove it from the pod"
    )
}

impl<'a> From<&'a Pod> for PodView<'a> {
    fn from(pod: &'a Pod) -> Self {
        let metadata = &pod.metadata;
        let label = metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(MAROON_LABEL));
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        let mut view = Self {
            opt_in: label.map(String::as_str),
            daemon_set_owned: owners
                .iter()
                .any(|owner| is_daemon_set(&owner.api_version, &owner.kind)),
            mirror: metadata
                .annotations
                .as_ref()
                .is_some_and(|all| all.contains_key(MIRROR_ANNOTATION)),
            ..Self::default()
        };
        if let Some(spec) = &pod.spec {
            let selector = spec
                .node_selector
                .as_ref()
                .and_then(|selector| selector.get(CLASS_LABEL));
            view.node_name = spec.node_name.as_deref().unwrap_or_default();
            view.names_nodes = named_nodes::spec_names_nodes(spec);
            view.gated = spec
                .scheduling_gates
                .iter()
                .flatten()
                .any(|gate| gate.name == GATE);
            view.scheduler_name = spec.scheduler_name.as_deref().unwrap_or_default();
            view.has_claims = has_claims(spec);
            view.class_selector = selector.map(String::as_str);
            view.tolerations = spec.tolerations.iter().flatten().map(Toleration::from).collect();
        }
        view
    }
}

impl<'a> From<&'a ApiToleration> for Toleration<'a> {
    fn from(toleration: &'a ApiToleration) -> Self {
        Self {
            key: toleration.key.as_deref().unwrap_or_default(),
            operator: toleration.operator.as_deref().unwrap_or_default(),
            value: toleration.value.as_deref().unwrap_or_default(),
            effect: toleration.effect.as_deref().unwrap_or_default(),
            toleration_seconds: toleration.toleration_seconds,
        }
    }
}

/// Whether a scheduler of this name is what every pod gets that asks for none.
fn is_default_scheduler(name: &str) -> bool {
    name.is_empty() || name == DEFAULT_SCHEDULER
}

fn has_claims(spec: &PodSpec) -> bool {
    let mut volumes = spec.volumes.iter().flatten();
    volumes.any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
        || spec
            .resource_claims
            .as_ref()
            .is_some_and(|claims| !claims.is_empty())
}

/// Whether an owner reference with this `apiVersion` and `kind` names a `DaemonSet`.
#[must_use]
pub fn is_daemon_set(api_version: &str, kind: &str) -> bool {
    kind == "DaemonSet" && api_version.starts_with("apps/")
}

pub mod update;

#[cfg(test)]
mod tests;
