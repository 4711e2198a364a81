//! The program behind `hack/image`: its arguments, output and exit code.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use maroonedpods_image_build::Profile;
use maroonedpods_image_build::program_images::{self, Options};

/// Builds the container images of the webhook and the reconciler, as OCI archives.
///
/// Each image is one static program that runs as an unprivileged user (65532), and its bill of materials (CycloneDX),
/// which also lies beside the archive. They are written to images/ in cargo's target folder. The same commit gives the same
/// digests: files are dated by the commit, or by `SOURCE_DATE_EPOCH`. Needs Rust and a C compiler, no root, no
/// container runtime, no registry.
///
/// Import one on a node with `ctr --namespace k8s.io images import FILE`, or push it with
/// `skopeo copy oci-archive:FILE docker://NAME`.
#[derive(Parser)]
#[command(name = "hack/image")]
struct Args {
    /// Registry and path to put before the images' names, such as "registry.example/team".
    #[arg(long, default_value = "")]
    registry: String,
    /// Tag of the images. The programs' version where it is not given.
    #[arg(long)]
    tag: Option<String>,
    /// How to compile: "release" takes minutes, "test" is quicker and gives larger, slower programs.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hack/image failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    eprintln!("building both programs, static (the first time takes minutes)");
    let images = program_images::build(&Options {
        registry: args.registry,
        tag: args.tag,
        profile: args.profile,
    })?;
    for image in [images.webhook, images.reconciler] {
        println!("{}", image.name);
        println!("  archive  {} ({} bytes)", image.archive.display(), image.size);
        println!("  digest   {}", image.digest);
        println!("  sbom     {}", image.sbom.display());
    }
    Ok(())
}
