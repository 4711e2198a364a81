//! The servers under load, each a process of its own on the processor set aside for them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::body::Bytes;
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::load::{Protocol, Target};
use crate::bench::{proc, program};
use crate::system::pki::Authority;

const START_LIMIT: Duration = Duration::from_secs(10);
/// The floor's answer, in the folder of what the servers are given.
const ANSWER: &str = "answer.json";
/// Far below what is measured with it.
const START_POLL: Duration = Duration::from_micros(200);

/// What serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Design {
    /// Our webhook, the release binary.
    Ours,
    /// The same stack, body read and ignored, constant answer: ours.
    Floor,
    /// kube's typed review, operations written by hand.
    Typed,
    /// kube's typed review, clone, JSON diff.
    Diff,
}

impl Design {
    pub(super) const ALL: [Self; 4] = [Self::Ours, Self::Floor, Self::Typed, Self::Diff];
    /// Those that read the pod, ours first.
    pub(super) const PATCHING: [Self; 3] = [Self::Ours, Self::Typed, Self::Diff];
    /// Those that webhooks usually have.
    pub(super) const USUAL: [Self; 2] = [Self::Typed, Self::Diff];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Floor => "floor",
            Self::Typed => "typed",
            Self::Diff => "diff",
        }
    }

    /// Size of its program's file.
    pub(super) fn program_bytes(self) -> Result<u64> {
        Ok(fs::metadata(program(self.program_name())?)?.len())
    }

    fn program_name(self) -> &'static str {
        match self {
            Self::Ours => "maroonedpods-webhook",
            Self::Floor | Self::Typed | Self::Diff => "maroonedpods-bench-server",
        }
    }
}

/// What the servers are given: one key pair for all, and the floor's answer.
pub(super) struct Provisions {
    authority: Authority,
    folder: TempDir,
}

impl Provisions {
    pub(super) fn new() -> Result<Self> {
        let authority = Authority::new("bench")?;
        let pair = authority.server(&["127.0.0.1"])?;
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("tls.crt"), &pair.certificate)?;
        fs::write(folder.path().join("tls.key"), &pair.key)?;
        Ok(Self { authority, folder })
    }

    /// The floor, which is not to be started before, gives this answer.
    pub(super) fn set_answer(&self, answer: &[u8]) -> Result<()> {
        Ok(fs::write(self.folder.path().join(ANSWER), answer)?)
    }
}

/// A server that runs until it is dropped.
pub(super) struct Server {
    child: Child,
    address: SocketAddr,
    ca: String,
    /// From its start to its first answer over TLS.
    pub(super) started_in: Duration,
}

impl Server {
    /// Starts a server on this processor and waits for its first answer.
    pub(super) async fn start(design: Design, provisions: &Provisions, cpu: usize) -> Result<Self> {
        let (address, metrics) = (free_address()?, free_address()?);
        let ca = provisions.authority.pem();
        let target = Target::new(address, &ca, Protocol::H1, Bytes::new())?.health();
        let mut command = command(design, provisions.folder.path(), address, metrics)?;
        let start = Instant::now();
        let child = command.kill_on_drop(true).spawn()?;
        proc::pin(child.id(), cpu)?;
        while let Err(error) = target.ask_once().await {
            ensure!(
                start.elapsed() < START_LIMIT,
                "{} does not answer: {error:#}",
                design.name()
            );
            sleep(START_POLL).await;
        }
        Ok(Self {
            child,
            address,
            ca,
            started_in: start.elapsed(),
        })
    }

    /// Reviews sent to it.
    pub(super) fn target(&self, protocol: Protocol, body: Bytes) -> Result<Target> {
        Target::new(self.address, &self.ca, protocol, body)
    }

    /// Processor time that it has used.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        proc::cpu_time(self.process()?)
    }

    /// Its memory in RAM, in bytes.
    pub(super) fn resident_bytes(&self) -> Result<u64> {
        proc::resident_bytes(self.process()?)
    }

    fn process(&self) -> Result<u32> {
        self.child.id().context("the server has ended")
    }
}

fn command(design: Design, provisions: &Path, bind: SocketAddr, metrics: SocketAddr) -> Result<Command> {
    let mut command = Command::new(program(design.program_name())?);
    match design {
        Design::Ours => command
            .args(["--log-level=warn", "--metrics-bind"])
            .arg(metrics.to_string()),
        Design::Floor => command
            .args([design.name(), "--answer"])
            .arg(provisions.join(ANSWER)),
        Design::Typed | Design::Diff => command.arg(design.name()),
    };
    command.arg("--bind").arg(bind.to_string());
    command.arg("--tls-dir").arg(provisions);
    Ok(command)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
