//! The command line. Every flag can be given as an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use jiff::SignedDuration;
use tracing::level_filters::LevelFilter;

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
    /// Address of the TLS port: POST /mutate, POST /mutate/enforced, GET /healthz, GET /readyz
    #[arg(long, env = "MAROONEDPODS_BIND", default_value = "0.0.0.0:8443")]
    pub bind: SocketAddr,

    /// Address of the plain port: GET /metrics, GET /healthz, GET /readyz
    #[arg(long, env = "MAROONEDPODS_METRICS_BIND", default_value = "0.0.0.0:8080")]
    pub metrics_bind: SocketAddr,

    /// Folder with the serving certificate, tls.crt and tls.key (PEM), such as a mounted Secret. Followed by
    /// content: a renewed pair is served without a restart, an unusable one leaves the last good one in service
    #[arg(long, env = "MAROONEDPODS_TLS_DIR", value_name = "DIR")]
    pub tls_dir: PathBuf,

    /// Certificates (PEM) of the authorities that sign the API server's client certificate. Only clients with such a
    /// certificate are served then; without this flag, every client is. Followed by content, like the pair
    #[arg(long, env = "MAROONEDPODS_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,

    /// How often the certificate files are looked at
    #[arg(long, env = "MAROONEDPODS_RELOAD_INTERVAL", default_value = "2s", value_name = "DURATION",
          value_parser = duration)]
    pub reload_interval: Duration,

    /// Connections to the TLS port at a time. For one more, the one that has been idle longest goes, of the client that
    /// has most of them
    #[arg(long, env = "MAROONEDPODS_MAX_CONNECTIONS", default_value_t = 512, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// How long a connection may ask nothing before it is closed. Longer than the API server keeps an idle one (90 s): a
    /// connection that closes as the next request is sent fails that request
    #[arg(long, env = "MAROONEDPODS_IDLE_TIMEOUT", default_value = "2m", value_name = "DURATION",
          value_parser = lasting)]
    pub idle_timeout: Duration,

    /// How long to keep serving after SIGTERM, unready, until no endpoint points here any more
    #[arg(long, env = "MAROONEDPODS_SHUTDOWN_DELAY", default_value = "10s", value_name = "DURATION",
          value_parser = duration)]
    pub shutdown_delay: Duration,
}

/// How to log, on standard error.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LogArgs {
    /// Shape of a log line
    #[arg(
        long = "log-format",
        env = "MAROONEDPODS_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub format: LogFormat,

    /// Least level that is logged: off, error, warn, info, debug or trace
    #[arg(
        long = "log-level",
        env = "MAROONEDPODS_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub level: LevelFilter,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// A duration such as `10s`, `1m 30s` or `500ms`; never negative.
fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; a duration looks like 10s or 1m30s"))?;
    Duration::try_from(duration).map_err(|_| "a duration cannot be negative".to_owned())
}

/// The same, above zero.
fn lasting(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|duration| {
        let refused = "it must be above zero";
        (!duration.is_zero())
            .then_some(duration)
            .ok_or_else(|| refused.to_owned())
    })
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

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "10", "-1s", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(lasting("0s").is_err() && lasting("1s").is_ok());
    }
}
