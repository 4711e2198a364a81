//! The program behind `hack/demo`: its arguments, output and exit code.

use std::process::ExitCode;

use clap::Parser;
use maroonedpods_e2e::demo::{self, Guests, Interrupted, Options};
use maroonedpods_e2e::kubevirt::Kvm;

/// Shows MaroonedPods at work, on a cluster that it starts and removes again.
///
/// Creates a Deployment, a StatefulSet and a Job that are marooned, next to an ordinary pod; prints what happens to
/// them as it happens, deletes them and shows that nothing is left.
///
/// With root, pods run in real virtual machines: a control plane, host nodes in private namespaces, KubeVirt, the chart
/// installed by helm, and guests that boot our node image. A few programs that are missing are installed with
/// apt-get. Without root, or without apt-get, KubeVirt and the guests are simulated, and everything else is real.
///
/// The first run builds Kubernetes, KubeVirt and the images from source, which takes minutes. Needs Rust, Go and a C
/// compiler, no container runtime, no network but package registries and Debian's mirrors.
#[derive(Parser)]
#[command(name = "hack/demo")]
struct Args {
    /// What the pods' machines are; real where that is possible, when not given.
    #[arg(long, value_enum)]
    guests: Option<Guests>,
    /// Whether real machines use KVM: where it works, or never.
    #[arg(long, value_enum, default_value_t = Kvm::Auto)]
    kvm: Kvm,
    /// How many pods the Deployment has, each with a machine of its own (one processor, 512 MiB), on different hosts if there
    /// are enough. There are more host nodes where that takes them.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=50))]
    pods: u32,
    /// Leave the cluster up at the end, and print how to use it by hand.
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

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(&args.log)
        .with_writer(std::io::stderr)
        .init();
    let outcome = demo::run(Options {
        guests: args.guests,
        kvm: args.kvm,
        replicas: args.pods,
        keep: args.keep,
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("{error}");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nhack/demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
