//! The few fields of a pod that the admission rule reads, borrowed from the request.
//!
//! A typed pod costs four times the processor time (parsing and allocation), and would lose unknown fields if it
//! were ever written back. JSON null counts as absent, as it does for the API server.

mod affinity;
mod claims;
mod fold;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use maroonedpods_common::admission::update::Placement;
use maroonedpods_common::admission::{self, PodView, is_daemon_set};
use maroonedpods_common::names::GATE;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use affinity::Affinity;
use claims::{AnyClaim, AnyItem};

/// How many items of a list are read: many times what a pod has, and few enough to hold.
const MAX_ITEMS: usize = 1024;

/// A string that borrows from the input unless it contains escapes. A bare `Option<Cow<str>>` never borrows.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A core/v1 Pod as far as the rule and the patch need it. A container (object or array) is `None` where the
/// patch has to create it.
#[derive(Debug, Default, serde::Deserialize)]
pub struct Pod<'a> {
    #[serde(borrow, default, deserialize_with = "object")]
    pub metadata: Option<Metadata<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    pub spec: Option<Spec<'a>>,
}

/// `metadata` of a pod.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata<'a> {
    #[serde(borrow, default, deserialize_with = "object")]
    pub labels: Option<Labels<'a>>,
    #[serde(default, deserialize_with = "object")]
    annotations: Option<Annotations>,
    #[serde(borrow, default)]
    owner_references: Option<Bounded<OwnerReference<'a>>>,
    #[serde(borrow, default)]
    uid: Option<Text<'a>>,
}

/// `metadata.labels`; the name is `names::MAROON_LABEL`.
#[derive(Debug, serde::Deserialize)]
pub struct Labels<'a> {
    #[serde(borrow, default, rename = "maroonedpods.io/maroon")]
    maroon: Option<Text<'a>>,
}

/// `metadata.annotations`; the name is `admission::MIRROR_ANNOTATION`.
#[derive(Debug, serde::Deserialize)]
struct Annotations {
    #[serde(default, rename = "kubernetes.io/config.mirror")]
    mirror: Option<IgnoredAny>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnerReference<'a> {
    #[serde(borrow, default)]
    api_version: Option<Text<'a>>,
    #[serde(borrow, default)]
    kind: Option<Text<'a>>,
}

/// `spec` of a pod.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec<'a> {
    #[serde(borrow, default)]
    node_name: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    pub node_selector: Option<NodeSelector<'a>>,
    #[serde(default, deserialize_with = "object")]
    affinity: Option<Affinity>,
    #[serde(borrow, default)]
    pub scheduling_gates: Option<Bounded<Gate<'a>>>,
    #[serde(borrow, default)]
    pub tolerations: Option<Bounded<Toleration<'a>>>,
    #[serde(borrow, default)]
    scheduler_name: Option<Text<'a>>,
    #[serde(default)]
    volumes: AnyClaim,
    #[serde(default)]
    resource_claims: AnyItem,
}

/// The first [`MAX_ITEMS`] of a list. A `{}` of three bytes would become an item of a hundred.
#[derive(Debug)]
pub struct Bounded<T>(Vec<T>);

/// `spec.nodeSelector`; the names are `names::CLASS_LABEL`, `names::IDENTITY_LABEL` and `names::HOSTNAME_LABEL`.
#[derive(Debug, serde::Deserialize)]
pub struct NodeSelector<'a> {
    #[serde(
        borrow,
        default,
        rename = "maroonedpods.node-restriction.kubernetes.io/marooned"
    )]
    class: Option<Text<'a>>,
    #[serde(
        borrow,
        default,
        rename = "maroonedpods.node-restriction.kubernetes.io/pod-uid"
    )]
    identity: Option<Text<'a>>,
    #[serde(default, rename = "kubernetes.io/hostname")]
    hostname: Option<IgnoredAny>,
}

/// An item of `spec.schedulingGates`.
#[derive(Debug, serde::Deserialize)]
pub struct Gate<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
}

/// An item of `spec.tolerations`.
#[derive(Debug, serde::Deserialize)]
pub struct Toleration<'a> {
    #[serde(borrow, default)]
    key: Option<Text<'a>>,
    #[serde(borrow, default)]
    operator: Option<Text<'a>>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
    #[serde(borrow, default)]
    effect: Option<Text<'a>>,
    #[serde(default, rename = "tolerationSeconds")]
    seconds: Option<i64>,
}

impl Text<'_> {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text of an optional field, empty where absent.
pub fn text<'a>(field: Option<&'a Text<'_>>) -> &'a str {
    field.map(Text::as_str).unwrap_or_default()
}

impl Pod<'_> {
    /// The pod as the rule sees it.
    pub fn view(&self) -> PodView<'_> {
        let mut view = PodView::default();
        if let Some(metadata) = &self.metadata {
            let label = metadata.labels.as_ref().and_then(|labels| labels.maroon.as_ref());
            view.opt_in = label.map(Text::as_str);
            view.mirror = metadata
                .annotations
                .as_ref()
                .is_some_and(|all| all.mirror.is_some());
            view.daemon_set_owned = metadata
                .owner_references
                .iter()
                .flat_map(|owners| &owners.0)
                .any(|owner| is_daemon_set(text(owner.api_version.as_ref()), text(owner.kind.as_ref())));
        }
        if let Some(spec) = &self.spec {
            let class = spec
                .node_selector
                .as_ref()
                .and_then(|selector| selector.class.as_ref());
            view.node_name = text(spec.node_name.as_ref());
            view.names_nodes = spec.names_nodes();
            view.gated = spec
                .scheduling_gates
                .iter()
                .flat_map(|gates| &gates.0)
                .any(|gate| text(gate.name.as_ref()) == GATE);
            view.scheduler_name = text(spec.scheduler_name.as_ref());
            view.has_claims = spec.volumes.0 || spec.resource_claims.0;
            view.class_selector = class.map(Text::as_str);
            view.tolerations = spec.tolerations();
        }
        view
    }

    /// The pod as the rule for updates sees it.
    pub fn placement(&self) -> Placement<'_> {
        let metadata = self.metadata.as_ref();
        let spec = self.spec.as_ref();
        let selector = spec.and_then(|spec| spec.node_selector.as_ref());
        Placement {
            uid: text(metadata.and_then(|metadata| metadata.uid.as_ref())),
            class_selector: selector.and_then(|keys| keys.class.as_ref()).map(Text::as_str),
            identity_selector: selector.and_then(|keys| keys.identity.as_ref()).map(Text::as_str),
            scheduler_name: text(spec.and_then(|spec| spec.scheduler_name.as_ref())),
            tolerations: spec.map(Spec::tolerations).unwrap_or_default(),
        }
    }
}

impl Spec<'_> {
    fn names_nodes(&self) -> bool {
        let selector = self.node_selector.as_ref();
        selector.is_some_and(|selector| selector.hostname.is_some())
            || self.affinity.as_ref().is_some_and(Affinity::names_nodes)
    }

    fn tolerations(&self) -> Vec<admission::Toleration<'_>> {
        let all = self.tolerations.iter().flat_map(|tolerations| &tolerations.0);
        all.map(Toleration::view).collect()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for First<T> {
            type Value = Vec<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX_ITEMS {
                    match list.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(items),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(items)
            }
        }

        deserializer.deserialize_seq(First(PhantomData)).map(Self)
    }
}

impl Toleration<'_> {
    fn view(&self) -> admission::Toleration<'_> {
        admission::Toleration {
            key: text(self.key.as_ref()),
            operator: text(self.operator.as_ref()),
            value: text(self.value.as_ref()),
            effect: text(self.effect.as_ref()),
            toleration_seconds: self.seconds,
        }
    }
}

/// Reads a JSON object or null, and refuses an array: serde's derive would read a struct from one by position,
/// and the patch would then point into an array by name.
pub fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct ObjectOrNull<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectOrNull<T> {
        type Value = Option<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object or null")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(ObjectOrNull(PhantomData))
}

#[cfg(test)]
mod tests;
