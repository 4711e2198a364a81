//! The program behind `hack/bench`: its arguments, output and exit code.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use maroonedpods_e2e::bench::{allowed_cpus, guest, pin, reconciler, webhook};
use maroonedpods_e2e::system::logs;
use tokio::runtime::{Builder, Runtime};

/// Measures release builds of the webhook and the reconciler, and the node image's boot, on this machine.
///
/// Nothing is judged by its time alone: compare ratios, and run it on a machine that does nothing else.
#[derive(Parser)]
#[command(name = "hack/bench")]
struct Args {
    #[command(subcommand)]
    what: What,
    /// About a minute, to see that it works; not for figures. Otherwise webhook takes seven minutes, reconciler nine, guest
    /// about thirty where it is emulated (and five when quick).
    #[arg(long, global = true)]
    quick: bool,
    /// Write all figures, unrounded, and the machine's facts to this file as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// CPU, latency, memory and start-up beside three other servers: the floor of the same stack (body ignored, constant
    /// answer) and two usual designs over kube's typed review, "typed" (operations written by hand) and "diff" (clone,
    /// JSON diff). Needs two processors.
    Webhook,
    /// Stages of pods' lives, writes, CPU and memory at 10, 100 and 1,000 pods at once, on a real control plane.
    /// VMs and guests are simulated, and boot at once.
    Reconciler {
        /// So many pods at once instead, one batch after the other.
        #[arg(long, value_name = "N", value_delimiter = ',')]
        pods: Option<Vec<usize>>,
        /// All batches once more, with a reconciler that starts so many pods at once instead of as many as is usual.
        #[arg(long, value_name = "N")]
        starts: Option<NonZeroUsize>,
        /// Each batch once more, of pods that name a scheduler of their own: kube-scheduler binds them, and not the reconciler.
        #[arg(long)]
        scheduler: bool,
    },
    /// Stages of a real guest's boot from power-on to a pod that runs, memory, idle CPU, sizes; on a real cluster with
    /// one node, with KubeVirt. Needs root, and apt-get for what is missing.
    ///
    /// In turns with it boots a stock guest with systemd and cloud-init, the same containerd, kubelet and boot program:
    /// made here of Debian's packages, as Debian's own cloud image is none of them. It has fewer services than that, and
    /// needs no boot loader, which favours it.
    Guest {
        /// Without the stock guest.
        #[arg(long)]
        without_stock: bool,
        /// In turns with ours, also these guests: a YAML list of `name`, `archive` (the OCI archive of a node image, see
        /// hack/node-image) and `config` (merged into the spec of the `MaroonedPodsConfig`; names the archive's image).
        #[arg(long, value_name = "FILE")]
        beside: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    logs::errors();
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hack/bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Args { what, quick, json }: Args) -> Result<ExitCode> {
    let json = json.as_deref();
    match what {
        What::Webhook => {
            let cpus = allowed_cpus()?;
            ensure!(
                cpus.len() >= 2,
                "two processors are needed, one for the server, one for its load"
            );
            pin(None, cpus[1])?;
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let effort = webhook::Effort::new(quick);
            until_interrupted(&runtime, async {
                webhook::run(effort, cpus[0]).await?.publish(json)
            })
        }
        What::Reconciler {
            pods,
            starts,
            scheduler,
        } => {
            let runtime = Builder::new_multi_thread().enable_all().build()?;
            let effort = reconciler::Effort::new(quick);
            let effort = match pods {
                Some(pods) => effort.with_batches(pods),
                None => effort,
            };
            let effort = match starts {
                Some(starts) => effort.beside_starts(starts),
                None => effort,
            };
            let effort = if scheduler {
                effort.beside_scheduler()
            } else {
                effort
            };
            until_interrupted(&runtime, async { reconciler::run(&effort).await?.publish(json) })
        }
        // On a cluster's network, and so on threads of its own.
        What::Guest {
            without_stock,
            beside,
        } => {
            let effort = guest::Effort::new(quick, !without_stock);
            let effort = match beside {
                Some(variants) => effort.beside(&variants)?,
                None => effort,
            };
            guest::run(&effort)?.publish(json)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn until_interrupted(runtime: &Runtime, work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    runtime.block_on(async {
        tokio::select! {
            done = work => done.map(|()| ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => {
                eprintln!("\ninterrupted; everything is being cleaned up");
                Ok(ExitCode::from(130))
            }
        }
    })
}
