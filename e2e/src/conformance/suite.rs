//! Runs `e2e.test`: each spec is a process of its own, which starts within a second. So a spec that is stopped takes no other
//! along, and what has ended is known at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use maroonedpods_image_build::command::{last_lines, run};
use sha2::{Digest, Sha256};
use tokio::time;

use super::choice;
use super::report::{self, Ended, Outcome};
use super::witness::{self, Witness};
use crate::cluster::CLUSTER_DOMAIN;
use crate::system::process::Processes;
use crate::system::tools::{self, Tool};

const POLL: Duration = Duration::from_millis(200);
/// The longest specs take five minutes on ordinary nodes.
const LIMIT: &str = "20m";
/// The suite asks for a cloud unless there is none.
const NO_CLOUD: &str = "--provider=skeleton";

/// `e2e.test`, for one cluster.
pub(super) struct Suite {
    /// The program.
    pub(super) program: PathBuf,
    /// A client's configuration that may do everything.
    pub(super) kubeconfig: PathBuf,
    /// Where it and kubectl may write.
    pub(super) scratch: PathBuf,
    /// Where what each spec prints is kept.
    pub(super) logs: PathBuf,
    /// Who sees where pods run, if they are to be marooned.
    pub(super) witness: Option<Witness>,
}

/// The names of all specs, or of those that match. Blocks.
pub(super) fn list(program: &Path, matching: Option<&str>) -> Result<Vec<String>> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report.json");
    let mut command = Command::new(program);
    command
        .envs(["HOME", "TMPDIR"].map(|name| (name, folder.path())))
        .args(["--ginkgo.dry-run", NO_CLOUD])
        .arg(format!("--ginkgo.json-report={}", report.display()));
    if let Some(matching) = matching {
        command.arg(format!("--ginkgo.focus={matching}"));
    }
    run(&mut command)?;
    report::listed(&fs::read_to_string(report)?)
}

impl Suite {
    /// Runs one spec to its end. Dropped, it ends the spec.
    pub(super) async fn run(&self, spec: &str) -> Result<Ended> {
        let short = file_name(spec);
        let work = self.scratch.join(&short);
        fs::create_dir_all(&work)?;
        let report = work.join("report.json");
        let log = self.logs.join(format!("{short}.log"));
        let arguments = [
            // kubectl's cache is in the home folder, and other files would be in the machine's temporary one.
            format!("HOME={}", work.display()),
            format!("TMPDIR={}", work.display()),
            self.program.display().to_string(),
            format!("--ginkgo.focus={}", choice::focus(spec)),
            format!("--ginkgo.json-report={}", report.display()),
            format!("--ginkgo.timeout={LIMIT}"),
            "--ginkgo.no-color".to_owned(),
            "--ginkgo.succinct".to_owned(),
            NO_CLOUD.to_owned(),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--kubectl-path={}", tools::find(Tool::Kubectl)?.display()),
            format!("--dns-domain={CLUSTER_DOMAIN}"),
            // Nodes come and go with marooned pods.
            "--allowed-not-ready-nodes=-1".to_owned(),
            "--minStartupPods=-1".to_owned(),
        ];
        let processes = Processes::new()?;
        processes.start("e2e.test", Path::new("env"), &arguments, &log)?;
        let exit = loop {
            if let Some(ended) = processes.ended()? {
                break ended;
            }
            time::sleep(POLL).await;
        };
        let told = fs::read_to_string(&report)
            .context("it wrote no report")
            .and_then(|report| report::end_of(spec, &report));
        fs::remove_dir_all(work)?;
        // It may have died of anything: that is the spec's end, and not the run's.
        let ended = told.unwrap_or_else(|error| Ended {
            outcome: Outcome::Failed,
            seconds: 0.0,
            reason: format!("{error:#} ({}): {}", exit.status, last_lines(&log, 3)),
        });
        let printed = fs::read(&log)?;
        let printed = String::from_utf8_lossy(&printed);
        let Some(witness) = &self.witness else {
            return Ok(ended);
        };
        let pods = run_of(&printed).and_then(|run| witness.pods(run));
        Ok(witness::judge(pods, ended))
    }
}

/// By what name the suite labels the namespaces of a run that printed this.
fn run_of(printed: &str) -> Option<&str> {
    let (_, after) = printed.split_once("Starting e2e run \"")?;
    after.split_once('"').map(|(run, _)| run)
}

/// A spec's name as one of files: what can be read of it, and what makes it its own.
fn file_name(spec: &str) -> String {
    let words = spec.split(|letter: char| !letter.is_ascii_alphanumeric());
    let mut name = words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    name.truncate(100);
    let digest = format!("{:x}", Sha256::digest(spec));
    format!("{name}-{}", &digest[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_tells_its_name() {
        let printed =
            "  I1128 11:37:28.087189   32021 e2e.go:109] Starting e2e run \"a6ee-1\" on Ginkgo node 1\n\"x\"";
        assert_eq!(run_of(printed), Some("a6ee-1"));
        assert_eq!(run_of("panic: no \"such\""), None);
    }

    #[test]
    fn names_of_files_are_short_and_differ() {
        let long = "[sig-node] ".repeat(30);
        let names = [file_name(&long), file_name(&format!("{long}x"))];
        assert_ne!(names[0], names[1]);
        for name in names {
            assert!(
                name.starts_with("sig-node-sig-node") && name.len() < 120,
                "{name}"
            );
        }
    }
}
