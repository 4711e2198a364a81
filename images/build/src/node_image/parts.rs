//! Everything that goes into the image, before file systems are made of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::arch::Arch;
use super::depmod;
use super::host::{self, Host};
use super::modules::{self, Modules, Stage};
use super::options::Options;
use super::tree::Tree;
use super::{check, programs};
use crate::apt::{Apt, Package};
use crate::cargo::Workspace;
use crate::command;
use crate::node_tools::{self, NodeTool};
use crate::sandbox;

/// Folders that file systems are mounted on, with the modes that they have until then.
const MOUNT_POINTS: [(&str, u32); 8] = [
    ("/dev", 0o755),
    ("/etc/marooned", 0o700),
    ("/mnt", 0o755),
    ("/proc", 0o555),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var", 0o755),
];
/// Where Go's programs look for the authorities that they believe: containerd, of registries.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where the kubelet looks for volume plugins that are programs.
const VOLUME_PLUGINS: &str = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec";
/// containerd's folder with the image of pods' sandboxes in it; the boot program copies it to where containerd works.
pub(super) const PRELOADED: &str = "/usr/share/marooned/containerd";

/// What the image is made of.
pub(super) struct Parts {
    pub(super) kernel: Vec<u8>,
    pub(super) initrd: Tree,
    pub(super) root: Tree,
    /// Of what something was taken.
    pub(super) packages: Vec<Package>,
    /// The Go programs, as built.
    pub(super) go: Vec<PathBuf>,
    /// The boot program.
    pub(super) boot: Vec<u8>,
}

impl Parts {
    /// Fetches and builds everything.
    ///
    /// # Errors
    /// That cannot be done, or something of it does not fit: then everything that is wrong is named.
    pub(super) fn collect(
        workspace: &Workspace,
        apt: &Apt,
        work: &Path,
        options: &Options,
        host: &Host,
    ) -> Result<Self> {
        let arch = options.arch;
        let mut parts = Self::of_packages(workspace, apt, arch, host, work)?;
        parts.go = programs::add_go(&mut parts.root, options)?;
        parts
            .root
            .copy_exactly("pause image", PRELOADED, &preloaded(work, options)?)?;
        let boot = programs::boot(workspace, options.profile, arch)?;
        parts.initrd.file("boot program", "/init", 0o755, boot.clone())?;
        parts
            .root
            .file("boot program", programs::BOOT, 0o755, boot.clone())?;
        parts
            .root
            .link("boot program", programs::CNI_PLUGIN, programs::BOOT)?;
        parts.boot = boot;
        let problems = parts.problems(arch);
        ensure!(
            problems.is_empty(),
            "the image for {} is not whole:\n  {}",
            arch.name(),
            problems.join("\n  ")
        );
        Ok(parts)
    }

    /// What is wrong with an image of these parts; nothing, if it is whole.
    pub(super) fn problems(&self, arch: Arch) -> Vec<String> {
        check::problems(arch, &self.initrd, &self.root)
    }

    /// Fetches what Debian brings, and takes `images/node` to it; no program is built.
    ///
    /// # Errors
    /// That cannot be done.
    pub(super) fn of_packages(
        workspace: &Workspace,
        apt: &Apt,
        arch: Arch,
        host: &Host,
        work: &Path,
    ) -> Result<Self> {
        let recipe = workspace.root.join("images/node");
        let listed = fs::read_to_string(recipe.join("modules"))?;
        let mut initrd = Tree::default();
        let mut root = Tree::default();

        let kernel = apt.alone(&apt.first_dependency(&format!("linux-image-cloud-{}", arch.name()))?)?;
        let modules = modules_of(&kernel)?;
        for (tree, stage) in [(&mut initrd, Stage::Initrd), (&mut root, Stage::Root)] {
            let order = add_modules(tree, &modules, &listed, stage)?;
            tree.file(modules::PART, modules::ORDER, 0o644, order.into_bytes())?;
        }
        add_modules(&mut root, &modules, &listed, Stage::Demand)?;
        for list in modules.lists()? {
            let at = format!("{}/{}", modules::FOLDER, modules.path_in_guest(&list)?);
            root.file(modules::PART, &at, 0o644, fs::read(list)?)?;
        }
        depmod::add_index(&mut root, host, work)?;

        root.copy("configuration", "/etc", &recipe.join("root/etc"))?;
        for (path, mode) in MOUNT_POINTS {
            root.folder("configuration", path, mode)?;
        }
        // The kubelet makes this folder where it can.
        root.folder("configuration", VOLUME_PLUGINS, 0o755)?;
        // The boot program writes them, into memory.
        for name in ["machine-id", "resolv.conf"] {
            root.link(
                "configuration",
                &format!("/etc/{name}"),
                &format!("marooned/{name}"),
            )?;
        }
        // The kernel runs the one, mount(8) the other.
        for (path, program) in [
            ("/sbin/modprobe", "/usr/bin/kmod"),
            ("/sbin/mount.nfs4", "/sbin/mount.nfs"),
        ] {
            root.link("configuration", path, program)?;
        }
        let debian = apt.with_dependencies(&programs::DEBIAN.map(|(package, ..)| package))?;
        let mut packages = programs::add_debian(&mut root, &debian, arch)?;
        let authorities = apt.alone("ca-certificates")?;
        root.file(
            "certificate authorities",
            AUTHORITIES,
            0o644,
            certificates(&authorities)?,
        )?;
        packages.extend([authorities, kernel.clone()]);
        Ok(Self {
            kernel: host::file(
                &kernel,
                &format!("boot/{}", only(&kernel.root.join("boot"), "vmlinuz-")?),
            )?,
            initrd,
            root,
            packages,
            go: Vec::new(),
            boot: Vec::new(),
        })
    }
}

/// The modules of a kernel package.
fn modules_of(kernel: &Package) -> Result<Modules> {
    // Debian 13 has no other files below /lib than those below /usr/lib.
    let folders = ["lib/modules", "usr/lib/modules"].map(|folder| kernel.root.join(folder));
    let folder = folders.iter().find(|folder| folder.is_dir());
    Modules::find(folder.with_context(|| format!("{} has no modules", kernel.name))?)
}

/// Adds the modules that are listed for a stage, and what they depend on, where modprobe(8) looks for them. Gives their paths
/// below the folder of modules, a line each, in an order in which they can be loaded.
fn add_modules(tree: &mut Tree, all: &Modules, listed: &str, stage: Stage) -> Result<String> {
    let mut order = String::new();
    for file in all.closure(&all.named(&modules::listed(listed, stage)?)?)? {
        let path = all.path_in_guest(file)?;
        let at = format!("{}/{path}", modules::FOLDER);
        if tree.content(&at).is_none() {
            tree.file(modules::PART, &at, 0o644, modules::content(file)?)?;
        }
        order.push_str(&path);
        order.push('\n');
    }
    Ok(order)
}

/// All certificates of Debian's package, in one file; an installation of it would write the same.
fn certificates(package: &Package) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    tree.copy("", "", &package.root.join("usr/share/ca-certificates"))?;
    let bundle: Vec<u8> = tree
        .files()
        .flat_map(|(_, _, content)| content)
        .copied()
        .collect();
    ensure!(
        !bundle.is_empty(),
        "the package ca-certificates has no certificates"
    );
    Ok(bundle)
}

/// The one file in a folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> Result<String> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        if let Some(name) = entry?
            .file_name()
            .to_str()
            .filter(|name| name.starts_with(prefix))
        {
            return Ok(name.to_owned());
        }
    }
    bail!("{} has no {prefix}…", folder.display())
}

/// The image of pods' sandboxes, an OCI archive.
pub(super) fn pause(arch: Arch) -> Result<Vec<u8>> {
    let program = fs::read(node_tools::find(NodeTool::Pause, arch.name())?)?;
    Ok(sandbox::archive(program, arch.name())?.bytes)
}

/// A containerd folder with the sandbox image in it, and those that are asked for.
fn preloaded(work: &Path, options: &Options) -> Result<PathBuf> {
    let arch = options.arch.name();
    let archive = work.join(format!("pause-{arch}.tar"));
    fs::write(&archive, pause(options.arch)?)?;
    let folder = work.join(format!("preloaded-{arch}"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let preload = node_tools::find(NodeTool::Preload, Arch::of_this_machine()?.name())?;
    command::run(
        Command::new(preload)
            .arg(&folder)
            .arg(&archive)
            .args(&options.preload),
    )?;
    Ok(folder)
}
