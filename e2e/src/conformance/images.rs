//! The images that the specs run, under the names that the suite asks for: made here of Kubernetes' programs and Debian's
//! packages, and never fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use maroonedpods_image_build::apt::Apt;
use maroonedpods_image_build::command::{run, say};
use maroonedpods_image_build::go::{self, Module};
use maroonedpods_image_build::oci::{Files, Image};

use super::programs::{AGNHOST, NONEWPRIVS, SUITE};
use crate::system::tools::{self, Tool};
use crate::system::{debian, stores};

const RELEASE: &str = "trixie";
/// Packages that are taken whole: each is one static program.
const STATIC: [&str; 2] = ["bash-static", "busybox-static"];
/// Of agnhost's image: packages, what tells the libraries of programs, and the programs of which it is asked. `dig` is left
/// out: its libraries are half as large as the image, and few specs call it.
const PACKAGES: [&str; 5] = ["bash", "curl", "iproute2", "libc-bin", "netcat-openbsd"];
const PROGRAMS: [(&str, &str); 4] = [("curl", "curl"), ("ip", "ip"), ("nc.openbsd", "nc"), ("ss", "ss")];
/// A spec is about a user and a group that the image brings.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh
";
const GROUP: &str = "root:x:0:
nobody:x:65534:
user-defined-in-image:x:1000:
group-defined-in-image:x:50000:user-defined-in-image
";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A kind of image: its name without registry and version, what is run, and what with where a pod says nothing.
struct Kind {
    name: &'static str,
    entrypoint: &'static [&'static str],
    arguments: &'static [&'static str],
    user: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "agnhost",
        entrypoint: &["/agnhost"],
        arguments: &["pause"],
        user: "0:0",
    },
    Kind {
        name: "busybox",
        entrypoint: &[],
        arguments: &["sh"],
        user: "0:0",
    },
    Kind {
        name: "nonewprivs",
        entrypoint: &[],
        arguments: &["nnp"],
        user: "0:0",
    },
    Kind {
        name: "pause",
        entrypoint: &["/pause"],
        arguments: &[],
        user: "65535:65535",
    },
];

/// Writes the archives of the images, unless this version of this file has. `cache` holds the programs. Needs root, and
/// Debian's apt, which fetches packages and installs none. Blocks.
pub(super) fn build(cache: &Path) -> Result<Vec<PathBuf>> {
    let folder = stores::store(cache, &[include_str!("images.rs"), debian::RECIPE]);
    let names = asked_for(&run(Command::new(cache.join(SUITE)).arg("--list-images"))?);
    let _lock = go::lock(cache)?;
    if !folder.exists() {
        let unfinished = tempfile::tempdir_in(cache)?;
        make(cache, &names, unfinished.path())?;
        fs::set_permissions(unfinished.path(), Permissions::from_mode(0o755))?;
        fs::rename(unfinished.keep(), &folder)?;
    }
    stores::use_one(&folder, &cache.join("unfinished-images"))?;
    Ok(names.iter().map(|name| folder.join(file_name(name))).collect())
}

/// The images among all those of the suite that are made here, as it prints them.
fn asked_for(listed: &str) -> Vec<String> {
    let made = |name: &&str| name.starts_with("registry.k8s.io/") && kind_of(name).is_some();
    let names: BTreeSet<_> = listed.lines().map(str::trim).filter(made).collect();
    names.into_iter().map(str::to_owned).collect()
}

fn kind_of(name: &str) -> Option<&'static Kind> {
    let (repository, _) = name.rsplit_once(':')?;
    let (_, last) = repository.rsplit_once('/')?;
    KINDS.iter().find(|kind| kind.name == last)
}

fn file_name(name: &str) -> String {
    format!("{}.tar", name.replace(['/', ':'], "_"))
}

fn make(cache: &Path, names: &[String], folder: &Path) -> Result<()> {
    say("making the images of Kubernetes' own tests of Debian's packages, once");
    let apt = Apt::of_release(&cache.join("apt"), "amd64", RELEASE)?;
    let work = tempfile::tempdir_in(cache)?;
    let shells = work.path().join("shells");
    shell(&apt, &shells)?;
    for name in names {
        let kind = kind_of(name).context("an image of no kind")?;
        let root = work.path().join(kind.name);
        if !root.exists() {
            lay_out(kind.name, cache, &apt, &shells, &root).with_context(|| format!("making {name}"))?;
        }
        let mut files = Files::default();
        files.tree(&root)?;
        let image = Image {
            name: name.clone(),
            files,
            entrypoint: kind.entrypoint.iter().map(ToString::to_string).collect(),
            user: kind.user.to_owned(),
            env: vec![PATH.to_owned()],
            labels: BTreeMap::new(),
            created: Timestamp::UNIX_EPOCH,
        };
        fs::write(
            folder.join(file_name(name)),
            image.archive_with(kind.arguments)?.bytes,
        )?;
    }
    Ok(())
}

/// What is in an image of a kind.
fn lay_out(kind: &str, cache: &Path, apt: &Apt, shells: &Path, root: &Path) -> Result<()> {
    if kind == "pause" {
        return install(&tools::find(Tool::Pause)?, &root.join("pause"), 0o755);
    }
    copy(shells, root)?;
    match kind {
        // Setuid, which the spec shows to have no effect.
        "nonewprivs" => install(&cache.join(NONEWPRIVS), &root.join("usr/local/bin/nnp"), 0o6755),
        "agnhost" => agnhost(cache, apt, root),
        _ => Ok(()),
    }
}

/// A file system with busybox and, as its shell, bash: busybox' own passes no variables on whose names are not a shell's.
fn shell(apt: &Apt, root: &Path) -> Result<()> {
    debian::lay_out(root)?;
    for folder in ["dev", "etc", "home", "proc", "root", "sys"] {
        fs::create_dir(root.join(folder))?;
    }
    for folder in ["tmp", "var/tmp"] {
        fs::create_dir_all(root.join(folder))?;
        fs::set_permissions(root.join(folder), Permissions::from_mode(0o1777))?;
    }
    for (file, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
        fs::write(root.join(file), text)?;
    }
    let packages = tempfile::tempdir_in(root.parent().context("a folder in another")?)?;
    debian::lay_out(packages.path())?;
    debian::unpack(apt, &STATIC, &[], packages.path())?;
    let (from, to) = (packages.path().join("usr/bin"), root.join("usr/bin"));
    for (program, name) in [("bash-static", "sh"), ("busybox", "busybox")] {
        install(&from.join(program), &to.join(name), 0o755)?;
    }
    symlink("sh", to.join("bash"))?;
    let applets = run(Command::new(to.join("busybox")).arg("--list"))?;
    for applet in applets.lines() {
        if !["bash", "busybox", "sh"].contains(&applet) {
            symlink("busybox", to.join(applet))?;
        }
    }
    Ok(())
}

fn agnhost(cache: &Path, apt: &Apt, root: &Path) -> Result<()> {
    install(&cache.join(AGNHOST), &root.join("agnhost"), 0o755)?;
    // Specs tell by it whether a command took the place of the image's.
    symlink("agnhost", root.join("agnhost-2"))?;
    fs::create_dir(root.join("uploads"))?;
    let source = go::module_folder(Module::Conformance, "k8s.io/kubernetes")?;
    for file in ["localhost.crt", "localhost.key"] {
        let from = source.join("test/images/agnhost/porter").join(file);
        install(&from, &root.join(file), 0o644)?;
    }
    let whole = tempfile::tempdir_in(cache)?;
    debian::lay_out(whole.path())?;
    debian::unpack(apt, &PACKAGES, &[], whole.path())?;
    for (program, name) in PROGRAMS {
        let to = root.join("usr/bin").join(name);
        if to.is_symlink() {
            fs::remove_file(&to)?;
        }
        install(&whole.path().join("usr/bin").join(program), &to, 0o755)?;
        libraries(whole.path(), program, root)?;
    }
    Ok(())
}

/// Copies the libraries of a program of the file system `whole`, and what loads them, to the same places below `root`.
fn libraries(whole: &Path, program: &str, root: &Path) -> Result<()> {
    let printed = run(Command::new("chroot")
        .arg(whole)
        .args(["/usr/bin/ldd", &format!("/usr/bin/{program}")]))?;
    ensure!(
        !printed.contains("not found"),
        "{program} of Debian {RELEASE} lacks libraries: {printed}"
    );
    for library in linked_files(&printed) {
        let library = library.trim_start_matches('/');
        if !root.join(library).exists() {
            install(&whole.join(library), &root.join(library), 0o755)?;
        }
    }
    Ok(())
}

/// The files that `ldd` names.
fn linked_files(printed: &str) -> impl Iterator<Item = &str> {
    printed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

/// Adds what is in a folder to another.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let mut copy = Command::new("cp");
    run(copy.args(["--archive", "--no-target-directory"]).args([from, to])).map(drop)
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(to, Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_the_names_that_the_suite_asks_for() {
        let listed = "registry.k8s.io/e2e-test-images/agnhost:2.63.0\n  registry.k8s.io/pause:3.10.2\n\
            registry.k8s.io/e2e-test-images/nginx:1.15-4\ngcr.io/k8s-authenticated-test/agnhost:2.6\n\
            registry.k8s.io/e2e-test-images/agnhost:2.55\nregistry.k8s.io/e2e-test-images/agnhost:2.55\n";
        let names = asked_for(listed);
        assert_eq!(
            names,
            [
                "registry.k8s.io/e2e-test-images/agnhost:2.55",
                "registry.k8s.io/e2e-test-images/agnhost:2.63.0",
                "registry.k8s.io/pause:3.10.2",
            ]
        );
        assert_eq!(kind_of(&names[2]).unwrap().name, "pause");
        assert_eq!(file_name(&names[2]), "registry.k8s.io_pause_3.10.2.tar");
    }

    #[test]
    fn libraries_are_what_ldd_prints() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tlibgone.so => not found\n";
        let found: Vec<_> = linked_files(printed).collect();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
    }
}
