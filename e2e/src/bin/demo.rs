//! Wires the demo to its process.

use std::process::ExitCode;

use clap::Parser;
use maroonedpods_e2e::demo;

/// Shows MaroonedPods at work: a real control plane, our webhook and reconciler, and a played KubeVirt.
///
/// Creates a Deployment and a Job that are marooned, next to an ordinary pod, prints what happens to them as it
/// happens, deletes them and shows that nothing is left. The first run builds Kubernetes from source, which takes
/// minutes. Needs Rust and Go, no root, no container runtime, no network but the package registries.
#[derive(Parser)]
#[command(name = "hack/demo")]
struct Args {
    /// Leave the cluster up at the end, and print the KUBECONFIG line to use it by hand.
    #[arg(long)]
    keep: bool,
    /// Print the programs' logs too, from this level or filter on, for example "info".
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "error,kube_client=off,maroonedpods_e2e=error"
    )]
    log: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(&args.log)
        .with_writer(std::io::stderr)
        .init();
    let outcome = tokio::select! {
        outcome = demo::run(args.keep) => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\ninterrupted; everything is being cleaned up");
            return ExitCode::from(130);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nhack/demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
