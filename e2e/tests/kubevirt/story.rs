//! What is seen of a VMI over its life.

use std::collections::BTreeMap;
use std::mem::take;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::Client;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event, watcher};
use maroonedpods_e2e::api::check::eventually;
use maroonedpods_e2e::api::read::vmis;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::lives::SOON;

/// What was seen of one VMI: each version of it, and whether it is gone.
pub struct Story {
    seen: Arc<Mutex<(Vec<DynamicObject>, bool)>>,
    watch: JoinHandle<()>,
}

impl Story {
    pub async fn begin(admin: &Client, name: &str) -> Self {
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let vmis = vmis(admin);
        let seen = Arc::<Mutex<(Vec<DynamicObject>, bool)>>::default();
        let (begun, begins) = oneshot::channel();
        let writer = seen.clone();
        let watch = tokio::spawn(async move {
            let mut events = pin!(watcher(vmis, only));
            let mut begun = Some(begun);
            while let Some(event) = events.next().await {
                let mut seen = writer.lock().unwrap();
                match event.unwrap() {
                    Event::Apply(vmi) | Event::InitApply(vmi) => seen.0.push(vmi),
                    Event::Delete(vmi) => *seen = ([take(&mut seen.0), vec![vmi]].concat(), true),
                    Event::InitDone => drop(begun.take().map(|begun| begun.send(()))),
                    Event::Init => {}
                }
            }
        });
        begins.await.unwrap();
        Self { seen, watch }
    }

    /// Waits until a version is as `is` says, and gives the first one that is.
    pub async fn becomes(&self, what: &str, is: impl Fn(&DynamicObject) -> bool) -> DynamicObject {
        eventually(&format!("a VMI that is {what}"), SOON, || async {
            let seen = self.seen.lock().unwrap();
            let found = seen.0.iter().find(|vmi| is(vmi)).cloned();
            anyhow::ensure!(
                found.is_some(),
                "{:?}",
                seen.0.last().map(|vmi| &vmi.data["status"])
            );
            Ok(found)
        })
        .await
        .unwrap()
    }

    /// The last version.
    pub fn last(&self) -> DynamicObject {
        self.seen.lock().unwrap().0.last().unwrap().clone()
    }

    pub fn is_over(&self) -> bool {
        self.seen.lock().unwrap().1
    }

    /// What its conditions were at last in each phase before it was ready, and when it was.
    pub fn before(&self) -> Value {
        let mut before = BTreeMap::new();
        for vmi in &self.seen.lock().unwrap().0 {
            let phase = vmi.data["status"]["phase"].as_str().unwrap().to_owned();
            before.insert(phase, conditions(vmi));
            if condition(vmi, "Ready")["status"] == "True" {
                break;
            }
        }
        json!(before)
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

pub fn is_final(vmi: &DynamicObject) -> bool {
    matches!(vmi.data["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// The phases that a VMI notes to have gone through.
pub fn entered(vmi: &DynamicObject) -> Vec<Value> {
    let entered = vmi.data["status"]["phaseTransitionTimestamps"].as_array();
    let entered = entered.into_iter().flatten();
    entered.map(|entry| entry["phase"].clone()).collect()
}

pub fn condition(vmi: &DynamicObject, type_: &str) -> Value {
    let conditions = vmi.data["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == type_);
    found.cloned().unwrap_or_default()
}

/// Status, reason and message of each condition. What blocks a VM names hosts or pods in its message, which is left out.
pub fn conditions(vmi: &DynamicObject) -> Value {
    let conditions = vmi.data["status"]["conditions"].as_array();
    let said = conditions.into_iter().flatten().map(|condition| {
        let type_ = condition["type"].as_str().unwrap().to_owned();
        let words = match type_.as_str() {
            "PodScheduled" | "Synchronized" => ["status", "reason"].as_slice(),
            _ => &["status", "reason", "message"],
        };
        let words = words.iter().filter_map(|word| condition[word].as_str());
        let words = words.filter(|word| !word.is_empty()).collect::<Vec<_>>();
        (type_, words.join(" "))
    });
    json!(said.collect::<BTreeMap<_, _>>())
}
