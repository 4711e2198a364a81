//! Checks that an image is complete, from its files alone, so that an image for another architecture than this machine's
//! is checked as well as one that can be booted here.

use std::collections::BTreeSet;

use super::arch::Arch;
use super::modules;
use super::parts::PRELOADED;
use super::tree::{Kind, Tree};
use super::{elf, programs};

/// What else the boot program relies on, on the root file system.
const NEEDED: [&str; 7] = [
    "/etc/containerd/config.toml",
    "/etc/mke2fs.conf",
    "/etc/netconfig",
    "/etc/protocols",
    "/etc/ssl/certs/ca-certificates.crt",
    modules::ORDER,
    "/usr/share/marooned/containerd/io.containerd.metadata.v1.bolt/meta.db",
];
/// Where file systems are mounted on the read-only root.
const MOUNT_POINTS: [&str; 7] = ["/dev", "/etc/marooned", "/mnt", "/proc", "/run", "/sys", "/tmp"];

/// What is wrong with an image; nothing, if it is whole.
pub(super) fn problems(arch: Arch, initrd: &Tree, root: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, tree) in [("initrd", initrd), ("root", root)] {
        let foreign = programs_of(arch, tree).into_iter().chain(modules_of(tree));
        problems.extend(foreign.map(|problem| format!("{name}: {problem}")));
    }
    for index in ["modules.dep.bin", "modules.devname"] {
        if !root
            .files()
            .any(|(path, ..)| path.ends_with(&format!("/{index}")))
        {
            problems.push(format!("root: {index} is missing in {}", modules::FOLDER));
        }
    }
    problems.extend(never_loaded(initrd).map(|path| format!("initrd: {path} is never loaded")));
    let programs = programs::PATHS.iter().chain(&NEEDED);
    let missing = programs.filter(|path| root.content(path).is_none());
    problems.extend(missing.map(|path| format!("root: {path} is missing")));
    let is_folder = |path: &str| {
        root.iter()
            .any(|(there, entry)| there == path && matches!(entry.kind, Kind::Folder))
    };
    let missing = MOUNT_POINTS
        .iter()
        .chain(&["/var"])
        .filter(|path| !is_folder(path));
    problems.extend(missing.map(|path| format!("root: the folder {path} is missing")));
    if initrd.content("/init").is_none() {
        problems.push("initrd: /init is missing".to_owned());
    }
    problems
}

/// Every program and library is of the architecture, and finds its loader and its libraries in the image. Those of
/// preloaded images find them in these.
fn programs_of(arch: Arch, tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    let libraries = format!("/lib/{}", arch.multiarch());
    for (path, _, content) in tree.files() {
        let facts = match elf::facts(content) {
            Ok(None) => continue,
            Ok(Some(facts)) => facts,
            Err(error) => {
                problems.push(format!("{path} is broken: {error:#}"));
                continue;
            }
        };
        if facts.machine != arch.machine() {
            problems.push(format!(
                "{path} is for machine {}, not for {} ({})",
                facts.machine,
                arch.name(),
                arch.machine()
            ));
        }
        if path.starts_with(PRELOADED) {
            continue;
        }
        let loader = facts.interpreter.into_iter();
        let needed = facts.needed.iter().map(|name| format!("{libraries}/{name}"));
        for needed in loader.chain(needed.filter(|needed| !needed.contains("/ld-linux"))) {
            if tree.content(&needed).is_none() {
                problems.push(format!("{path} needs {needed}, which is missing"));
            }
        }
    }
    problems
}

/// Every module finds what it depends on, and comes after it where there is an order of loading.
fn modules_of(tree: &Tree) -> Vec<String> {
    let order = tree.content(modules::ORDER).unwrap_or_default();
    let order = String::from_utf8_lossy(order);
    let mut problems = Vec::new();
    let mut loaded: Vec<String> = Vec::new();
    for file in order.lines() {
        let path = format!("{}/{file}", modules::FOLDER);
        let Some(content) = tree.content(&path) else {
            problems.push(format!("{path} is to be loaded, and is missing"));
            continue;
        };
        for needed in needed_by(content) {
            if !loaded.contains(&needed) {
                problems.push(format!("{path} is loaded before {needed}, which it needs"));
            }
        }
        loaded.extend(modules::module_name(file.as_ref()));
    }
    let there: BTreeSet<_> = modules_in(tree)
        .filter_map(|(path, _)| modules::module_name(path.as_ref()))
        .collect();
    for (path, content) in modules_in(tree) {
        let missing = needed_by(content)
            .into_iter()
            .filter(|needed| !there.contains(needed));
        problems.extend(missing.map(|needed| format!("{path} needs {needed}, which is missing")));
    }
    problems
}

/// The modules that are in no order of loading.
fn never_loaded(tree: &Tree) -> impl Iterator<Item = &str> {
    let order = tree.content(modules::ORDER).unwrap_or_default();
    let order = String::from_utf8_lossy(order);
    modules_in(tree).map(|(path, _)| path).filter(move |path| {
        let file = path
            .strip_prefix(modules::FOLDER)
            .unwrap_or(path)
            .trim_start_matches('/');
        !order.lines().any(|line| line == file)
    })
}

fn modules_in(tree: &Tree) -> impl Iterator<Item = (&str, &[u8])> {
    tree.files()
        .filter(|(path, ..)| {
            path.starts_with(modules::FOLDER) && modules::module_name(path.as_ref()).is_some()
        })
        .map(|(path, _, content)| (path, content))
}

fn needed_by(module: &[u8]) -> Vec<String> {
    let info = elf::section(module, ".modinfo").ok().flatten();
    modules::depends(info.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    /// An image that is whole but for what `programs` and modules bring.
    fn bare() -> (Tree, Tree) {
        let (mut initrd, mut root) = (Tree::default(), Tree::default());
        initrd.file("boot", "/init", 0o755, Vec::new()).unwrap();
        for path in programs::PATHS.iter().chain(&NEEDED) {
            root.file("part", path, 0o755, Vec::new()).unwrap();
        }
        for path in MOUNT_POINTS.iter().chain(&["/var"]) {
            root.folder("base", path, 0o755).unwrap();
        }
        for index in ["modules.dep.bin", "modules.devname"] {
            let path = format!("{}/6.1.0/{index}", modules::FOLDER);
            root.file("modules", &path, 0o644, Vec::new()).unwrap();
        }
        (initrd, root)
    }

    #[test]
    fn a_whole_image_has_no_problems() {
        let (initrd, root) = bare();
        assert_eq!(problems(Arch::Amd64, &initrd, &root), Vec::<String>::new());
    }

    #[test]
    fn everything_that_is_missing_is_named() {
        let problems = problems(Arch::Amd64, &Tree::default(), &Tree::default());
        for missing in [
            "/usr/bin/kubelet",
            "/sbin/init",
            "/lib/modules/order",
            "/run",
            "/init",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(missing)),
                "{missing}: {problems:?}"
            );
        }
    }

    #[test]
    fn a_program_for_another_machine_or_without_its_libraries_is_a_problem() {
        let (initrd, mut root) = bare();
        // This test program: linked to libc, for this machine.
        let program = fs::read(env::current_exe().unwrap()).unwrap();
        root.file("x", "/usr/bin/program", 0o755, program).unwrap();
        let (here, elsewhere) = match env::consts::ARCH {
            "aarch64" => (Arch::Arm64, Arch::Amd64),
            _ => (Arch::Amd64, Arch::Arm64),
        };
        let libraries = problems(here, &initrd, &root).join("\n");
        assert!(libraries.contains("libc.so.6, which is missing"), "{libraries}");
        assert!(libraries.contains("ld-linux"), "{libraries}");
        assert!(!libraries.contains("is for machine"), "{libraries}");
        let foreign = problems(elsewhere, &initrd, &root).join("\n");
        assert!(foreign.contains("/usr/bin/program is for machine"), "{foreign}");
    }

    #[test]
    fn a_preloaded_image_has_its_own_libraries() {
        let (initrd, mut root) = bare();
        let program = fs::read(env::current_exe().unwrap()).unwrap();
        let path = format!("{PRELOADED}/layer/usr/bin/program");
        root.file("x", &path, 0o755, program).unwrap();
        let all = [Arch::Amd64, Arch::Arm64].map(|arch| problems(arch, &initrd, &root));
        let [one]: [String; 1] = all.concat().try_into().unwrap_or_else(|all| panic!("{all:?}"));
        assert!(one.contains("is for machine"), "{one}");
    }

    #[test]
    fn the_order_of_modules_must_be_whole() {
        let (mut initrd, root) = bare();
        initrd
            .file("k", "/lib/modules/order", 0o644, b"gone.ko\n".to_vec())
            .unwrap();
        initrd
            .file("k", "/lib/modules/extra.ko", 0o644, Vec::new())
            .unwrap();
        let problems = problems(Arch::Amd64, &initrd, &root);
        assert_eq!(
            problems,
            [
                "initrd: /lib/modules/gone.ko is to be loaded, and is missing",
                "initrd: /lib/modules/extra.ko is never loaded"
            ]
        );
    }
}
