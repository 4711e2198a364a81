//! One node: containerd, kubelet and kube-proxy in namespaces of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, iter, thread};

use anyhow::{Context, Result, bail, ensure};
use maroonedpods_image_build::command::last_lines;

use super::cgroup::{self, Groups};
use super::namespaces::{self, Namespaces};
use super::requirements::Programs;
use super::{DNS_ADDRESS, config, mounts, network, store};
use crate::system::process::Processes;
use crate::system::tools::{self, Tool};

/// A start of containerd that takes longer has failed. Usual is half a second.
const CONTAINERD_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// The label of real nodes, for pods that must not run on simulated ones: `e2e.maroonedpods.io/real: "true"`.
pub const REAL_LABEL: &str = "e2e.maroonedpods.io/real";
/// Becomes the program that follows, in namespaces of its own; its parent makes the one of process ids.
const UNSHARE: [&str; 10] = [
    "unshare",
    "--cgroup",
    "--ipc",
    "--mount",
    "--net",
    "--uts",
    "--propagation",
    "private",
    "--mount-proc",
    "--",
];
/// Namespace of containerd that Kubernetes uses.
const IMAGES: &str = "k8s.io";

/// What a node is made from.
pub(super) struct Plan {
    /// From 1 on.
    pub(super) number: u8,
    /// How many nodes there are.
    pub(super) nodes: u8,
    /// Name of its control groups, which must differ from all others on the machine.
    pub(super) groups: String,
    /// Its folder, with `ca.crt`, `kubelet.crt`, `kubelet.key`, `kubelet.kubeconfig` and `kube-proxy.kubeconfig`
    /// in it.
    pub(super) folder: PathBuf,
    /// OCI archive of the sandbox image.
    pub(super) pause: PathBuf,
    /// See [`super::ClusterOptions::images`].
    pub(super) images: Option<PathBuf>,
    pub(super) programs: Programs,
}

/// A running node. Everything of it ends when this is dropped, and when process [`Node::first_process`] or this
/// one is killed.
#[derive(Debug)]
pub struct Node {
    // Fields drop in this order. The first process ends last, because it cannot end before the others have been
    // reaped; and groups go when they are empty.
    components: Processes,
    first: Processes,
    groups: Groups,
    name: String,
    folder: PathBuf,
    first_process: u32,
}

impl Plan {
    /// The node's name.
    pub(super) fn name(&self) -> String {
        format!("node-{}", self.number)
    }
}

impl Node {
    /// Name of its Node object, such as `node-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, with the logs `containerd.log`, `kubelet.log` and `kube-proxy.log`, and those of its pods in
    /// `log/pods`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Id of the process with which the node ends.
    #[must_use]
    pub fn first_process(&self) -> u32 {
        self.first_process
    }

    /// Starts a node's programs; the control plane must serve. Call it in the control plane's network. Blocks.
    pub(super) fn start(plan: &Plan) -> Result<Self> {
        let groups = Groups::new(&plan.groups)?;
        let first = Processes::prepared(namespaces::new_process_ids)?;
        let first_process = start_first(&first, &groups, &plan.folder)?;
        groups.delegate()?;
        network::ip(&network::veth(plan.number, first_process))?;

        let inside = Namespaces::of(first_process)?;
        inside.run(|| {
            mounts::arrange(&plan.folder, &groups.mounts())?;
            fs::write("/proc/sys/kernel/hostname", plan.name())?;
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            network::ip(&network::of_node(plan.number, plan.nodes))
        })?;
        let components = Processes::prepared(move || inside.enter())?;
        let node = Self {
            components,
            first,
            groups,
            name: plan.name(),
            folder: plan.folder.clone(),
            first_process,
        };
        node.start_components(plan)?;
        Ok(node)
    }

    fn start_components(&self, plan: &Plan) -> Result<()> {
        let folder = &plan.folder;
        let shim = tools::find(Tool::ContainerdShim)?;
        let containerd = config::containerd(folder, &shim, &plan.programs.runc, &plan.programs.cni);
        self.write("containerd.toml", &containerd)?;
        let pods = config::pod_network(&network::pod_range(plan.number));
        self.write("cni/10-pods.conflist", &format!("{pods:#}\n"))?;
        let address = network::node_address(plan.number);
        self.write(config::RESOLVER, &format!("nameserver {DNS_ADDRESS}\n"))?;
        let kubelet = config::kubelet(folder, address);
        self.write("kubelet.yaml", &format!("{kubelet:#}\n"))?;
        let kube_proxy = config::kube_proxy(folder, &self.name);
        self.write("kube-proxy.yaml", &format!("{kube_proxy:#}\n"))?;

        if let Some(images) = &plan.images {
            store::share(images, &folder.join(config::CONTAINERD_ROOT))?;
        }
        self.launch(Tool::Containerd, &["--config=@/containerd.toml".to_owned()])?;
        self.await_containerd()?;
        self.import(&plan.pause)?;
        self.launch(
            Tool::Kubelet,
            &[
                "--kubeconfig=@/kubelet.kubeconfig".to_owned(),
                "--config=@/kubelet.yaml".to_owned(),
                format!("--hostname-override={}", self.name),
                format!("--node-ip={address}"),
                format!("--node-labels={REAL_LABEL}=true"),
            ],
        )?;
        self.launch(Tool::KubeProxy, &["--config=@/kube-proxy.yaml".to_owned()])
    }

    /// Starts a component in the node. `@` in a flag stands for the node's folder.
    fn launch(&self, tool: Tool, flags: &[String]) -> Result<()> {
        let folder = self.folder.display().to_string();
        let program = tools::find(tool)?.display().to_string();
        let command = iter::once(program).chain(flags.iter().map(|flag| flag.replace('@', &folder)));
        let arguments = in_groups(&self.groups.joined_from_inside(), command);
        let log = self.folder.join(format!("{}.log", tool.name()));
        self.components
            .start(tool.name(), Path::new("sh"), &arguments, &log)?;
        Ok(())
    }

    /// Imports an OCI archive; see [`super::Cluster::import`]. Blocks.
    pub(super) fn import(&self, archive: &Path) -> Result<()> {
        self.ctr(&["images", "import", &archive.display().to_string()])
            .with_context(|| format!("importing {} on {}", archive.display(), self.name))?;
        let names = self.ctr(&["images", "list", "--quiet"])?;
        if let Some(name) = names.lines().find(|name| is_bare(name)) {
            bail!(
                "Kubernetes completes the name {name:?} of an imported image, and finds it no more: call it localhost/{name}"
            );
        }
        Ok(())
    }

    /// Pushes an image to a registry; see [`super::Cluster::push`]. Blocks.
    pub(super) fn push(&self, image: &str, reference: &str) -> Result<()> {
        self.ctr(&["images", "push", "--plain-http", reference, image])
            .map(drop)
    }

    fn await_containerd(&self) -> Result<()> {
        let start = Instant::now();
        while let Err(error) = self.ctr(&["version"]) {
            self.check()?;
            if start.elapsed() > CONTAINERD_LIMIT {
                return Err(error.context(format!("containerd of {} does not answer", self.name)));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(tools::find(Tool::Ctr)?)
            .arg(format!(
                "--address=/proc/{}/root{}",
                self.first_process,
                config::SOCKET
            ))
            .arg(format!("--namespace={IMAGES}"))
            .args(arguments)
            .output()?;
        ensure!(
            output.status.success(),
            "ctr {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// An error when one of its programs has ended.
    pub(super) fn check(&self) -> Result<()> {
        for processes in [&self.first, &self.components] {
            if let Some(ended) = processes.ended()? {
                bail!(
                    "{} of {} ended ({}): {}",
                    ended.name,
                    self.name,
                    ended.status,
                    last_lines(&ended.log, 5)
                );
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
    }
}

/// Whether an image's name has no registry in it. (Kubernetes also names each by its digest.)
fn is_bare(name: &str) -> bool {
    !name.contains('/') && !name.starts_with("sha256:")
}

/// Starts the process that holds the node's namespaces, and returns its id.
fn start_first(processes: &Processes, groups: &Groups, folder: &Path) -> Result<u32> {
    let pause = tools::find(Tool::Pause)?.display().to_string();
    let command = UNSHARE.map(str::to_owned).into_iter().chain([pause]);
    let arguments = in_groups(&groups.joined_from_outside(), command);
    let log = folder.join("first-process.log");
    let id = processes.start("the first process", Path::new("sh"), &arguments, &log)?;
    // It has its namespaces once it is no longer `sh` or `unshare`.
    while fs::read_to_string(format!("/proc/{id}/comm"))?.trim() != Tool::Pause.name() {
        if let Some(ended) = processes.ended()? {
            bail!(
                "making a node's namespaces failed ({}): {}",
                ended.status,
                last_lines(&log, 5)
            );
        }
        thread::sleep(POLL);
    }
    Ok(id)
}

/// Arguments of `sh` that run `command` in control groups.
fn in_groups(procs: &[PathBuf], command: impl Iterator<Item = String>) -> Vec<String> {
    let script = ["-c", cgroup::JOIN, "join"].map(str::to_owned);
    let procs = procs.iter().map(|path| path.display().to_string());
    script
        .into_iter()
        .chain(procs)
        .chain(["--".to_owned()])
        .chain(command)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_says_no_registry() {
        assert!(is_bare("maroonedpods-webhook:0.1.0"));
        assert!(!is_bare("localhost/pause:1"));
        assert!(!is_bare("sha256:0000"));
    }
}
