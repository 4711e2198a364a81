//! Builds the modules of `hack/tools`.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use sha2::{Digest, Sha256};

use crate::command::{last_lines, run, say};

/// Where programs are built, in the cache.
const UNFINISHED: &str = "unfinished";
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// A Go module below `hack/tools`. What its `tool` lines name is built at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Kubernetes, etcd and the programs of this repository.
    Kubernetes,
    /// Of the minor version before. Of it, only the kubelet is built.
    OlderKubernetes,
    /// Helm.
    Helm,
    /// containerd, and what fills its folder.
    Containerd,
    /// `CoreDNS`.
    CoreDns,
    /// `KubeVirt`, and what prints its objects.
    KubeVirt,
    /// Kubernetes' own end-to-end tests, and what they run in containers.
    Conformance,
}

impl Module {
    fn folder(self) -> &'static str {
        match self {
            Self::Kubernetes | Self::OlderKubernetes => "",
            Self::Helm => "helm",
            Self::Containerd => "containerd",
            Self::CoreDns => "coredns",
            Self::KubeVirt => "kubevirt",
            Self::Conformance => "conformance",
        }
    }

    /// The module file, in the folder.
    fn file(self) -> &'static str {
        match self {
            Self::OlderKubernetes => "older.mod",
            Self::Kubernetes
            | Self::Helm
            | Self::Containerd
            | Self::CoreDns
            | Self::KubeVirt
            | Self::Conformance => "go.mod",
        }
    }

    fn announcement(self) -> &'static str {
        match self {
            Self::Kubernetes | Self::OlderKubernetes => {
                "building Kubernetes from source, once, 5 minutes on 2 cores that are idle"
            }
            Self::Helm => "building helm from source, once, about 2 minutes on 2 cores",
            Self::Containerd => "building containerd from source, once, about 1 minute on 2 cores",
            Self::CoreDns => "building CoreDNS from source, once, about 2 minutes on 2 cores",
            Self::KubeVirt => "building KubeVirt from source, once, 5 minutes on 2 cores that are idle",
            Self::Conformance => {
                "building what Kubernetes' own tests run, once, 3 minutes on 2 cores that are idle"
            }
        }
    }

    fn linker_flags(self) -> Result<String> {
        match self {
            Self::Kubernetes | Self::OlderKubernetes | Self::Conformance => {
                version_flags(&kubernetes_version(self)?)
            }
            Self::Helm | Self::Containerd | Self::CoreDns => Ok("-s -w".to_owned()),
            Self::KubeVirt => Ok(format!(
                "-s -w -X kubevirt.io/client-go/version.gitVersion={}",
                kubevirt_version()?
            )),
        }
    }

    /// Build tags, and whether C is compiled: libvirt's functions are called through C, and found when the program runs.
    fn with_c(self) -> Option<&'static str> {
        (self == Self::KubeVirt).then_some("libvirt_dlopen,netgo,osusergo")
    }
}

/// Builds all that the `tool` lines of a module name for this machine into `cache`, if `name`, one of them, is not there
/// yet. Blocks, for minutes.
///
/// # Errors
/// Go is missing or too old, or the build fails.
pub fn build_tools_once(module: Module, name: &str, cache: &Path) -> Result<()> {
    let what = module.announcement();
    build_once(module, &["build"], &["tool"], name, None, what, cache)
}

/// Builds packages of a module for this machine into `cache`, if `name`, one of them, is not there yet. Blocks.
///
/// # Errors
/// As those of [`build_tools_once`].
pub fn build_packages_once(
    module: Module,
    packages: &[&str],
    name: &str,
    what: &str,
    cache: &Path,
) -> Result<()> {
    build_once(module, &["build"], packages, name, None, what, cache)
}

/// Builds the tests of a package of a module for this machine into `cache`, as a program, if `name`, which Go gives it, is
/// not there yet. Blocks.
///
/// # Errors
/// As those of [`build_tools_once`].
pub fn build_tests_once(module: Module, package: &str, name: &str, cache: &Path) -> Result<()> {
    // Vetting the tests of others takes longer than building them.
    let command = ["test", "-c", "-vet=off"];
    let what = format!("building {name} from source, once, 4 minutes on 2 cores that are idle");
    build_once(module, &command, &[package], name, None, &what, cache)
}

/// Builds one package of a module for an architecture (Go's name of it) into `cache`, if `name` is not there yet.
pub(crate) fn build_for_once(
    module: Module,
    package: &str,
    name: &str,
    arch: &str,
    cache: &Path,
) -> Result<()> {
    let what = format!("building {name} for {arch} from source, once");
    build_once(module, &["build"], &[package], name, Some(arch), &what, cache)
}

/// Builds under a lock, so that test programs that start together build once.
fn build_once(
    module: Module,
    command: &[&str],
    packages: &[&str],
    name: &str,
    arch: Option<&str>,
    what: &str,
    cache: &Path,
) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let _lock = lock(cache)?;
    if cache.join(name).exists() {
        return Ok(());
    }
    let sources = source_folder().join(module.folder());
    require_go(&sources)?;
    build_packages(module, command, packages, arch, what, &sources, cache)?;
    let unfinished = cache.join(UNFINISHED);
    // The one that is looked for comes last: then all are there.
    let mut programs = fs::read_dir(&unfinished)?.collect::<Result<Vec<_>, _>>()?;
    programs.sort_by_key(|program| program.file_name() == name);
    for program in programs {
        fs::rename(program.path(), cache.join(program.file_name()))?;
    }
    Ok(())
}

/// Holds what is built into `cache` until the file is dropped, so that programs that start together build once. Blocks.
///
/// # Errors
/// The folder is not there, or cannot be written.
pub fn lock(cache: &Path) -> Result<File> {
    let lock = File::create(cache.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            say("waiting for another program that is building the same");
            lock.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    Ok(lock)
}

/// Builds packages of a module in [`UNFINISHED`], so that a program in the cache is a whole one; `command` is Go's to build
/// with, `arch` Go's name of the architecture that they are for, where that is not this machine's.
fn build_packages(
    module: Module,
    command: &[&str],
    packages: &[&str],
    arch: Option<&str>,
    what: &str,
    sources: &Path,
    cache: &Path,
) -> Result<()> {
    let unfinished = cache.join(UNFINISHED);
    fs::create_dir_all(&unfinished)?;
    let log = cache.join("build.log");
    let mut build = Command::new("go");
    build
        .current_dir(sources)
        .env("CGO_ENABLED", if module.with_c().is_some() { "1" } else { "0" })
        .args(command)
        .args(["-trimpath", "-modfile", module.file()])
        .args(["-tags", module.with_c().unwrap_or_default()])
        .args(["-ldflags", &module.linker_flags()?, "-o"])
        // With the slash, Go takes it for a folder.
        .arg(unfinished.join(""))
        .args(packages)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?);
    if let Some(arch) = arch {
        build.env("GOOS", "linux").env("GOARCH", arch);
    }
    let status = run_with_progress(&mut build, what)?;
    ensure!(
        status.success(),
        "{what}: go failed ({status}); its last words, all of them in {}:\n{}",
        log.display(),
        last_lines(&log, 20)
    );
    Ok(())
}

/// Linker flags that make the components report the version they are built from: a plain `go build` reports
/// none, and charts' `kubeVersion` could not match.
fn version_flags(version: &str) -> Result<String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("k8s.io/kubernetes has the odd version {version:?} in hack/tools/go.mod");
    };
    let component = "k8s.io/component-base/version";
    Ok(format!(
        "-s -w -X {component}.gitVersion={version} -X {component}.gitMajor={major} -X {component}.gitMinor={minor} \
         -X k8s.io/client-go/pkg/version.gitVersion={version}"
    ))
}

fn run_with_progress(command: &mut Command, what: &str) -> Result<ExitStatus> {
    let start = Instant::now();
    say(what);
    let (finished, running) = mpsc::channel::<()>();
    let status = thread::scope(|scope| {
        scope.spawn(move || {
            while running.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
                say(&format!("{what}: {} s", start.elapsed().as_secs()));
            }
        });
        let status = command.status();
        drop(finished);
        status
    });
    Ok(status?)
}

fn require_go(module: &Path) -> Result<()> {
    let text = fs::read_to_string(module.join("go.mod"))?;
    let needed =
        required_go(&text).with_context(|| format!("{} has no go line", module.join("go.mod").display()))?;
    // Inside the module, where a Go of 1.21 or later may fetch the release that the module asks for.
    let answer = Command::new("go")
        .args(["env", "GOVERSION"])
        .current_dir(module)
        .output()
        .map_err(|error| {
            anyhow!(
                "Go {needed} or later is needed to build the control plane, and `go` does not run: {error}"
            )
        })?;
    ensure!(
        answer.status.success(),
        "Go {needed} or later is needed to build the control plane: {}",
        String::from_utf8_lossy(&answer.stderr).trim()
    );
    let found = String::from_utf8_lossy(&answer.stdout);
    let found = found.trim().trim_start_matches("go");
    ensure!(
        release(found) >= release(needed),
        "Go {needed} or later is needed to build the control plane, and `go` is {found}"
    );
    Ok(())
}

/// The version of the `go` line in a go.mod.
fn required_go(module: &str) -> Option<&str> {
    word_after(module, "go")
}

fn word_after<'a>(module: &'a str, first: &str) -> Option<&'a str> {
    module.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(first)).then(|| words.next())?
    })
}

/// The numbers of a Go release such as `1.26.8` or `1.27rc1`, for comparison; a pre-release counts as its release.
fn release(version: &str) -> Vec<u32> {
    let number = |part: &str| {
        part.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap_or(0)
    };
    version.split('.').map(number).chain([0]).take(3).collect()
}

/// The Kubernetes version that a module pins, such as `v1.36.3`.
///
/// # Errors
/// The module names none.
pub(crate) fn kubernetes_version(module: Module) -> Result<String> {
    let file = Path::new(module.folder()).join(module.file());
    version_of(&file.display().to_string(), "k8s.io/kubernetes")
}

/// The `KubeVirt` version that `hack/tools/kubevirt` pins, such as `v1.9.0`.
///
/// # Errors
/// It names none.
pub fn kubevirt_version() -> Result<String> {
    version_of("kubevirt/go.mod", "kubevirt.io/kubevirt")
}

/// The folder of a required module's source, fetched first if need be. Blocks.
///
/// # Errors
/// Go is missing, or cannot fetch it.
pub fn module_folder(module: Module, path: &str) -> Result<PathBuf> {
    let sources = source_folder().join(module.folder());
    require_go(&sources)?;
    run(Command::new("go")
        .current_dir(&sources)
        .args(["mod", "download", path]))?;
    let folder = run(Command::new("go").current_dir(sources).args([
        "list",
        "-modfile",
        module.file(),
        "-m",
        "-f",
        "{{.Dir}}",
        path,
    ]))?;
    Ok(PathBuf::from(folder.trim()))
}

/// The version of a required module in a module file below `hack/tools`.
fn version_of(file: &str, module: &str) -> Result<String> {
    let text = fs::read_to_string(source_folder().join(file))?;
    word_after(&text, module)
        .map(str::to_owned)
        .with_context(|| format!("hack/tools/{file} names no version of {module}"))
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/tools")
}

/// The folder for what is built from `files`, which are below `hack/tools`: another one for other contents.
///
/// # Errors
/// A file cannot be read, or there is no home folder.
pub fn cache_folder(files: &[&str]) -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir()
            .context("set XDG_CACHE_HOME or HOME: the control plane is built there")?
            .join(".cache"),
    };
    let mut hash = Sha256::new();
    for source in files {
        let path = source_folder().join(source);
        hash.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    let digest = format!("{:x}", hash.finalize());
    Ok(base.join("maroonedpods").join(format!("tools-{}", &digest[..12])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str =
        "module x\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/kubectl v0.36.3\n\tk8s.io/kubernetes v1.36.3\n)\n";

    #[test]
    fn versions_come_from_the_module_file() {
        assert_eq!(word_after(MODULE, "k8s.io/kubernetes"), Some("v1.36.3"));
        assert_eq!(required_go(MODULE), Some("1.26.0"));
        assert_eq!(word_after("module x", "k8s.io/kubernetes"), None);
    }

    /// Kubernetes' tests ask of a control plane and kubelets what their own release does.
    #[test]
    fn the_suite_is_of_the_release_that_it_runs_against() {
        let pinned = |module| kubernetes_version(module).unwrap();
        assert_eq!(pinned(Module::Conformance), pinned(Module::Kubernetes));
    }

    #[test]
    fn releases_compare_by_number() {
        for (older, newer) in [
            ("1.9.7", "1.26.0"),
            ("1.26.0", "1.26.8"),
            ("1.25.11", "1.26"),
            ("1.26.8", "1.27rc1"),
        ] {
            assert!(release(older) < release(newer), "{older} < {newer}");
        }
        assert_eq!(release("1.26"), release("1.26.0"));
    }
}
