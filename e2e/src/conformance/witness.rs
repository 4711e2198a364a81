//! Sees on which nodes the pods of each spec run: a spec that passes on an ordinary node says nothing about marooned pods.
//! Pods that name their node as those of `DaemonSet`s do are not marooned in the suite's namespaces, and some specs' do.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use maroonedpods_common::{PodUid, names};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::opt_in::RUN_LABEL;
use super::report::{Ended, Outcome};
use crate::api::read::node;

/// Looks until it is dropped.
pub(super) struct Witness {
    seen: Arc<Mutex<Seen>>,
    _watches: JoinSet<()>,
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    /// The runs of the suite, by the namespaces that each made: a spec's is its own.
    runs: BTreeMap<String, String>,
    /// Pods that were bound, by their UIDs: their namespaces, and whether they got nodes of their own.
    bound: BTreeMap<String, (String, bool)>,
}

/// How many pods of a spec were bound to nodes of their own, and to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pods {
    own: usize,
    others: usize,
}

impl Witness {
    /// Begins to look.
    pub(super) fn new(admin: &Client) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let mut watches = JoinSet::new();
        let of_the_suite = watcher::Config::default().labels(RUN_LABEL);
        let namespaces = Api::all(admin.clone());
        watches.spawn(watch(
            namespaces,
            of_the_suite,
            Arc::clone(&seen),
            Seen::namespace,
        ));
        let pods = Api::all(admin.clone());
        watches.spawn(watch(
            pods,
            watcher::Config::default(),
            Arc::clone(&seen),
            Seen::pod,
        ));
        Self {
            seen,
            _watches: watches,
        }
    }

    /// The pods of a run of the suite; none if nothing of the run was seen, so that it cannot be told.
    pub(super) fn pods(&self, run: &str) -> Option<Pods> {
        let seen = lock(&self.seen);
        seen.runs.values().any(|of| of == run).then(|| seen.pods(run))
    }
}

/// Notes every object, whenever it is created or changed. A watch that breaks begins again.
async fn watch<K>(api: Api<K>, config: watcher::Config, seen: Arc<Mutex<Seen>>, note: fn(&mut Seen, &K))
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut objects = watcher(api, config).default_backoff().applied_objects().boxed();
    while let Some(object) = objects.next().await {
        if let Ok(object) = object {
            note(&mut lock(&seen), &object);
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn namespace(&mut self, namespace: &Namespace) {
        if let Some(run) = namespace.labels().get(RUN_LABEL) {
            self.runs.insert(namespace.name_any(), run.clone());
        }
    }

    fn pod(&mut self, pod: &Pod) {
        let (Some(namespace), Some(uid), bound) = (pod.namespace(), pod.uid(), node(pod)) else {
            return;
        };
        if !bound.is_empty() {
            let own = names::node_name(&PodUid::from(uid.as_str())) == bound;
            self.bound.insert(uid, (namespace, own));
        }
    }

    fn pods(&self, run: &str) -> Pods {
        let of_run = |namespace: &str| self.runs.get(namespace).is_some_and(|of| of == run);
        let of_run = self.bound.values().filter(|(namespace, _)| of_run(namespace));
        of_run.fold(Pods::default(), |pods, (_, own)| Pods {
            own: pods.own + usize::from(*own),
            others: pods.others + usize::from(!own),
        })
    }
}

/// What a spec's end says of marooned pods: nothing, if none of its pods was, or if it cannot be told. Others are mentioned.
pub(super) fn judge(pods: Option<Pods>, ended: Ended) -> Ended {
    if ended.outcome != Outcome::Passed {
        return ended;
    }
    let (outcome, reason) = match pods {
        None => (Outcome::Skipped, "where its pods ran was not seen".to_owned()),
        Some(Pods { own: 0, others: 0 }) => (Outcome::Passed, "it runs no pod".to_owned()),
        Some(Pods { own: 0, .. }) => (Outcome::Skipped, "its pods name ordinary nodes".to_owned()),
        Some(Pods { others: 0, .. }) => return ended,
        Some(Pods { own, others }) => {
            let all = own + others;
            let reason = format!("{own} of its {all} pods were marooned, the others name ordinary nodes");
            (Outcome::Passed, reason)
        }
    };
    Ended {
        outcome,
        reason,
        ..ended
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_marooned_on_the_node_of_its_own_name_alone() {
        const UID: &str = "00000000-0000-4000-8000-000000000001";
        let mut seen = Seen::default();
        for (name, labels) in [
            ("e2e-1", json!({RUN_LABEL: "a"})),
            ("e2e-2", json!({RUN_LABEL: "b"})),
            ("x", json!({})),
        ] {
            let namespace = json!({"metadata": {"name": name, "labels": labels}});
            seen.namespace(&serde_json::from_value(namespace).unwrap());
        }
        let own = format!("marooned-{UID}");
        for (namespace, uid, bound) in [
            ("e2e-1", "waits", None),
            ("e2e-1", UID, Some(own.as_str())),
            ("e2e-1", "on-a-host", Some("node-1")),
            ("e2e-1", "on-the-guest-of-another", Some(own.as_str())),
            ("e2e-2", "of-another-spec", Some("node-1")),
            ("x", "of-no-spec", Some("node-1")),
        ] {
            let pod = json!({
                "metadata": {"namespace": namespace, "name": "p", "uid": uid},
                "spec": {"containers": [], "nodeName": bound},
            });
            seen.pod(&serde_json::from_value(pod).unwrap());
        }
        assert_eq!(seen.pods("a"), Pods { own: 1, others: 2 });
        assert_eq!(seen.pods("b"), Pods { own: 0, others: 1 });
        assert_eq!(seen.pods("c"), Pods::default());
    }

    #[test]
    fn a_spec_without_a_marooned_pod_has_not_passed() {
        let judged = |outcome, own, others| {
            let ended = Ended {
                outcome,
                seconds: 1.0,
                reason: "r".to_owned(),
            };
            let judged = judge(Some(Pods { own, others }), ended);
            (judged.outcome, judged.reason)
        };
        assert_eq!(judged(Outcome::Passed, 2, 0), (Outcome::Passed, "r".to_owned()));
        assert_eq!(judged(Outcome::Passed, 0, 2).0, Outcome::Skipped);
        let (outcome, reason) = judged(Outcome::Passed, 1, 2);
        assert_eq!(outcome, Outcome::Passed);
        assert!(reason.starts_with("1 of its 3 pods were marooned"), "{reason}");
        assert_eq!(judged(Outcome::Failed, 0, 2), (Outcome::Failed, "r".to_owned()));
        assert_eq!(
            judged(Outcome::Passed, 0, 0),
            (Outcome::Passed, "it runs no pod".to_owned())
        );
        let passed = Ended {
            outcome: Outcome::Passed,
            seconds: 1.0,
            reason: String::new(),
        };
        assert_eq!(judge(None, passed).outcome, Outcome::Skipped);
    }
}
