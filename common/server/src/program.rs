//! What both programs do alike around their work: the log, durations on the command line, the signals that end them,
//! health pages, metrics pages and build info. Whoever runs both learns one set of flags and paths.

use std::fmt;
use std::future::{Future, ready};
use std::io::{self, IsTerminal, stderr};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use clap::ValueEnum;
use jiff::SignedDuration;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How to log, on standard error.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Shape of a log line
    #[arg(
        long = "log-format",
        global = true,
        env = "MAROONEDPODS_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value_t = LogFormat::Text
    )]
    pub format: LogFormat,

    /// What is logged: off, error, warn, info, debug, trace, or a filter such as "info,kube=debug"
    #[arg(
        long = "log-level",
        global = true,
        env = "MAROONEDPODS_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info",
        value_parser = filter
    )]
    pub filter: Targets,
}

/// A word that is not a level would be a target, and turn everything else off: a mistyped level is refused.
fn filter(text: &str) -> Result<Targets, String> {
    let filter: Targets = text
        .parse()
        .map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())?;
    if filter.default_level().is_some() || text.contains('=') {
        Ok(filter)
    } else {
        Err("it is neither a level, such as info, nor a filter, such as \"info,kube=debug\"".to_owned())
    }
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl LogArgs {
    /// Starts the log of this process.
    ///
    /// # Panics
    /// When the process has one already.
    pub fn start(self) {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal());
        let log = tracing_subscriber::registry().with(self.filter);
        match self.format {
            LogFormat::Text => log.with(lines).init(),
            LogFormat::Json => log.with(lines.json()).init(),
        }
    }
}

/// Catches SIGTERM and SIGINT from now on; the future resolves at the first.
///
/// # Errors
/// The system's, when no handler can be set.
pub fn stop_signal() -> io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Reads a duration such as `30s`, `1m 30s` or `500ms`; never negative.
///
/// # Errors
/// What is wrong with it, for the user of the command line.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; a duration looks like 30s or 1m30s"))?;
    Duration::try_from(duration).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Reads a duration above zero.
///
/// # Errors
/// What is wrong with it, for the user of the command line.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a duration must be above zero".to_owned()),
        duration => Ok(duration),
    }
}

/// The pages that the kubelet probes. `/livez` answers as long as the runtime turns; `/readyz` answers 200 with the
/// text of `Ok`, or 503 with that of `Err`.
pub fn health<F>(readiness: F) -> Router
where
    F: Fn() -> Result<String, String> + Clone + Send + Sync + 'static,
{
    let readyz = move || {
        ready(match readiness() {
            Ok(text) => (StatusCode::OK, text),
            Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
        })
    };
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
}

/// The page that a Prometheus server reads, `/metrics`. `encode` gives its text in the `OpenMetrics` format.
pub fn metrics<F>(encode: F) -> Router
where
    F: Fn() -> Result<String, fmt::Error> + Clone + Send + Sync + 'static,
{
    let scrape = move || {
        ready(match encode() {
            Ok(text) => {
                let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Ok(([(header::CONTENT_TYPE, open_metrics)], text))
            }
            Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))),
        })
    };
    Router::new().route("/metrics", get(scrape))
}

/// Registers `build_info`, whose label is the version that all our programs share.
pub fn register_build_info(registry: &mut Registry) {
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "What this program was built from", build);
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        log: LogArgs,
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(positive_duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "10", "30", "-1s", "soon"] {
            assert!(duration(bad).is_err() && positive_duration(bad).is_err(), "{bad}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn a_level_or_a_filter_is_read() {
        let filter = |text: &str| {
            Cli::try_parse_from(["test", "--log-level", text])
                .ok()
                .map(|cli| cli.log.filter)
        };
        assert_eq!(filter("warn").unwrap().default_level(), Some(LevelFilter::WARN));
        assert_eq!(filter("off").unwrap().default_level(), Some(LevelFilter::OFF));
        assert_eq!(filter("warning"), None, "a mistyped level");
        let by_target = filter("info,kube=debug").unwrap();
        assert!(by_target.would_enable("kube::client", &tracing::Level::DEBUG));
        assert!(!by_target.would_enable("hyper", &tracing::Level::DEBUG));
        assert!(filter("info,kube=loud").is_none());
    }
}
