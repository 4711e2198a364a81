//! A simulated guest: it has its machine, its seed and the network, and only the rights that these give it.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use maroonedpods_common::join_info::{JoinInfo, KubeletSettings};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::admission::Room;
use super::csr::{Answer, Ask};
use super::domains::Domains;
use super::join::{Joined, Joiner};
use super::kubelet::{Kubelet, Machine};
use super::launcher::Hardware;
use super::log::{GuestEvent, GuestLog, StolenCredentials};
use super::own_node::internal_ip;
use super::pods::Addresses;
use super::script::{Script, seconds};
use super::seed;
use crate::control_plane::kubeconfig::{self, Credentials};
use crate::system::pki::Pair;

const MI: u64 = 1 << 20;
/// kubelet's own default.
const MAX_PODS: u64 = 110;
/// How soon a kubelet asks for a serving certificate again, and how often here.
const SERVING_RETRY: Duration = Duration::from_secs(2);
const SERVING_TRIES: u32 = 4;

/// A powered-on guest.
pub(super) struct Guest {
    pub(super) hardware: Hardware,
    pub(super) user_data: String,
    pub(super) script: Script,
    pub(super) powered: Instant,
    pub(super) log: GuestLog,
}

/// What outlives a reboot.
#[derive(Default)]
struct Disk {
    identity: Option<Pair>,
    has_serving_certificate: bool,
}

impl Guest {
    /// Lives until it powers off, or resets a machine that ends then, or is dropped, which cuts its power. What goes wrong
    /// inside stays inside.
    pub(super) async fn live(&self) {
        if !self.script.is_honest() {
            self.log.note_attacker(self.name());
        }
        tokio::select! {
            () = self.up() => {}
            () = self.at(self.script.powers_off_at) => {}
            () = self.at(self.script.silent_at) => {
                self.log.note(self.name(), GuestEvent::FellSilent);
                std::future::pending::<()>().await;
            }
        }
    }

    async fn up(&self) {
        let mut disk = Disk::default();
        tokio::select! {
            () = Box::pin(self.boot(&mut disk)) => {}
            () = self.at(self.script.reboot_at) => {}
        }
        if !self.hardware.ends_on_reset {
            Box::pin(self.boot(&mut disk)).await;
        }
    }

    /// From the kernel's start on. Never returns: a boot program without work waits.
    async fn boot(&self, disk: &mut Disk) {
        let boot_id = self.new_boot_id();
        self.log.note(self.name(), GuestEvent::Booted(boot_id.clone()));
        match seed::join_info(&self.user_data) {
            Ok(info) => {
                if let Err(error) = Box::pin(self.work(&info, boot_id, disk)).await {
                    tracing::warn!(
                        guest = self.name(),
                        error = format!("{error:#}"),
                        "a guest failed"
                    );
                }
            }
            Err(error) => self
                .log
                .note(self.name(), GuestEvent::SeedRefused(format!("{error:#}"))),
        }
        std::future::pending::<()>().await;
    }

    async fn work(&self, info: &JoinInfo, boot_id: String, disk: &mut Disk) -> Result<()> {
        sleep(seconds(self.script.join_delay)).await;
        if self.script.never_joins {
            return Ok(());
        }
        let token = client(info, &Credentials::Token(info.token.reveal())).await?;
        let joiner = Joiner {
            node: &info.node_name,
            token: &token,
            script: &self.script,
            log: &self.log,
        };
        let (identity, first_join) = if let Some(identity) = disk.identity.clone() {
            (identity, None)
        } else {
            let Some(Joined { identity, second }) = joiner.join().await else {
                return Ok(());
            };
            (identity, Some(second))
        };
        disk.identity = Some(identity.clone());
        let stolen = StolenCredentials {
            token: info.token.reveal().to_owned(),
            identity: identity.clone(),
        };
        self.log.keep(self.name(), stolen);
        let misuse = async {
            if let Some(second) = first_join {
                tokio::join!(joiner.await_second(second), joiner.reuse_token());
            }
        };
        let (works, ()) = tokio::join!(self.be_kubelet_for_long(info, boot_id, identity, disk), misuse);
        works
    }

    /// Goes on with each certificate alone, as a kubelet closes its connections when it has a new one.
    async fn be_kubelet_for_long(
        &self,
        info: &JoinInfo,
        boot_id: String,
        mut identity: Pair,
        disk: &mut Disk,
    ) -> Result<()> {
        let mut renews_at = self.script.renews_at;
        loop {
            let client = client(info, &Credentials::Certificate(&identity)).await?;
            let renewed = async {
                self.at(renews_at.take()).await;
                self.renew(&info.node_name, &client).await
            };
            tokio::select! {
                () = Box::pin(self.be_kubelet(info, boot_id.clone(), client.clone(), disk)) => return Ok(()),
                renewed = renewed => identity = renewed,
            }
            disk.identity = Some(identity.clone());
        }
    }

    /// A new client certificate, asked for with the old one for as long as it takes.
    async fn renew(&self, node_name: &str, client: &Client) -> Pair {
        loop {
            let answer = async {
                Ask::client(node_name, &[])
                    .file(client)
                    .await?
                    .answer(client)
                    .await
            };
            match answer.await {
                Ok(Answer::Issued(identity)) => {
                    self.log.note(node_name, GuestEvent::Renewed);
                    return identity;
                }
                Ok(Answer::Denied(why)) => self.log.note(node_name, GuestEvent::ClientRequestDenied(why)),
                Err(error) => {
                    if let Some(error) = error.downcast_ref() {
                        self.log
                            .note_if_forbidden(node_name, "asking for a new client certificate", error);
                    }
                    let error = format!("{error:#}");
                    tracing::debug!(node = node_name, error, "no new client certificate");
                }
            }
            sleep(SERVING_RETRY).await;
        }
    }

    async fn be_kubelet(&self, info: &JoinInfo, boot_id: String, client: Client, disk: &mut Disk) {
        let node = watch::Sender::new(None);
        let ready = watch::Sender::new(self.script.not_ready_at.is_none_or(|at| at > 0.0));
        let kubelet = Kubelet {
            client: client.clone(),
            name: info.node_name.clone(),
            machine: machine(&self.hardware, &info.kubelet, boot_id),
            addresses: Addresses::OfTheNode,
            rejects: self.script.rejects.clone(),
            domains: Domains::default(),
            log: self.log.clone(),
        };
        let breaks = async {
            self.at(self.script.not_ready_at).await;
            ready.send_replace(false);
        };
        tokio::join!(
            kubelet.run(ready.subscribe(), &node),
            self.get_serving_certificate(&info.node_name, &client, node.subscribe(), disk),
            breaks,
        );
    }

    /// Asks for the Node's name and addresses, as soon as it has an address to be reached by.
    async fn get_serving_certificate(
        &self,
        node_name: &str,
        client: &Client,
        node: watch::Receiver<Option<Node>>,
        disk: &mut Disk,
    ) {
        for _ in 0..SERVING_TRIES {
            if disk.has_serving_certificate {
                return;
            }
            internal_ip(&node).await;
            let mut sans = vec![node_name.to_owned()];
            let own = node.borrow().clone();
            let addresses = own.and_then(|own| own.status?.addresses).unwrap_or_default();
            sans.extend(addresses.into_iter().map(|address| address.address));
            sans.extend(self.script.serving_sans.iter().cloned());
            sans.sort();
            sans.dedup();
            match ask_for_serving_certificate(node_name, client, sans).await {
                Ok(Answer::Issued(_)) => {
                    disk.has_serving_certificate = true;
                    return self.log.note(node_name, GuestEvent::ServingCertificate);
                }
                Ok(Answer::Denied(why)) => self.log.note(node_name, GuestEvent::ServingRequestDenied(why)),
                Err(error) => {
                    tracing::debug!(
                        node = node_name,
                        error = format!("{error:#}"),
                        "no serving certificate"
                    );
                    if let Some(error) = error.downcast_ref() {
                        self.log
                            .note_if_forbidden(node_name, "asking for a serving certificate", error);
                    }
                }
            }
            sleep(SERVING_RETRY).await;
        }
    }

    /// A guest's name for itself is its host name: it knows no other before it has read its seed.
    fn name(&self) -> &str {
        &self.hardware.hostname
    }

    /// Looks random to the API server: a name-based UUID of the machine and the moment.
    fn new_boot_id(&self) -> String {
        let moment = jiff::Timestamp::now().as_nanosecond();
        let name = format!("{}/{moment}", self.hardware.firmware_uuid);
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
    }

    /// Resolves so many seconds after the VM ran, or never.
    async fn at(&self, after: Option<f64>) {
        match after {
            Some(after) => sleep_until(self.powered + seconds(after)).await,
            None => std::future::pending().await,
        }
    }
}

async fn ask_for_serving_certificate(node: &str, client: &Client, sans: Vec<String>) -> Result<Answer> {
    Ask::serving(node, sans).file(client).await?.answer(client).await
}

/// A client with nothing but what the seed and the CSR API gave.
async fn client(info: &JoinInfo, credentials: &Credentials<'_>) -> Result<Client> {
    kubeconfig::client(&kubeconfig::render(&info.server_url, &info.ca, credentials)).await
}

/// What the kubelet finds, and what its configuration leaves to pods: capacity less `systemReserved` and the thresholds of
/// `evictionHard`, as the node image configures them (5% of the disk).
fn machine(hardware: &Hardware, settings: &KubeletSettings, boot_id: String) -> Machine {
    let memory_mi = hardware.memory_mi.saturating_sub(kernel_mi(hardware.memory_mi));
    let kept_mi = settings.reserved_memory_mi + settings.eviction_memory_mi;
    let cpu_milli = hardware.cpus * 1000;
    let disk = hardware.disk_mi * MI;
    let room = |cpu_milli, memory_mi: u64, storage_bytes| Room {
        cpu_milli,
        memory_bytes: memory_mi * MI,
        storage_bytes,
        pods: MAX_PODS,
    };
    Machine {
        system_uuid: hardware.firmware_uuid.to_lowercase(),
        boot_id,
        kubelet_port: settings.port,
        capacity: room(cpu_milli, memory_mi, disk),
        allocatable: room(
            cpu_milli.saturating_sub(settings.reserved_cpu_milli),
            memory_mi.saturating_sub(kept_mi),
            disk - disk / 20,
        ),
    }
}

/// What a kernel keeps of `memory_mi` MiB: 54 of 512 was measured, a 64th of it for page structs.
fn kernel_mi(memory_mi: u64) -> u64 {
    46 + memory_mi.div_ceil(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest of 512 MiB has 458 MiB by its own kernel (measured on the node image), of which its kubelet's configuration
    /// keeps 96 and 50.
    #[test]
    fn a_kubelet_finds_what_a_real_one_found() {
        let hardware = Hardware {
            hostname: "h".to_owned(),
            firmware_uuid: "ABCDEF".to_owned(),
            cpus: 2,
            memory_mi: 512,
            disk_mi: 10_240,
            ends_on_reset: false,
        };
        let settings = KubeletSettings {
            port: 65250,
            reserved_cpu_milli: 500,
            reserved_memory_mi: 96,
            eviction_memory_mi: 50,
        };
        let found = machine(&hardware, &settings, String::new());
        assert_eq!(found.system_uuid, "abcdef");
        let room = |cpu_milli, memory_bytes, storage_bytes| Room {
            cpu_milli,
            memory_bytes,
            storage_bytes,
            pods: 110,
        };
        assert_eq!(found.capacity, room(2000, 480_247_808, 10_737_418_240));
        assert_eq!(found.allocatable, room(1500, 327_155_712, 10_200_547_328));
    }
}
