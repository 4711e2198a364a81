//! Wires the reconciler to its process: arguments, logs, signals, exit code.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use maroonedpods_reconciler::{Cli, Cluster, Command, apply_crds, preflight, run, uninstall, without_bodies};
use maroonedpods_server::program::{LogArgs, stop_signal};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let LogArgs { format, filter } = cli.log.clone();
    let filter = without_bodies(filter);
    LogArgs { format, filter }.start();
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
        Command::Run(args) => run(cluster, args, stop_signal()?).await?,
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
