//! Who will create the next pod like this one.

use k8s_openapi::api::core::v1::Pod;

use super::bounded;

/// Who creates a replacement for a pod that failed, as far as its metadata shows.
///
/// Tenants write all of that metadata, so it counts only within the namespace: a pod that names another tenant's
/// controller as its owner is not one of that controller's pods. And pods without a controller have only their names
/// in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Maker {
    namespace: String,
    by: Identity,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Identity {
    /// A controller with this UID.
    Controller(String),
    /// An author who lets the API server generate names with this prefix.
    Prefix(String),
    /// An author who chose this name.
    Name(String),
}

impl Maker {
    /// The maker of this pod; `name` and `namespace` are the pod's.
    #[must_use]
    pub fn of(pod: &Pod, namespace: &str, name: &str) -> Self {
        let meta = &pod.metadata;
        let mut owners = meta.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true));
        let prefix = meta.generate_name.as_ref().filter(|prefix| !prefix.is_empty());
        Self {
            namespace: namespace.to_owned(),
            by: match (controller, prefix) {
                (Some(controller), _) => Identity::Controller(bounded(&controller.uid)),
                (None, Some(prefix)) => Identity::Prefix(bounded(prefix)),
                (None, None) => Identity::Name(name.to_owned()),
            },
        }
    }

    /// UID of the pod's controller, as the pod has it.
    #[must_use]
    pub fn controller(&self) -> Option<&str> {
        match &self.by {
            Identity::Controller(uid) => Some(uid),
            Identity::Prefix(_) | Identity::Name(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::view_of;
    use crate::view::PodView;
    use serde_json::{Value, json};

    fn maker(namespace: &str, name: &str, more: &Value) -> Maker {
        let mut pod = json!({"metadata": {"namespace": namespace, "name": name, "uid": "u"}, "spec": {}});
        json_patch::merge(&mut pod, &json!({"metadata": more}));
        view_of::<PodView>(&pod).unwrap().maker
    }

    fn owned(uid: &str, controls: bool) -> Value {
        json!({"generateName": "web-", "ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": controls}]})
    }

    #[test]
    fn a_controllers_pods_are_its_own_within_its_namespace() {
        let web = maker("here", "web-1", &owned("r", true));
        assert_eq!(maker("here", "web-2", &owned("r", true)), web);
        assert_ne!(maker("here", "web-1", &owned("s", true)), web);
        assert_ne!(
            maker("there", "web-1", &owned("r", true)),
            web,
            "any author can write a UID"
        );
        assert_ne!(maker("here", "web-1", &owned("r", false)), web);
    }

    #[test]
    fn pods_without_a_controller_have_only_their_names_in_common() {
        let bare = |namespace: &str, name: &str| maker(namespace, name, &json!({"generateName": ""}));
        assert_eq!(bare("here", "a"), bare("here", "a"));
        assert_ne!(bare("here", "a"), bare("here", "b"));
        assert_ne!(bare("here", "a"), bare("there", "a"));
        let generated = |name: &str, prefix: &str| maker("here", name, &json!({"generateName": prefix}));
        assert_eq!(generated("run-1", "run-"), generated("run-2", "run-"));
        assert_ne!(generated("run-1", "run-"), generated("run-1", "other-"));
    }

    #[test]
    fn names_prefixes_and_controllers_are_distinct() {
        let same =
            [owned("x", true), json!({"generateName": "x"}), json!({})].map(|more| maker("here", "x", &more));
        let [controlled, generated, named] = same;
        assert!(controlled != generated && generated != named && named != controlled);
    }
}
