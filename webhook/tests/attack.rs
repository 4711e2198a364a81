//! The program under attack: it goes on answering, within the memory that the chart gives it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use maroonedpods_testing::{Attack, Program, free_address, until};
use rustls::version::TLS13;

mod support;
use support::UID;
use support::server::{Identity, SecretVolume, connect, exchange, mutate, post};

/// Three quarters of the chart's limit: the rest is for a machine whose pages are larger.
const MEMORY_KIB: usize = 96 << 10;
const LASTS: Duration = Duration::from_secs(8);

struct Webhook {
    program: Program,
    identity: Identity,
    _volume: SecretVolume,
}

impl Webhook {
    async fn start() -> Self {
        let identity = Identity::new();
        let volume = SecretVolume::of(&identity);
        let address = free_address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_maroonedpods-webhook"));
        command.arg("--log-level=error");
        command.arg(format!("--bind={address}"));
        command.arg(format!("--metrics-bind={}", free_address()));
        command.arg(format!("--tls-dir={}", volume.args().tls_dir.display()));
        Self {
            program: Program::start(&mut command, address).await,
            identity,
            _volume: volume,
        }
    }

    fn attack(&self) -> Attack {
        Attack::on_tls(
            self.program.address(),
            "localhost",
            self.identity.certificate.clone(),
        )
    }

    async fn post(&self, review: &str) -> String {
        let stream = connect(self.program.address(), &[&self.identity], &[&TLS13], &[]).await;
        exchange(stream, &post(review)).await
    }

    fn fits(&self) {
        self.program.assert_memory_below(MEMORY_KIB);
    }

    /// Asks from the attackers' own address until the time is over; every answer must be right.
    async fn answers_throughout(&self) {
        let start = Instant::now();
        while start.elapsed() < LASTS {
            let answer = mutate(self.program.address(), &self.identity).await;
            assert!(answer.contains(UID), "{answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.fits();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_shut_it() {
    let webhook = Webhook::start().await;
    let attack = webhook.attack().with_idle(1100);
    until("all have been there", async || attack.connected() >= 1100).await;
    webhook.answers_throughout().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bodies_do_not_fill_it() {
    let webhook = Webhook::start().await;
    let _attack = webhook
        .attack()
        .with_unfinished_bodies(40)
        .with_unfinished_http1_bodies(40)
        .with_unfinished_headers(100, 60_000);
    webhook.answers_throughout().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_passes_among_unfinished_ones() {
    let webhook = Webhook::start().await;
    let _attack = webhook.attack().with_unfinished_bodies(40);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut review = support::creation(&support::ordinary_pod());
    review["request"]["object"]["status"] = "x".repeat(3_000_000).into();
    let review = support::written(&review);
    for _ in 0..5 {
        let answer = webhook.post(&review).await;
        assert!(answer.contains(UID) && answer.contains("JSONPatch"), "{answer}");
    }
}

/// Each `{}` of three bytes would be a hundred in memory.
#[tokio::test(flavor = "multi_thread")]
async fn endless_lists_do_not_fill_it() {
    let webhook = Webhook::start().await;
    let items = vec!["{}"; 2_500_000].join(",");
    for (part, field) in [
        ("metadata", "ownerReferences"),
        ("spec", "tolerations"),
        ("spec", "schedulingGates"),
        ("spec", "resourceClaims"),
    ] {
        let mut review = support::creation(&support::ordinary_pod());
        review["request"]["object"][part][field] = "items".into();
        let review = support::written(&review).replace("\"items\"", &format!("[{items}]"));
        let answer = webhook.post(&review).await;
        assert!(answer.contains(UID) && answer.contains("JSONPatch"), "{answer}");
    }
    webhook.fits();
}
