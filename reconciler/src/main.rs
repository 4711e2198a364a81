//! Wires the reconciler to its process: arguments, logs, signals, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use maroonedpods_reconciler::args::LogFormat;
use maroonedpods_reconciler::{Args, run};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    start_logs(&args);
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::warn!("a TLS crypto provider was installed before ours");
    }
    match run(args, terminated()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "ended");
            ExitCode::FAILURE
        }
    }
}

fn start_logs(args: &Args) {
    // The command line's parser has tried it already.
    let filter = EnvFilter::new(&args.log_level);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}

/// SIGTERM or SIGINT. Where no handler can be set, the signals keep ending the process by themselves.
async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
