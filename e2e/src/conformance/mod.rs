//! Kubernetes' own tests, on a cluster of ours: on ordinary nodes, or with every pod of theirs marooned.

mod choice;
mod images;
mod known;
mod opt_in;
mod programs;
mod report;
mod state;
mod suite;
mod witness;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use futures::stream::{self, StreamExt};
use maroonedpods_image_build::command::say;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::signal;

pub use self::choice::List;
use self::programs::SUITE;
use self::report::markdown;
use self::state::{State, progress};
use self::suite::Suite;
use self::witness::Witness;
use crate::cluster::{CLUSTER_DOMAIN, Cluster, ClusterOptions, missing_rights, on_cluster, provide_packages};
use crate::harness::real_env::{Archives, RealEnv, provide_tools};
use crate::install::dns;
use crate::kubevirt::Kvm;
use crate::system::tools;

/// Each carries two VMs beside its own programs where all share two processors.
const HOSTS: u8 = 3;

/// Where the suite's pods run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// On the harness' ordinary nodes: what fails there is the harness' fault.
    Nodes,
    /// Each marooned, in a VM of its own.
    Vms,
}

/// What runs, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where pods run.
    pub on: On,
    /// Which specs.
    pub list: List,
    /// Of these, only those that match this regular expression of Go's.
    pub focus: Option<String>,
    /// How many at once.
    pub procs: usize,
    /// Whether specs that have passed run again.
    pub fresh: bool,
    /// Whether VMs use KVM.
    pub kvm: Kvm,
}

impl On {
    fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Vms => "vms",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Nodes => "Kubernetes' conformance specs on ordinary nodes",
            Self::Vms => "Kubernetes' conformance specs, marooned",
        }
    }
}

/// What is made before there is a cluster: from its network nothing can be downloaded.
struct Made {
    programs: PathBuf,
    images: Vec<PathBuf>,
    dns: PathBuf,
    /// With VMs.
    archives: Option<Archives>,
    /// Whose results are kept: other programs have others.
    build: String,
}

/// Runs the specs, and writes what came of them below cargo's target folder. Blocks.
///
/// # Errors
/// When the cluster does not start, or there are no such specs.
pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(rights) = missing_rights() {
        bail!("the suite needs real nodes, and {rights}");
    }
    let start = Instant::now();
    let folder = tempfile::tempdir()?;
    let made = make(options, folder.path())?;
    let suite = made.programs.join(SUITE);
    let all = suite::list(&suite, None)?;
    choice::check(&all)?;
    let specs = match options.focus.as_deref() {
        Some(focus) => suite::list(&suite, Some(focus))?,
        None => all,
    };
    let specs = options.list.of(specs);
    ensure!(
        !specs.is_empty(),
        "no spec of the list has a full name that --focus matches: names have tags such as [Conformance] also in their \
         middle, and in a regular expression a bracket is written \\["
    );
    let results = target().join("conformance").join(options.on.name());
    let mut state = State::open(&results, &made.build)?;
    if options.fresh {
        state.forget(&specs)?;
    }
    let left = state.left(specs.clone());
    say(&format!(
        "made all in {} s; {} of {} specs to run, their results in {}",
        start.elapsed().as_secs(),
        left.len(),
        specs.len(),
        results.display()
    ));
    if !left.is_empty() {
        let cluster = ClusterOptions {
            nodes: HOSTS,
            ..made.archives.as_ref().map(Archives::cluster).unwrap_or_default()
        };
        let interrupted = on_cluster(cluster, async |cluster| {
            let work = Box::pin(on_cluster_of(
                options, &made, cluster, &left, &results, &mut state,
            ));
            tokio::select! {
                outcome = work => outcome.map(|()| false),
                pressed = signal::ctrl_c() => {
                    pressed?;
                    say("\ninterrupted; everything is being cleaned up, and a rerun goes on from here");
                    Ok(true)
                }
            }
        })?;
        if interrupted {
            return Ok(ExitCode::from(130));
        }
    }
    let ends = state.results(&specs);
    print!("{}", markdown(options.on.title(), &ends));
    let known = match options.on {
        On::Nodes => &[][..],
        On::Vms => &known::KNOWN,
    };
    for (spec, reason) in known.iter().filter(|(spec, _)| ends.contains_key(*spec)) {
        say(&format!("{spec} cannot pass by design: {reason}"));
    }
    let surprises = known::surprises(known, &ends);
    for surprise in &surprises {
        say(surprise);
    }
    Ok(if surprises.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn make(options: &Options, folder: &Path) -> Result<Made> {
    provide_packages()?;
    provide_tools()?;
    let programs = programs::build()?;
    let images = images::build(&programs)?;
    let archives = match options.on {
        On::Nodes => {
            tools::prepare_nodes()?;
            None
        }
        On::Vms => Some(Archives::with_images(&images)?),
    };
    let mut build = Sha256::new();
    build.update(programs.display().to_string());
    for image in &images {
        build.update(image.display().to_string());
    }
    for digest in archives.iter().flat_map(Archives::digests) {
        build.update(digest);
    }
    Ok(Made {
        dns: dns::image(folder)?,
        build: format!("{:x}", build.finalize()),
        programs,
        images,
        archives,
    })
}

async fn on_cluster_of(
    options: &Options,
    made: &Made,
    cluster: Cluster,
    specs: &[String],
    results: &Path,
    state: &mut State,
) -> Result<()> {
    let start = Instant::now();
    let admin = cluster.control_plane().admin().await?;
    for archive in made.images.iter().chain([&made.dns]) {
        cluster.import(archive).await?;
    }
    match &made.archives {
        Some(archives) => {
            // Pods' logs are read after their ends.
            let config = json!({"deadlines": {"boot": "4m", "join": "5m", "finishedPodTTL": "60s"}});
            RealEnv::install(&cluster, archives, options.kvm, &config).await?;
            opt_in::opt_in(&admin).await?;
        }
        None => dns::make_service(&admin).await?,
    }
    dns::serve(&admin, CLUSTER_DOMAIN).await?;
    say(&format!(
        "the cluster is up after {} s",
        start.elapsed().as_secs()
    ));

    let scratch = cluster.control_plane().folder().join("suite");
    let logs = results.join("logs");
    for folder in [&scratch, &logs] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let suite = Suite {
        program: made.programs.join(SUITE),
        kubeconfig: cluster.control_plane().kubeconfig().to_owned(),
        scratch,
        logs,
        witness: made.archives.as_ref().map(|_| Witness::new(&admin)),
    };
    let start = Instant::now();
    let mut ends = stream::iter(specs)
        .map(async |spec| (spec, suite.run(spec).await))
        .buffer_unordered(options.procs);
    let mut done = 0;
    while let Some((spec, ended)) = ends.next().await {
        let ended = ended.with_context(|| format!("running {spec}"))?;
        done += 1;
        println!("{}", progress(done, specs.len(), spec, &ended, start.elapsed()));
        state.add(spec, ended, options.on.title())?;
    }
    drop(ends);
    drop(suite);
    say(&format!("the specs took {} s", start.elapsed().as_secs()));
    cluster.stop().await
}

/// Cargo's target folder.
fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"),
    }
}
