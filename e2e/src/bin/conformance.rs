//! The program behind `hack/conformance`: its arguments, output and exit code.

use std::process::ExitCode;

use clap::Parser;
use maroonedpods_e2e::conformance::{self, List, On, Options};
use maroonedpods_e2e::kubevirt::Kvm;
use maroonedpods_e2e::system::logs;

/// Runs Kubernetes' own conformance specs with every pod marooned, on a cluster that it starts and removes again: a control
/// plane, host nodes in private namespaces, CoreDNS, KubeVirt, the chart installed by helm.
///
/// The specs are those of the Kubernetes that the tests run (hack/tools/conformance), none of them changed: a policy opts
/// the suite's namespaces in. The images that they run are made of Kubernetes' programs and Debian's packages.
///
/// Each result is written at once, to conformance/vms/ (or nodes/) in cargo's target folder: report.md, junit.xml, and what each
/// spec printed in logs/. After Ctrl-C, or to try again what failed, run it again: specs that have passed with the same programs
/// are left out. The exit code is 0 if all of the list have passed, but for those that by design cannot with marooned pods.
///
/// The first run builds Kubernetes, its tests, KubeVirt and the images from source, which takes most of an hour. Needs root,
/// Debian's apt-get, Rust, Go and a C compiler.
#[derive(Parser)]
#[command(name = "hack/conformance", bin_name = "hack/conformance")]
struct Args {
    /// Where pods run: on ordinary nodes, as a baseline, or each in a VM.
    #[arg(long, value_enum, default_value_t = On::Vms)]
    on: On,
    /// Which specs: some that show what pods are used for, or all that can run beside others.
    #[arg(long, value_enum, default_value_t = List::Chosen)]
    list: List,
    /// Of the list, only the specs whose full names match this regular expression (of Go). Full names have tags in
    /// square brackets, also in their middle.
    #[arg(long, value_name = "RE")]
    focus: Option<String>,
    /// How many specs run at once.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=32))]
    procs: u8,
    /// Forget what has passed before of these specs.
    #[arg(long)]
    fresh: bool,
    /// Whether VMs use KVM: where it works, or never.
    #[arg(long, value_enum, default_value_t = Kvm::Auto)]
    kvm: Kvm,
}

fn main() -> ExitCode {
    let args = Args::parse();
    logs::errors();
    let options = Options {
        on: args.on,
        list: args.list,
        focus: args.focus,
        procs: usize::from(args.procs),
        fresh: args.fresh,
        kvm: args.kvm,
    };
    match conformance::run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hack/conformance failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
