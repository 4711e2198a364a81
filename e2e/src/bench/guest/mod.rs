//! Real guests on a real cluster: how long a node takes to be one, and what it costs its host; beside a stock Debian
//! guest, boot by boot in turns.

mod boot;
mod console;
mod launcher;
mod monitor;
mod qemu;
mod sizes;
mod stock;
mod tables;
mod variants;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use maroonedpods_common::api::KernelBootConfig;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::boot::{Boot, Watch, boot};
use self::sizes::Sizes;
use self::variants::Variant;
use super::{Report, notes};
use crate::api::namespace::TestNamespace;
use crate::cluster::{Cluster, ClusterOptions, provide, with_cluster};
use crate::harness::real_env::{Archives, RealEnv};
use crate::install::config;
use crate::kubevirt::Kvm;

/// The stock guest's column.
const STOCK: &str = "stock";
/// What both guests have; a stock system is not at ease with less.
const MEMORY_MI: u64 = 512;
/// The sizes that are tried, from the least that the configuration takes.
const SMALLER_MI: [u64; 3] = [256, 320, 384];
/// For a guest to run its pod. An emulated stock one may take minutes.
const RUN_LIMIT: Duration = Duration::from_secs(420);
/// The same for ours where memory may be too little for it.
const SMALL_LIMIT: Duration = Duration::from_secs(120);

const METHOD: [&str; 2] = [
    "real: the control plane, containerd, the kubelets, KubeVirt, the installed chart with our images, and all of the guest; \
     on this machine alone",
    "power-on is when QEMU's process starts; it waits for libvirt before the guest's first instruction",
];

/// How often to boot, and how long to look at an idle guest.
#[derive(Clone, Debug)]
pub struct Effort {
    quick: bool,
    boots: usize,
    idle: Duration,
    with_stock: bool,
    variants: Vec<Variant>,
}

impl Effort {
    /// Five boots of each guest; or, `quick`, one.
    #[must_use]
    pub fn new(quick: bool, with_stock: bool) -> Self {
        let (boots, idle) = if quick { (1, 10) } else { (5, 30) };
        Self {
            quick,
            boots,
            idle: Duration::from_secs(idle),
            with_stock,
            variants: Vec::new(),
        }
    }

    /// In turns with ours, also the guests of this file: a YAML list of `name`, `archive` (of a node image) and `config`
    /// (merged into the spec of the `MaroonedPodsConfig`).
    ///
    /// # Errors
    /// The file cannot be read, or is no such list.
    pub fn beside(self, variants: &Path) -> Result<Self> {
        let variants = variants::read(variants)?;
        Ok(Self { variants, ..self })
    }
}

/// The figures of one kind of guest.
#[derive(Debug, Serialize)]
pub struct Guest {
    name: String,
    /// Not known of node images that were given.
    sizes: Option<Sizes>,
    boots: Vec<Boot>,
}

/// A kind of guest, and how it is asked for.
struct Kind {
    figures: Guest,
    /// Of the spec of the `MaroonedPodsConfig`.
    config: Value,
    watch: Watch,
}

/// All figures.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// KubeVirt's version.
    kubevirt: String,
    /// Of the machine, in the last minute before the first boot, with the cluster idle.
    load_before: f64,
    ours: Guest,
    /// In turns with ours, the stock guest first.
    others: Vec<Guest>,
    /// With the smallest memory, of those tried, that our guest ran its pod with; none where only the usual will do, or where
    /// other guests than the stock one were measured.
    smallest: Option<Boot>,
}

/// Measures. Needs root. Blocks, for as long as it takes.
///
/// # Errors
/// There is no right to run nodes, something cannot be built, or a guest does not come up.
pub fn run(effort: &Effort) -> Result<Report<Figures>> {
    ensure!(
        provide()?,
        "real guests need real nodes, and these root with the right to make namespaces: run it as root"
    );
    let archives = Archives::make(None)?;
    let folder = TempDir::new()?;
    let stock = effort
        .with_stock
        .then(|| stock::build(folder.path(), &[archives.toolbox()]))
        .transpose()?;
    let mut figures = None;
    let options = ClusterOptions {
        nodes: 1,
        ..archives.cluster()
    };
    with_cluster(options, async |cluster| {
        let measured = tokio::select! {
            measured = measure(&cluster, &archives, stock.as_ref(), effort) => measured,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; everything is being cleaned up")),
        };
        let stopped = cluster.stop().await;
        figures = Some(measured.and_then(|figures| stopped.map(|()| figures)));
    })?;
    let figures = figures.context("the cluster did not run")??;
    Ok(Report::new(
        notes(effort.quick, METHOD.map(str::to_owned)),
        tables::aims(&figures),
        tables::all(&figures),
        figures,
    ))
}

async fn measure(
    cluster: &Cluster,
    archives: &Archives,
    stock: Option<&stock::Stock>,
    effort: &Effort,
) -> Result<Figures> {
    if let Some(stock) = stock {
        cluster.import(&stock.archive).await?;
    }
    for archive in effort
        .variants
        .iter()
        .filter_map(|variant| variant.archive.as_ref())
    {
        cluster.import(archive).await?;
    }
    // cloud-init gives the NIC no other name than the kernel's, which must be the seed's then. Ours has no udev to tell.
    let kernel_args = format!("{} net.ifnames=0", KernelBootConfig::default().kernel_args);
    // A slow machine is to be measured, not given up.
    let config = json!({
        "nodeImage": archives.node().name,
        "kernelBootConfig": {"kernelArgs": kernel_args},
        "deadlines": {"boot": "10m", "join": "10m", "finishedPodTTL": "5s"},
        "baseVMResources": {"cpu": 1, "memoryMi": MEMORY_MI},
    });
    let env = RealEnv::install(cluster, archives, Kvm::Auto, &config).await?;
    let namespace = TestNamespace::new(&env.admin, &[]).await?;
    let watch = Watch {
        limit: RUN_LIMIT,
        idle: effort.idle,
        markers: &console::OURS,
    };
    let load_before = load()?;
    let mut kinds = kinds(archives, stock, effort, watch)?;
    for round in 1..=effort.boots {
        for kind in &mut kinds {
            configure(&env, &kind.config).await?;
            let boot = one(&kind.figures.name, round, &env, &namespace.name, kind.watch).await?;
            kind.figures.boots.push(boot);
            configure(&env, &variants::undone(&kind.config, &config)).await?;
        }
    }
    let smallest = if effort.variants.is_empty() {
        smallest(&env, &namespace.name, watch).await?
    } else {
        None
    };
    namespace.close(&env.admin).await?;
    let mut guests = kinds.into_iter().map(|kind| kind.figures);
    Ok(Figures {
        kubevirt: archives.kubevirt().version().to_owned(),
        load_before,
        ours: guests.next().context("ours was not measured")?,
        others: guests.collect(),
        smallest,
    })
}

/// Ours first.
fn kinds(
    archives: &Archives,
    stock: Option<&stock::Stock>,
    effort: &Effort,
    watch: Watch,
) -> Result<Vec<Kind>> {
    let kind = |name: &str, sizes, config, watch| Kind {
        figures: Guest {
            name: name.to_owned(),
            sizes,
            boots: Vec::new(),
        },
        config,
        watch,
    };
    let mut kinds = vec![kind(
        "ours",
        Some(Sizes::of_ours(archives.node())?),
        json!({}),
        watch,
    )];
    kinds.extend(stock.map(|stock| {
        let markers = &console::STOCK;
        let config = json!({"nodeImage": stock::IMAGE});
        kind(STOCK, Some(stock.sizes), config, Watch { markers, ..watch })
    }));
    let variants = effort.variants.iter();
    kinds.extend(variants.map(|variant| kind(&variant.name, None, variant.config.clone(), watch)));
    Ok(kinds)
}

async fn one(who: &str, round: usize, env: &RealEnv<'_>, namespace: &str, watch: Watch) -> Result<Boot> {
    eprintln!("boot {round}, {who}");
    let boot = boot(env, namespace, watch).await?;
    let reached = boot.stages.iter().map(|(stage, at)| format!("{stage} {at:.2}"));
    eprintln!("  {}", reached.collect::<Vec<_>>().join(", "));
    Ok(boot)
}

/// Tries ever larger guests until one runs its pod; the usual size is known to.
async fn smallest(env: &RealEnv<'_>, namespace: &str, watch: Watch) -> Result<Option<Boot>> {
    for memory_mi in SMALLER_MI {
        let sized = json!({
            "baseVMResources": {"memoryMi": memory_mi},
            "resourceOverhead": {"memory": format!("{memory_mi}Mi")},
        });
        configure(env, &sized).await?;
        eprintln!("ours with {memory_mi} MiB");
        let watch = Watch {
            limit: SMALL_LIMIT,
            ..watch
        };
        match boot(env, namespace, watch).await {
            Ok(boot) => return Ok(Some(boot)),
            Err(error) => {
                let error = error.to_string();
                eprintln!("  too little: {}", error.lines().next().unwrap_or_default());
            }
        }
    }
    Ok(None)
}

/// Changes the configuration, and waits until the reconciler has seen it.
async fn configure(env: &RealEnv<'_>, spec: &Value) -> Result<()> {
    let changed = config::change(&env.admin, spec).await?;
    config::seen(&env.admin, &changed).await
}

fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    Ok(first.parse()?)
}
