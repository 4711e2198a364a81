//! Attempts and what became of them.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::{Api, Resource};
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::harness::marooned_pod::SOON;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

/// Longer than controllers take from one write to the next that follows from it.
const SETTLED: Duration = Duration::from_secs(2);

/// Reads what of an object an attack may be after.
type Reader = Box<dyn Fn() -> BoxFuture<'static, Value> + Send + Sync>;

/// Attempts of one attacker, for people to read when all are made.
pub struct Table {
    who: &'static str,
    rows: Vec<(String, String)>,
    targets: Vec<Reader>,
}

impl Table {
    pub fn of(who: &'static str) -> Self {
        Self {
            who,
            rows: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Every refused attempt from here on must leave this object as it was. `api` is an administrator's.
    pub fn aims_at<K>(&mut self, api: &Api<K>, name: &str)
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let (api, name) = (api.clone(), name.to_owned());
        self.targets.push(Box::new(move || {
            let (api, name) = (api.clone(), name.clone());
            Box::pin(async move { attackable(&serde_json::to_value(api.get(&name).await.unwrap()).unwrap()) })
        }));
    }

    /// Waits until the cluster's own controllers have done what they do to the objects that attempts aim at.
    pub async fn settles(&self) {
        eventually("objects that no controller changes", SOON, || async {
            let before = self.read().await;
            sleep(SETTLED).await;
            Ok((self.read().await == before).then_some(()))
        })
        .await
        .unwrap();
    }

    async fn read(&self) -> Vec<Value> {
        futures::future::join_all(self.targets.iter().map(|target| target())).await
    }

    /// The API server must refuse the attempt with a message that contains `says`, which changes nothing of what the
    /// attempt aims at, and then let the twin pass: the same request but for what makes it an attack.
    pub async fn refuses<T: Debug, U: Debug>(
        &mut self,
        attempt: &str,
        says: &str,
        attack: impl Future<Output = kube::Result<T>>,
        twin: impl Future<Output = kube::Result<U>>,
    ) {
        self.refuses_all(attempt, says, attack).await;
        if let Err(error) = twin.await {
            panic!("{}, the harmless twin of: {attempt}: {error}", self.who);
        }
    }

    /// [`Self::refuses`] for a request of which no part is harmless.
    pub async fn refuses_all<T: Debug>(
        &mut self,
        attempt: &str,
        says: &str,
        attack: impl Future<Output = kube::Result<T>>,
    ) {
        let before = self.read().await;
        let message = match attack.await {
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404 | 409 | 422) => {
                status.message
            }
            Err(error) => panic!("{}, {attempt}: {error}", self.who),
            Ok(object) => panic!("{}, {attempt}: accepted: {object:#?}", self.who),
        };
        assert_eq!(self.read().await, before, "{}, {attempt}: changed it", self.who);
        self.fails(attempt, says, message);
    }

    /// The attempt has failed elsewhere than in its own request, with this message.
    pub fn fails(&mut self, attempt: &str, says: &str, message: String) {
        assert!(message.contains(says), "{}, {attempt}: {message}", self.who);
        self.rows.push((attempt.to_owned(), message));
    }

    pub fn print(self) {
        let head = [format!(
            "\n| attempt | {}: the server's message |\n|---|---|",
            self.who
        )];
        let row =
            |(attempt, message): (String, String)| format!("| {attempt} | {} |", message.replace('|', "\\|"));
        let lines: Vec<_> = head.into_iter().chain(self.rows.into_iter().map(row)).collect();
        // At once: tests that run beside it print tables too.
        println!("{}", lines.join("\n"));
    }
}

/// The object without what honest kubelets and controllers write all the time.
fn attackable(object: &Value) -> Value {
    let mut metadata = pick(
        &object["metadata"],
        &[
            "uid",
            "labels",
            "annotations",
            "finalizers",
            "ownerReferences",
            "deletionTimestamp",
        ],
    );
    metadata.retain(|_, value| !value.is_null());
    let mut spec = object["spec"].clone();
    if let Some(lease) = spec.as_object_mut() {
        lease.remove("renewTime");
    }
    let mut status = pick(
        &object["status"],
        &[
            "addresses",
            "volumesAttached",
            "podIP",
            "podIPs",
            "hostIP",
            "hostIPs",
            "nominatedNodeName",
        ],
    );
    // Kubernetes' own conditions have names without a domain, and one of them tells that a pod is disrupted.
    let conditions = object["status"]["conditions"].as_array();
    let foreign: Vec<&Value> = conditions
        .into_iter()
        .flatten()
        .filter(|condition| {
            let type_ = condition["type"].as_str().unwrap_or_default();
            type_.contains('/') || type_ == "DisruptionTarget"
        })
        .collect();
    status.insert("conditions".to_owned(), json!(foreign));
    json!({"metadata": metadata, "spec": spec, "status": status})
}

fn pick(object: &Value, fields: &[&str]) -> Map<String, Value> {
    fields
        .iter()
        .map(|field| ((*field).to_owned(), object[*field].clone()))
        .collect()
}
