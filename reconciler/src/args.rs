//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use maroonedpods_common::names;
use maroonedpods_server::program::{LogArgs, positive_duration};

use crate::certs::args::CertsArgs;

/// Gives each marooned pod a virtual machine of its own as its node, and takes it away with the pod.
#[derive(Parser, Clone, Debug)]
#[command(version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Kubeconfig file. Without it: $KUBECONFIG, ~/.kube/config, then the pod's own service account.
    #[arg(long, global = true, env = "MAROONEDPODS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace in which VMs and their join data are made. No one else should hold rights there.
    #[arg(long, global = true, env = "MAROONEDPODS_VM_NAMESPACE", value_name = "NAME", default_value = names::VM_NAMESPACE)]
    pub vm_namespace: String,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What the program can do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Runs the reconciler until it is told to stop.
    ///
    /// Watches pods that the webhook gated, makes a KubeVirt VirtualMachineInstance for each, lets it join the
    /// cluster with a one-time credential, lifts the gate when the node is ready and verified, and cleans up
    /// afterwards. Configured by the MaroonedPodsConfig named "default".
    Run(Args),
    /// Checks whether the cluster is fit for MaroonedPods, and changes nothing.
    ///
    /// Exits with 1 if anything would keep VMs from being started. Works before the installation, with the rights
    /// of the user who runs it; checks that it cannot make are listed as warnings.
    Preflight(PreflightArgs),
    /// Deletes what MaroonedPods created, before helm uninstalls the chart.
    ///
    /// Without --force it refuses while marooned pods exist, and lists them. The running reconciler does the work;
    /// this waits for it, says what is left, and exits with 1 if something stays.
    Uninstall(UninstallArgs),
    /// Creates or updates our CRDs, MaroonedPodsConfig and MaroonedNode, and waits until they are served. May be repeated.
    ApplyCrds,
}

/// What `run` needs.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// A YAML file with a MaroonedPodsConfig to use instead of the cluster's; read once, at the start.
    #[arg(long, env = "MAROONEDPODS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address for /metrics, /livez and /readyz, plain HTTP.
    #[arg(
        long,
        env = "MAROONEDPODS_METRICS_BIND",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:8080"
    )]
    pub metrics_bind: SocketAddr,
    /// Whether only the holder of the lease acts. Two that act at once are slower, not less safe.
    #[arg(long, env = "MAROONEDPODS_LEADER_ELECT", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// The release's namespace: where the lease is. In a cluster, set from the pod's own namespace.
    #[arg(
        long,
        env = "MAROONEDPODS_NAMESPACE",
        value_name = "NAME",
        default_value = "maroonedpods-system"
    )]
    pub namespace: String,
    /// How the webhook gets its certificate.
    #[command(flatten)]
    pub certs: CertsArgs,
    /// How soon the cluster is checked again when something was found; when nothing was, ten times as late.
    #[arg(long, env = "MAROONEDPODS_RECHECK", value_name = "DURATION", default_value = "30s", value_parser = positive_duration)]
    pub recheck: Duration,
    /// Passes at once that create something for a pod. For comparisons only: `hack/bench reconciler --starts`.
    #[arg(long, value_name = "N", hide = true)]
    pub starts_at_once: Option<NonZeroUsize>,
}

/// What `preflight` needs.
#[derive(clap::Args, Clone, Debug)]
pub struct PreflightArgs {
    /// A YAML file with the MaroonedPodsConfig to try, where the cluster has none yet.
    #[arg(long, env = "MAROONEDPODS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `uninstall` needs.
#[derive(clap::Args, Clone, Debug)]
pub struct UninstallArgs {
    /// The release's namespace.
    #[arg(
        long,
        env = "MAROONEDPODS_NAMESPACE",
        value_name = "NAME",
        default_value = "maroonedpods-system"
    )]
    pub namespace: String,
    /// Delete marooned pods, in all namespaces, with their own grace period. Disruption budgets do not hold this
    /// back. Without it, nothing is changed while there are any.
    #[arg(long, env = "MAROONEDPODS_FORCE")]
    pub force: bool,
    /// How long to wait until everything is gone. helm waits 5m for a hook.
    #[arg(long, env = "MAROONEDPODS_TIMEOUT", value_name = "DURATION", default_value = "4m30s", value_parser = positive_duration)]
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
