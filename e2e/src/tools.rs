//! Finds the programs of the control plane, and builds them from `hack/tools` when nobody else provides them.
//!
//! Each is looked for in the folder named by `KUBEBUILDER_ASSETS`, then in our cache folder, then built into
//! that cache with Go: once per machine and per content of `hack/tools`.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};

const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// The parts of `clusterkit`, our multi-call build of the control plane: each is a symlink to it.
const CLUSTERKIT_PARTS: [&str; 5] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
];
/// What a build depends on, below `hack/tools`.
const SOURCES: [&str; 5] = [
    "go.mod",
    "go.sum",
    "clusterkit/main.go",
    "helm/go.mod",
    "helm/go.sum",
];

/// A program that the harness runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The store.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// The built-in controllers.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
    /// The command line client.
    Kubectl,
    /// Renders the chart.
    Helm,
}

impl Tool {
    /// File name of the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubectl => "kubectl",
            Self::Helm => "helm",
        }
    }
}

/// Path of `tool`, built first if need be: that takes minutes, and says so on stderr. Blocks.
pub fn find(tool: Tool) -> Result<PathBuf> {
    if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS") {
        let path = Path::new(&assets).join(tool.name());
        if path.exists() {
            return Ok(path);
        }
    }
    let sources = source_folder();
    let cache = cache_folder(&sources)?;
    let path = cache.join(tool.name());
    if !path.exists() {
        build_once(tool, &sources, &cache)?;
    }
    Ok(path)
}

/// Builds what is missing, so that a clock that starts afterwards does not count it. Blocks.
pub fn prepare() -> Result<()> {
    // One build makes all of Kubernetes' programs.
    find(Tool::KubeApiserver)?;
    find(Tool::Helm).map(drop)
}

/// The Kubernetes version that `hack/tools/go.mod` pins, such as `v1.36.3`.
pub fn pinned_kubernetes_version() -> Result<String> {
    let module = fs::read_to_string(source_folder().join("go.mod"))?;
    kubernetes_version(&module)
        .map(str::to_owned)
        .context("hack/tools/go.mod names no version of k8s.io/kubernetes")
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/tools")
}

fn cache_folder(sources: &Path) -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir()
            .context("set XDG_CACHE_HOME or HOME: the control plane is built there")?
            .join(".cache"),
    };
    let mut hash = Sha256::new();
    for source in SOURCES {
        let path = sources.join(source);
        hash.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    let digest = format!("{:x}", hash.finalize());
    Ok(base.join("maroonedpods").join(format!("tools-{}", &digest[..12])))
}

/// Builds under a lock, so that test programs that start together build once.
fn build_once(tool: Tool, sources: &Path, cache: &Path) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            say("waiting for another program that is building the control plane");
            lock.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    if cache.join(tool.name()).exists() {
        return Ok(());
    }
    require_go(sources)?;
    if tool == Tool::Helm {
        let mut build = go_build(&sources.join("helm"), "-s -w");
        let what = "building helm from source, once, about 2 minutes on 2 cores";
        return build_into(&mut build, "helm.sh/helm/v4/cmd/helm", &cache.join("helm"), what);
    }
    for part in CLUSTERKIT_PARTS {
        // Dangling until the build below is complete, so that a part exists only when it can run.
        match symlink("clusterkit", cache.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
    }
    let mut build = go_build(sources, &version_flags(&pinned_kubernetes_version()?)?);
    let what = "building the Kubernetes control plane from source, once, about 5 minutes on 2 cores";
    build_into(&mut build, "./clusterkit", &cache.join("clusterkit"), what)
}

fn go_build(module: &Path, linker_flags: &str) -> Command {
    let mut build = Command::new("go");
    build
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .args(["build", "-trimpath", "-ldflags", linker_flags]);
    build
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

fn build_into(build: &mut Command, package: &str, target: &Path, what: &str) -> Result<()> {
    let unfinished = target.with_extension("unfinished");
    let log = target.with_extension("build.log");
    build
        .arg("-o")
        .arg(&unfinished)
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    build.stderr(File::create(&log)?);
    let status = run_with_progress(build, what)?;
    ensure!(
        status.success(),
        "go build of {package} failed ({status}); its last words, all of them in {}:\n{}",
        log.display(),
        last_lines(&log, 20)
    );
    fs::rename(&unfinished, target)?;
    Ok(())
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

/// Says something on stderr at once. `eprintln!` would do, but for the test runner, which withholds what a test prints.
fn say(line: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

fn require_go(sources: &Path) -> Result<()> {
    let module = fs::read_to_string(sources.join("go.mod"))?;
    let needed = required_go(&module).context("hack/tools/go.mod has no go line")?;
    // Inside the module, where a Go of 1.21 or later may fetch the release that the module asks for.
    let answer = Command::new("go")
        .args(["env", "GOVERSION"])
        .current_dir(sources)
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

/// The version of the `k8s.io/kubernetes` line in a go.mod.
fn kubernetes_version(module: &str) -> Option<&str> {
    word_after(module, "k8s.io/kubernetes")
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

/// The last `count` lines of a log, for an error message.
#[must_use]
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str =
        "module x\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/kubectl v0.36.3\n\tk8s.io/kubernetes v1.36.3\n)\n";

    #[test]
    fn versions_come_from_the_module_file() {
        assert_eq!(kubernetes_version(MODULE), Some("v1.36.3"));
        assert_eq!(required_go(MODULE), Some("1.26.0"));
        assert_eq!(kubernetes_version("module x"), None);
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
