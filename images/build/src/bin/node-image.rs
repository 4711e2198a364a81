//! The program behind `hack/node-image`: its arguments, output and exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use maroonedpods_image_build::Profile;
use maroonedpods_image_build::node_image::{self, Arch, Options};

/// Builds the node image, which a marooned pod's VM boots, as an OCI archive.
///
/// The image holds a disk (/disk/node.img, a KubeVirt containerDisk) and kernel and initrd for KubeVirt's kernelBoot.
/// It is written to images/node/ in cargo's target folder, with its bill of materials (CycloneDX) and, for QEMU, the
/// same files plain: node.img, vmlinuz, initrd. The same commit and the same Debian packages give the same digest.
///
/// Kernel and tools are Debian's, of the release that this machine's apt is set up for; they are fetched and unpacked
/// below the target folder, and nothing is installed. Kubelet and containerd are built from hack/tools. Needs apt-get,
/// dpkg-deb, Go, Rust and a C compiler, no root. For another architecture than this machine's, Debian's Rust (rustc-web)
/// is fetched and unpacked, too.
#[derive(Parser)]
#[command(name = "hack/node-image")]
struct Args {
    /// Tag of the image. The programs' version where it is not given.
    #[arg(long)]
    tag: Option<String>,
    /// What the image is for.
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    arch: Arch,
    /// How to compile the boot program: "release" takes longer, "test" gives a larger one.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Static kubelet to take, for clusters older than the one that is built from hack/tools: a kubelet must not be newer
    /// than the API server.
    #[arg(long, value_name = "FILE")]
    kubelet: Option<PathBuf>,
    /// File of Debian package sources (NAME.sources or NAME.list) to use in place of the machine's own.
    #[arg(long, value_name = "FILE")]
    sources: Option<PathBuf>,
    /// OCI archive of a further image, of one layer, that pods find without a registry. May be given several times.
    #[arg(long, value_name = "FILE")]
    preload: Vec<PathBuf>,
    /// Look for newer Debian packages; those found the first time are kept otherwise.
    #[arg(long)]
    update: bool,
    /// Build twice, and fail unless both give the same image.
    #[arg(long)]
    check: bool,
    /// Write only what images/node/Containerfile.node takes of us, the boot program and the image of pods' sandboxes.
    #[arg(long, value_name = "FOLDER", conflicts_with = "check")]
    parts_into: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hack/node-image failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let options = Options {
        tag: args.tag,
        arch: args.arch,
        profile: args.profile,
        kubelet: args.kubelet,
        sources: args.sources.map(std::path::absolute).transpose()?,
        preload: args.preload,
        update: args.update,
    };
    if let Some(folder) = args.parts_into {
        return node_image::write_parts(&options, &folder);
    }
    let image = node_image::build(&options)?;
    if args.check {
        let again = node_image::build(&options)?;
        anyhow::ensure!(
            again.digest == image.digest,
            "built twice, and the digests differ: {} and {}",
            image.digest,
            again.digest
        );
        println!("built twice, with the same digest");
    }
    println!("{}", image.name);
    println!("  archive  {}", image.archive.display());
    println!("  digest   {}", image.digest);
    println!("  sbom     {}", image.sbom.display());
    println!("  disk     {}", image.disk.display());
    println!("  kernel   {}", image.kernel.display());
    println!("  initrd   {}", image.initrd.display());
    println!("sizes on the root file system");
    print!("{}", image.sizes.table());
    Ok(())
}
