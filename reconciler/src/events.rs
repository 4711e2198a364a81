//! Events on pods, for people. They never delay a pass: the queue is bounded, and what does not fit is counted as
//! dropped.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::Api;
use kube::{Client, Resource};
use maroonedpods_common::text;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::api::call;
use crate::metrics::Metrics;
use crate::params;
use crate::plan::Note;
use crate::view::PodView;

const QUEUE: usize = 1024;
const CONTROLLER: &str = "maroonedpods.io/reconciler";
/// Longest name that an object may have.
const LONGEST_NAME: usize = 253;

/// Publishes events.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// The publisher, and the task that sends the queued events; the task ends when every `Events` is dropped.
    pub fn new(client: Client, metrics: Arc<Metrics>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, mut queued) = mpsc::channel::<Event>(QUEUE);
        let counted = metrics.clone();
        let send = async move {
            while let Some(event) = queued.recv().await {
                let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
                let events: Api<Event> = Api::namespaced(client.clone(), namespace);
                if let Err(error) = call(events.create(&params::create(), &event)).await {
                    counted.event_refused();
                    tracing::debug!(%error, reason = event.reason, "event not recorded");
                }
            }
        };
        (Self { queue, metrics }, send)
    }

    /// Queues an event on a pod.
    pub fn publish(&self, pod: &PodView, note: &Note) {
        if self.queue.try_send(event(pod, note, Timestamp::now())).is_err() {
            self.metrics.event_dropped();
        }
    }
}

fn event(pod: &PodView, note: &Note, now: Timestamp) -> Event {
    let regarding = ObjectReference {
        api_version: Some(k8s_openapi::api::core::v1::Pod::api_version(&()).into_owned()),
        kind: Some(k8s_openapi::api::core::v1::Pod::kind(&()).into_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    };
    Event {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace.clone()),
            name: Some(name(&pod.name, now)),
            ..ObjectMeta::default()
        },
        action: Some("Maroon".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(text::sentence(&note.message).into_owned()),
        reason: Some(note.reason.to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(CONTROLLER.to_owned()),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

/// `<pod>.<time>`, the usual name of an event. If the pod's name leaves no room for the time: its beginning, and a
/// hash of the whole name.
fn name(pod: &str, now: Timestamp) -> String {
    let time = format!("{:x}", now.as_nanosecond());
    if pod.len() + 1 + time.len() <= LONGEST_NAME {
        return format!("{pod}.{time}");
    }
    let digest = Sha256::digest(pod);
    let hash = digest
        .iter()
        .take(8)
        .fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    let hash = format!("{hash:016x}");
    let room = LONGEST_NAME - hash.len() - time.len() - 2;
    // The name must not be cut after a dot or a dash: no label may end in one.
    let beginning: String = pod.chars().take(room).collect();
    format!("{}-{hash}.{time}", beginning.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::read::view_of;
    use serde_json::json;

    /// An API server that gives these answers, each on a connection of its own.
    async fn api_server(answers: &[(&'static str, serde_json::Value)]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut answers = VecDeque::from(answers.to_vec());
        tokio::spawn(async move {
            while let Some((status, body)) = answers.pop_front() {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                // The event ends the request, and its type is its last field.
                while !request.ends_with(b"\"type\":\"Normal\"}") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}",
                    body.len()
                );
                stream
                    .write_all(format!("{head}\r\n\r\n{body}").as_bytes())
                    .await
                    .unwrap();
            }
        });
        Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
    }

    fn counted(metrics: &Metrics) -> [String; 2] {
        let text = metrics.text();
        ["dropped", "refused"].map(|what| {
            let begin = format!("maroonedpods_events_{what}_total ");
            let mut counts = text.lines().filter_map(|line| line.strip_prefix(begin.as_str()));
            counts.next().unwrap().to_owned()
        })
    }

    fn publish(events: &Events, times: usize) {
        let pod =
            view_of(&json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}, "spec": {}})).unwrap();
        let note = Note {
            warning: false,
            reason: "Launching",
            message: "a VM is being started".to_owned(),
        };
        (0..times).for_each(|_| events.publish(&pod, &note));
    }

    #[tokio::test]
    async fn events_that_do_not_fit_are_counted_as_dropped() {
        let metrics = Arc::new(Metrics::new());
        let (events, _send) = Events::new(api_server(&[]).await, metrics.clone());
        publish(&events, 1024);
        assert_eq!(counted(&metrics), ["0", "0"]);
        publish(&events, 3);
        assert_eq!(counted(&metrics), ["3", "0"]);
    }

    #[tokio::test]
    async fn events_that_the_api_server_does_not_take_are_counted_as_refused() {
        let metrics = Arc::new(Metrics::new());
        let forbidden = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden",
            "message": "no", "code": 403});
        let taken = json!({"metadata": {"name": "p.1", "namespace": "n"}, "eventTime": null});
        let client = api_server(&[
            ("403 Forbidden", forbidden.clone()),
            ("201 Created", taken),
            ("403 Forbidden", forbidden),
        ])
        .await;
        let (events, send) = Events::new(client, metrics.clone());
        publish(&events, 3);
        drop(events);
        send.await;
        assert_eq!(counted(&metrics), ["0", "2"]);
    }

    fn is_a_name(name: &str) -> bool {
        let is_label = |label: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        };
        name.len() <= LONGEST_NAME && name.split('.').all(is_label)
    }

    #[test]
    fn every_pod_name_gives_a_valid_event_name() {
        let now: Timestamp = "2026-01-01T00:00:00.123456789Z".parse().unwrap();
        assert_eq!(name("web-0", now), "web-0.18867251f555cd15");
        for length in 200..=LONGEST_NAME {
            for of in ["a", "ab-", "ab.", &format!("{}.", "a".repeat(60))] {
                let mut pod = of.repeat(LONGEST_NAME);
                pod.truncate(length);
                let pod = pod.trim_end_matches(['.', '-']);
                assert!(is_a_name(&name(pod, now)), "{}", name(pod, now));
            }
        }
    }

    #[test]
    fn long_names_with_the_same_beginning_give_different_event_names() {
        let now = Timestamp::now();
        let long = "a".repeat(252);
        assert_ne!(name(&format!("{long}b"), now), name(&format!("{long}c"), now));
    }

    #[test]
    fn a_note_is_as_long_as_an_event_may_hold() {
        let pod =
            view_of(&json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}, "spec": {}})).unwrap();
        let note = Note {
            warning: true,
            reason: "VMBlocked",
            message: "é".repeat(1 << 20),
        };
        let event = event(&pod, &note, Timestamp::now());
        assert!(event.note.unwrap().len() <= 1024);
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
