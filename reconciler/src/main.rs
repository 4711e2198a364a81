//! Wires the reconciler to its process: arguments, logs, signals, exit code.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use maroonedpods_reconciler::{
    Cli, Cluster, Command, LogFormat, apply_crds, preflight, run, uninstall, without_bodies,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logs(&cli);
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::warn!("a TLS crypto provider was installed before ours");
    }
    match perform(cli).await {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(%error, "ended");
            ExitCode::FAILURE
        }
    }
}

async fn perform(cli: Cli) -> Result<ExitCode, Box<dyn Error>> {
    let cluster = Cluster::connect(cli.kubeconfig.as_deref(), cli.vm_namespace).await?;
    match cli.command {
        Command::Run(args) => run(cluster, args, terminated()).await?,
        Command::Preflight(args) => {
            let report = preflight(&cluster, args.config.as_deref()).await?;
            print!("{report}");
            return Ok(exit(report.passed()));
        }
        Command::Uninstall(args) => {
            let say = |line: &str| println!("{line}");
            return Ok(exit(uninstall(&cluster, &args, say).await?));
        }
        Command::ApplyCrds => apply_crds(&cluster).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn exit(is_well: bool) -> ExitCode {
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn start_logs(cli: &Cli) {
    // The command line's parser has tried it already.
    let filter = without_bodies(EnvFilter::new(&cli.log_level));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match cli.log_format {
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
