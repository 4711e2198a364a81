//! The command line. Every flag can be given as an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use maroonedpods_server::IDLE_TIMEOUT;
use maroonedpods_server::program::{LogArgs, duration, positive_duration};

/// The whole command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "maroonedpods-webhook",
    version,
    about = "The mutating admission webhook of MaroonedPods: gates opted-in pods at creation",
    long_about = None
)]
pub struct Cli {
    /// What the server needs.
    #[command(flatten)]
    pub server: Args,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What the server needs to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address of the TLS port: POST /mutate, POST /mutate/enforced, GET /livez, GET /readyz
    #[arg(long, env = "MAROONEDPODS_BIND", default_value = "0.0.0.0:8443")]
    pub bind: SocketAddr,

    /// Address of the plain port: GET /metrics, GET /livez, GET /readyz
    #[arg(long, env = "MAROONEDPODS_METRICS_BIND", default_value = "0.0.0.0:8080")]
    pub metrics_bind: SocketAddr,

    /// Folder with the serving certificate, tls.crt and tls.key (PEM), such as a mounted Secret. Followed by
    /// content: a renewed pair is served without a restart, an unusable one leaves the last good one in service
    #[arg(long, env = "MAROONEDPODS_TLS_DIR", value_name = "DIR")]
    pub tls_dir: PathBuf,

    /// Certificates (PEM) of the authorities that sign the API server's client certificate. With this flag, only
    /// clients with such a certificate are served. Followed by content, like the pair
    #[arg(long, env = "MAROONEDPODS_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,

    /// How often the certificate files are checked
    #[arg(long, env = "MAROONEDPODS_RELOAD_INTERVAL", default_value = "2s", value_name = "DURATION",
          value_parser = duration)]
    pub reload_interval: Duration,

    /// Connections to the TLS port at a time. A new one beyond that closes the one that has been idle longest, of the
    /// client that has most of them
    #[arg(long, env = "MAROONEDPODS_MAX_CONNECTIONS", default_value_t = 512, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// How long a connection may stay idle before it is closed. Longer than the API server keeps an idle one (90 s): a
    /// connection that closes as the next request is sent fails that request
    #[arg(long, env = "MAROONEDPODS_IDLE_TIMEOUT", default_value = seconds(IDLE_TIMEOUT), value_name = "DURATION",
          value_parser = positive_duration)]
    pub idle_timeout: Duration,

    /// How long to keep serving after SIGTERM, unready, until no endpoint points to this pod any more
    #[arg(long, env = "MAROONEDPODS_SHUTDOWN_DELAY", default_value = "10s", value_name = "DURATION",
          value_parser = duration)]
    pub shutdown_delay: Duration,
}

/// Shown in whole seconds, as the command line reads it.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let arguments: Vec<_> = Cli::command().get_arguments().cloned().collect();
        for argument in arguments {
            let name = argument.get_long().unwrap().replace('-', "_").to_uppercase();
            let variable = format!("MAROONEDPODS_{name}");
            assert_eq!(
                argument.get_env().and_then(std::ffi::OsStr::to_str),
                Some(variable.as_str())
            );
        }
    }
}
