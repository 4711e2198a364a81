//! Which specs run.

use anyhow::{Result, ensure};
use clap::ValueEnum;

/// The lists of specs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum List {
    /// Some thirty that together show what pods are used for, in minutes.
    Chosen,
    /// All conformance specs but those that need the cluster for themselves.
    All,
}

/// The tag of the specs that every cluster must pass.
const CONFORMANCE: &str = "[Conformance]";
/// The tags of those that must not run beside others.
const ALONE: [&str; 2] = ["[Serial]", "[Disruptive]"];

/// None takes longer than a minute and a half on ordinary nodes.
const CHOSEN: [&str; 30] = [
    "[sig-node] Variable Expansion should allow composing env vars into new env vars [NodeConformance] [Conformance]",
    "[sig-node] Variable Expansion should allow substituting values in a volume subpath [Conformance]",
    "[sig-node] ConfigMap should be consumable via the environment [NodeConformance] [Conformance]",
    "[sig-storage] ConfigMap should be consumable from pods in volume with mappings as non-root [NodeConformance] [Conformance]",
    "[sig-storage] ConfigMap updates should be reflected in volume [NodeConformance] [Conformance]",
    "[sig-node] Secrets should be consumable from pods in env vars [NodeConformance] [Conformance]",
    "[sig-storage] Secrets should be consumable from pods in volume as non-root with defaultMode and fsGroup set [LinuxOnly] [NodeConformance] [Conformance]",
    "[sig-node] Downward API should provide pod name, namespace and IP address as env vars [NodeConformance] [Conformance]",
    "[sig-node] Downward API should provide host IP as an env var [NodeConformance] [Conformance]",
    "[sig-node] Downward API should provide default limits.cpu/memory from node allocatable [NodeConformance] [Conformance]",
    "[sig-storage] Downward API volume should update labels on modification [NodeConformance] [Conformance]",
    "[sig-storage] EmptyDir volumes should support (non-root,0644,tmpfs) [LinuxOnly] [NodeConformance] [Conformance]",
    "[sig-storage] EmptyDir volumes pod should support shared volumes between containers [Conformance]",
    "[sig-storage] Projected combined should project all components that make up the projection API [Projection] [NodeConformance] [Conformance]",
    "[sig-storage] Subpath Atomic writer volumes should support subpaths with configmap pod [Conformance]",
    "[sig-node] InitContainer [NodeConformance] should invoke init containers on a RestartAlways pod [Conformance]",
    "[sig-node] InitContainer [NodeConformance] should not start app containers and fail the pod if init containers fail on a RestartNever pod [Conformance]",
    "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly [NodeConformance] [Conformance]",
    "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly [NodeConformance] [Conformance]",
    "[sig-node] Probing container should be restarted with a exec \"cat /tmp/health\" liveness probe [NodeConformance] [Conformance]",
    "[sig-node] Probing container with readiness probe should not be ready before initial delay and never restart [NodeConformance] [Conformance]",
    "[sig-node] Container Runtime blackbox test on terminated container should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError is set [NodeConformance] [Conformance]",
    "[sig-node] Containers should use the image defaults if command and args are blank [NodeConformance] [Conformance]",
    "[sig-node] Ephemeral Containers [NodeConformance] will start an ephemeral container in an existing pod [Conformance]",
    "[sig-node] Pods should be submitted and removed [NodeConformance] [Conformance]",
    "[sig-node] Pods should be updated [NodeConformance] [Conformance]",
    "[sig-node] Pods should allow activeDeadlineSeconds to be updated [NodeConformance] [Conformance]",
    "[sig-node] Pods should contain environment variables for services [NodeConformance] [Conformance]",
    "[sig-node] Pods should support remote command execution over websockets [NodeConformance] [Conformance]",
    "[sig-node] Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false [LinuxOnly] [NodeConformance] [Conformance]",
];

impl List {
    /// Of the specs that a suite has, or that a wish leaves of them, those of the list, in its order.
    pub(super) fn of(self, specs: Vec<String>) -> Vec<String> {
        match self {
            Self::Chosen => {
                let is_there = |name: &&str| specs.iter().any(|spec| spec == name);
                CHOSEN.into_iter().filter(is_there).map(str::to_owned).collect()
            }
            Self::All => {
                let alone = |spec: &str| ALONE.iter().any(|tag| spec.contains(tag));
                specs
                    .into_iter()
                    .filter(|spec| spec.contains(CONFORMANCE) && !alone(spec))
                    .collect()
            }
        }
    }
}

/// Fails if a chosen spec is not among all that the suite has: then it has another name in this release.
pub(super) fn check(all: &[String]) -> Result<()> {
    let gone: Vec<_> = CHOSEN
        .iter()
        .filter(|name| !all.iter().any(|spec| spec == *name))
        .collect();
    ensure!(gone.is_empty(), "this release has no such specs: {gone:#?}");
    Ok(())
}

/// A regular expression for ginkgo's `--focus` that this one spec matches.
pub(super) fn focus(name: &str) -> String {
    let mut expression = String::new();
    for letter in name.chars() {
        if letter.is_ascii_punctuation() {
            expression.push('\\');
        }
        expression.push(letter);
    }
    expression + "$"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn specs(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_are_the_conformance_specs_that_share_a_cluster() {
        let of = List::All.of(specs(&[
            "a [Conformance]",
            "b [NodeConformance]",
            "c [Serial] [Conformance]",
            "d [Disruptive] [Conformance]",
        ]));
        assert_eq!(of, ["a [Conformance]"]);
    }

    #[test]
    fn chosen_ones_keep_their_order_and_a_wish() {
        let of = List::Chosen.of(specs(&["other [Conformance]", CHOSEN[2], CHOSEN[0]]));
        assert_eq!(of, [CHOSEN[0], CHOSEN[2]]);
    }

    #[test]
    fn the_chosen_ones_differ_and_are_conformance_specs_that_share_a_cluster() {
        let names: BTreeSet<_> = CHOSEN.into_iter().collect();
        assert_eq!(names.len(), CHOSEN.len());
        assert_eq!(List::All.of(specs(&CHOSEN)), CHOSEN);
    }

    #[test]
    fn a_chosen_spec_that_is_gone_is_named() {
        check(&specs(&CHOSEN)).unwrap();
        let error = check(&specs(&CHOSEN[1..])).unwrap_err().to_string();
        assert!(error.contains(CHOSEN[0]), "{error}");
    }

    #[test]
    fn a_focus_is_the_name_and_nothing_else() {
        assert_eq!(focus("[a] (b,c) *d*"), r"\[a\] \(b\,c\) \*d\*$");
    }
}
