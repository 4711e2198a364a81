//! A guest: it has its seed, its machine and the network, and no other right than those it is given by them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use maroonedpods_common::api::VmResources;
use maroonedpods_common::join_info::JoinInfo;
use maroonedpods_common::sizing;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::csr::{self, Answer, Ask};
use super::kubelet::{self, HEARTBEAT, Machine};
use super::pods::{Pods, Room};
use super::script::{Script, seconds};
use super::seed;
use crate::kubeconfig::{self, Credentials};
use crate::pki::Pair;

/// How often a kubelet asks again after a refused request, and how soon.
const JOIN_TRIES: u32 = 3;
const JOIN_RETRY: Duration = Duration::from_secs(1);
/// How soon a request that failed on the way is made again.
const RETRY: Duration = Duration::from_millis(200);
/// Longer than the API server's token cache lives.
const TOKEN_TRIES: u32 = 120;

/// Something that happened to a guest, as the guest saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// It filed a request for a client certificate.
    ClientRequestFiled,
    /// A request for a client certificate was denied, for this reason.
    ClientRequestDenied(String),
    /// It has its client certificate.
    Joined,
    /// It stopped trying to join.
    GaveUp,
    /// Its second request, with another key, was denied for this reason.
    SecondRequestDenied(String),
    /// Its second request was granted.
    SecondRequestGranted,
    /// The API server does not know the token any more.
    TokenRefused,
    /// It has its serving certificate.
    ServingCertificate,
    /// Its request for a serving certificate was denied, for this reason.
    ServingRequestDenied(String),
    /// Its kubelet says and does nothing any more.
    FellSilent,
}

/// What happened to each guest, by its Node's name.
#[derive(Clone, Debug, Default)]
pub struct GuestLog(Arc<Mutex<HashMap<String, Vec<GuestEvent>>>>);

impl GuestLog {
    /// What happened to the guests of this Node so far, in order.
    #[must_use]
    pub fn of(&self, node: &str) -> Vec<GuestEvent> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .cloned()
            .unwrap_or_default()
    }

    fn note(&self, node: &str, event: GuestEvent) {
        tracing::debug!(node, ?event, "guest");
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(node.to_owned())
            .or_default()
            .push(event);
    }
}

/// A powered-on guest.
pub(super) struct Guest {
    pub(super) user_data: String,
    pub(super) system_uuid: String,
    pub(super) cpu: u32,
    pub(super) memory_mi: u64,
    pub(super) disk_mi: u64,
    pub(super) script: Script,
    pub(super) log: GuestLog,
}

impl Guest {
    /// Lives until it is dropped. What goes wrong inside stays inside, as on a console nobody reads.
    pub(super) async fn live(self) {
        if let Err(error) = self.try_live().await {
            tracing::warn!(error = format!("{error:#}"), "a guest failed");
        }
        std::future::pending().await
    }

    async fn try_live(&self) -> Result<()> {
        let info = seed::join_info(&self.user_data)?;
        tokio::time::sleep(seconds(self.script.join_delay)).await;
        if self.script.never_joins {
            return Ok(());
        }
        let token = client(&info, &Credentials::Token(info.token.reveal())).await?;
        let Some(pair) = self.join(&info, &token).await? else {
            return Ok(());
        };
        let client = client(&info, &Credentials::Certificate(&pair)).await?;
        let node = info.node_name.clone();
        tokio::join!(self.serve(&info, &client), self.misuse_token(&node, &token));
        Ok(())
    }

    /// TLS bootstrap: a new key, a request with the token, the certificate.
    async fn join(&self, info: &JoinInfo, token: &Client) -> Result<Option<Pair>> {
        let node = &info.node_name;
        let mut ask = Ask::client(self.script.wrong_node_name.as_ref().unwrap_or(node));
        ask.dns.clone_from(&self.script.extra_sans);
        for _ in 0..JOIN_TRIES {
            let (name, key) = persist(|| ask.file(token)).await;
            self.log.note(node, GuestEvent::ClientRequestFiled);
            let second = if self.script.second_csr {
                Some(ask.file(token).await?)
            } else {
                None
            };
            match csr::answer(token, &name, key).await? {
                Answer::Issued { certificate, key } => {
                    self.log.note(node, GuestEvent::Joined);
                    if let Some((name, key)) = second {
                        self.log.note(
                            node,
                            match csr::answer(token, &name, key).await? {
                                Answer::Issued { .. } => GuestEvent::SecondRequestGranted,
                                Answer::Denied { reason } => GuestEvent::SecondRequestDenied(reason),
                            },
                        );
                    }
                    return Ok(Some(Pair {
                        certificate: String::from_utf8(certificate)?,
                        key,
                    }));
                }
                Answer::Denied { reason } => self.log.note(node, GuestEvent::ClientRequestDenied(reason)),
            }
            tokio::time::sleep(JOIN_RETRY).await;
        }
        self.log.note(node, GuestEvent::GaveUp);
        Ok(None)
    }

    /// From here on the guest is a kubelet.
    async fn serve(&self, info: &JoinInfo, client: &Client) {
        let machine = self.machine(info);
        let boot_id = watch::Sender::new(Uuid::new_v4().to_string());
        let (own_node, node) = watch::channel(None);
        let silent = self.script.silent_at;
        let alive = async {
            tokio::join!(
                observe_own_node(client, &info.node_name, own_node),
                self.report(client, &machine, boot_id.subscribe()),
                self.serving_certificate(info, client, node.clone()),
                self.run_pods(info, client, node.clone()),
                self.reboot(&boot_id),
            )
        };
        tokio::select! {
            _ = alive => {}
            () = after(silent) => self.log.note(&info.node_name, GuestEvent::FellSilent),
        }
    }

    fn machine(&self, info: &JoinInfo) -> Machine {
        let vm = VmResources {
            cpu: self.cpu,
            memory_mi: self.memory_mi,
            disk_mi: self.disk_mi,
            reserved_memory_mi: info.kubelet.reserved_memory_mi,
            reserved_cpu_milli: info.kubelet.reserved_cpu_milli,
        };
        let list = |cpu_milli: u64, memory_bytes: u64| -> Value {
            json!({"cpu": format!("{cpu_milli}m"), "memory": memory_bytes.to_string(), "pods": "110",
                "ephemeral-storage": format!("{}Mi", self.disk_mi)})
        };
        let (capacity, allocatable) = (sizing::capacity(&vm), sizing::allocatable(&vm));
        Machine {
            node: info.node_name.clone(),
            // As the kernel shows a firmware's UUID, which is not how everybody writes it.
            system_uuid: self.system_uuid.to_lowercase(),
            port: info.kubelet.port,
            capacity: list(capacity.cpu_milli, capacity.memory_bytes),
            allocatable: list(allocatable.cpu_milli, allocatable.memory_bytes),
        }
    }

    async fn report(&self, client: &Client, machine: &Machine, mut boot_id: watch::Receiver<String>) {
        let mut unready = std::pin::pin!(after(self.script.not_ready_at));
        let mut ready = self.script.not_ready_at.is_none_or(|at| at > 0.0);
        loop {
            let boot = boot_id.borrow_and_update().clone();
            let node = persist(|| kubelet::report(client, machine, &boot, ready)).await;
            persist(|| kubelet::create_csi_node(client, &node)).await;
            persist(|| kubelet::renew_lease(client, &node)).await;
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => {}
                _ = boot_id.changed() => {}
                () = &mut unready, if ready => ready = false,
            }
        }
    }

    async fn serving_certificate(
        &self,
        info: &JoinInfo,
        client: &Client,
        node: watch::Receiver<Option<Node>>,
    ) {
        let Some(address) = internal_ip(node).await else {
            return;
        };
        let dns = std::iter::once(info.node_name.clone()).chain(self.script.serving_sans.iter().cloned());
        let ask = Ask {
            signer: "kubernetes.io/kubelet-serving",
            node: info.node_name.clone(),
            dns: dns.collect(),
            ips: vec![address],
        };
        let (name, key) = persist(|| ask.file(client)).await;
        match csr::answer(client, &name, key).await {
            Ok(Answer::Issued { .. }) => self.log.note(&info.node_name, GuestEvent::ServingCertificate),
            Ok(Answer::Denied { reason }) => {
                self.log
                    .note(&info.node_name, GuestEvent::ServingRequestDenied(reason));
            }
            Err(error) => tracing::debug!(node = info.node_name, %error, "no serving certificate"),
        }
    }

    /// Pass-through network: the one pod has the Node's own address.
    async fn run_pods(&self, info: &JoinInfo, client: &Client, node: watch::Receiver<Option<Node>>) {
        let Some(address) = internal_ip(node).await else {
            return;
        };
        let (vm, ip) = (self.machine(info), address.to_string());
        let bytes = |v: &Value| v["memory"].as_str().and_then(|t| t.parse().ok()).unwrap_or(0);
        let milli = |v: &Value| {
            v["cpu"]
                .as_str()
                .and_then(|t| t.trim_end_matches('m').parse().ok())
                .unwrap_or(0)
        };
        let room = Room {
            cpu_milli: milli(&vm.allocatable),
            memory_bytes: bytes(&vm.allocatable),
        };
        let pod_ip = ip.clone();
        Pods {
            client: client.clone(),
            node: info.node_name.clone(),
            host_ip: ip,
            pod_ip: Arc::new(move || pod_ip.clone()),
            room,
        }
        .run()
        .await;
    }

    async fn reboot(&self, boot_id: &watch::Sender<String>) {
        after(self.script.reboot_at).await;
        boot_id.send_replace(Uuid::new_v4().to_string());
        std::future::pending().await
    }

    /// Goes on using the token until the API server does not know it any more.
    async fn misuse_token(&self, node: &str, token: &Client) {
        if !self.script.reuse_token {
            return;
        }
        for _ in 0..TOKEN_TRIES {
            if let Err(error) = Ask::client(node).file(token).await
                && let Some(kube::Error::Api(status)) = error.downcast_ref()
                && status.code == 401
            {
                self.log.note(node, GuestEvent::TokenRefused);
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// A client with nothing but what the seed and the CSR API gave.
async fn client(info: &JoinInfo, credentials: &Credentials<'_>) -> Result<Client> {
    kubeconfig::client(&kubeconfig::render(&info.server_url, &info.ca, credentials)).await
}

/// Follows the guest's own Node, as a kubelet does.
async fn observe_own_node(client: &Client, name: &str, own: watch::Sender<Option<Node>>) {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watch_objects(Api::<Node>::all(client.clone()), only)
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        if let Ok(Event::Apply(node) | Event::InitApply(node)) = event {
            own.send_replace(Some(node));
        }
    }
}

/// The Node's InternalIP, once somebody has written one.
async fn internal_ip(mut node: watch::Receiver<Option<Node>>) -> Option<IpAddr> {
    let address = |node: &Option<Node>| -> Option<IpAddr> {
        let status = node.as_ref()?.status.as_ref()?;
        let address = status
            .addresses
            .iter()
            .flatten()
            .find(|a| a.type_ == "InternalIP")?;
        address.address.parse().ok()
    };
    let found = node.wait_for(|node| address(node).is_some()).await.ok()?;
    address(&found)
}

async fn after(delay: Option<f64>) {
    match delay {
        Some(delay) => tokio::time::sleep(seconds(delay)).await,
        None => std::future::pending().await,
    }
}

/// Repeats what may fail on the way until it succeeds.
async fn persist<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> T {
    loop {
        match attempt().await.context("a guest's request") {
            Ok(done) => return done,
            Err(error) => tracing::debug!(error = format!("{error:#}"), "will try again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
