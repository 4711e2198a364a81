//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use maroonedpods_common::names;

use crate::certs::args::CertsArgs;

/// Gives each marooned pod a virtual machine of its own as its node, and takes it away with the pod.
///
/// Watches pods that the webhook gated, makes a KubeVirt VirtualMachineInstance for each, lets it join the cluster
/// with a one-time credential, lifts the gate when the node is ready and verified, and cleans up afterwards.
/// Configured by the MaroonedPodsConfig named "default".
#[derive(Parser, Clone, Debug)]
#[command(version)]
pub struct Args {
    /// Kubeconfig file. Without it: $KUBECONFIG, ~/.kube/config, then the pod's own service account.
    #[arg(long, env = "MAROONEDPODS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace in which VMs and their join data are made. Nobody else should hold rights there.
    #[arg(long, env = "MAROONEDPODS_VM_NAMESPACE", value_name = "NAME", default_value = names::VM_NAMESPACE)]
    pub vm_namespace: String,
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
    /// Namespace of the lease.
    #[arg(
        long,
        env = "MAROONEDPODS_LEASE_NAMESPACE",
        value_name = "NAME",
        default_value = "maroonedpods-system"
    )]
    pub lease_namespace: String,
    /// How the webhook gets its certificate.
    #[command(flatten)]
    pub certs: CertsArgs,
    /// How logs are written.
    #[arg(long, env = "MAROONEDPODS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as "info,kube=debug".
    #[arg(
        long,
        env = "MAROONEDPODS_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info", value_parser = filter)]
    pub log_level: String,
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
        Args::command().debug_assert();
    }
}
