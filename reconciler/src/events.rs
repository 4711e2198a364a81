//! Events on pods, for people. They never hold up a pass: a bounded queue, and what does not fit is counted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::api::call;
use crate::metrics::Metrics;
use crate::plan::Note;
use crate::view::PodView;

const QUEUE: usize = 1024;

/// The way in.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<(ObjectReference, Event)>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// The way in, and the task that sends what comes in; it ends when every `Events` is dropped.
    pub fn new(client: Client, metrics: Arc<Metrics>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, mut queued) = mpsc::channel::<(ObjectReference, Event)>(QUEUE);
        let reporter = Reporter {
            controller: "maroonedpods.io/reconciler".to_owned(),
            instance: None,
        };
        let recorder = Recorder::new(client, reporter);
        let send = async move {
            while let Some((about, event)) = queued.recv().await {
                if let Err(error) = call(recorder.publish(&event, &about)).await {
                    tracing::debug!(%error, reason = event.reason, "event not recorded");
                }
            }
        };
        (Self { queue, metrics }, send)
    }

    /// Queues an event on a pod.
    pub fn publish(&self, pod: &PodView, note: &Note) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if note.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: note.reason.to_owned(),
            note: Some(note.message.clone()),
            action: "Maroon".to_owned(),
            secondary: None,
        };
        if self.queue.try_send((about, event)).is_err() {
            self.metrics.event_dropped();
        }
    }
}
