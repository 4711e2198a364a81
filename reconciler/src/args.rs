//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use maroonedpods_common::names;

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
    /// Namespace in which VMs and their join data are made. Nobody else should hold rights there.
    #[arg(long, global = true, env = "MAROONEDPODS_VM_NAMESPACE", value_name = "NAME", default_value = names::VM_NAMESPACE)]
    pub vm_namespace: String,
    /// How logs are written.
    #[arg(long, global = true, env = "MAROONEDPODS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as "info,kube=debug".
    #[arg(
        long,
        global = true,
        env = "MAROONEDPODS_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info",
        value_parser = filter
    )]
    pub log_level: String,
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
    /// Creates or updates the CustomResourceDefinitions, and waits until they are served. May be repeated.
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
}

fn filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// How logs are written.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
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
