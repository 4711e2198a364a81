//! Asks cargo and git for what images need: static programs, the crates in them, and the commit.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Deserialize;

use super::sbom::{Linked, TREE_ARGUMENTS};

/// glibc, linked in. Our programs in a cluster resolve no names (the API server's address comes by environment),
/// which is the one thing that a static glibc is bad at.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How a program is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// As small and fast as it gets; takes longest.
    Release,
    /// Good enough for tests, in a fraction of the time.
    Test,
}

/// This repository, as cargo sees it.
pub(crate) struct Workspace {
    /// Its folder.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// What cargo builds with, if not this machine's own Rust.
    pub(crate) rust: Option<Rust>,
}

/// A Rust that links without a C compiler, and for one target.
#[derive(Clone, Debug)]
pub(crate) struct Rust {
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// The linker, which brings the C library along. It takes programs at fixed addresses only.
    pub(crate) linker: PathBuf,
    /// Where cargo builds with it, so that what this machine's own Rust has built stays.
    pub(crate) target: PathBuf,
    /// The C library's version.
    pub(crate) glibc: String,
}

/// What an image is built from.
pub(crate) struct Source {
    /// The commit's time, or `SOURCE_DATE_EPOCH`.
    pub(crate) time: Timestamp,
    /// The commit, with `-dirty` where it is not all that was built; None outside of git.
    pub(crate) revision: Option<String>,
}

impl Profile {
    fn cargo_name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Test => "image-test",
        }
    }

    /// The folder of the images: a test's never take the place of a release's.
    pub(crate) fn images(self, target: &Path) -> PathBuf {
        let images = target.join("images");
        match self {
            Self::Release => images,
            Self::Test => images.join("test"),
        }
    }
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            workspace_root: PathBuf,
            target_directory: PathBuf,
        }
        let mut cargo = cargo(Path::new(env!("CARGO_MANIFEST_DIR")));
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata: Metadata = serde_json::from_str(&output(&mut cargo)?)?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            rust: None,
        })
    }

    /// Builds one program, by itself: with others, it would get the features that only they need. `target` is Rust's
    /// name of what it is for.
    pub(crate) fn build(&self, program: &str, profile: Profile, target: &str) -> Result<PathBuf> {
        let profile = profile.cargo_name();
        let mut cargo = self.cargo();
        let mut folder = &self.target;
        if let Some(rust) = &self.rust {
            let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
            cargo
                .env(linker, &rust.linker)
                .env("CARGO_TARGET_DIR", &rust.target);
            folder = &rust.target;
        }
        let status = cargo
            .env("CARGO_ENCODED_RUSTFLAGS", self.compiler_flags()?)
            // With --target the flags are not for what runs while it is built (procedural macros cannot be static).
            .args(["build", "--locked", "--target", target, "--profile", profile])
            .args(["--package", program, "--bin", program])
            .stdin(Stdio::null())
            .status()
            .context("running cargo")?;
        ensure!(status.success(), "cargo build failed ({status}); see above why");
        Ok(folder.join(target).join(profile).join(program))
    }

    /// The crates in a program built for `target`, as `sbom` reads them.
    pub(crate) fn dependencies(&self, program: &str, target: &str) -> Result<String> {
        let mut cargo = self.cargo();
        cargo.args(["tree", "--locked", "--target", target, "--package", program]);
        cargo.args(TREE_ARGUMENTS);
        output(&mut cargo)
    }

    /// What is linked into a program besides crates.
    pub(crate) fn linked(&self) -> Result<[Linked; 2]> {
        let rustc = output(self.rustc().arg("--version"))?;
        let glibc = match &self.rust {
            Some(rust) => rust.glibc.clone(),
            None => second_word(&output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?)?,
        };
        Ok([
            Linked {
                name: "rust-std",
                version: second_word(&rustc)?,
                license: "MIT OR Apache-2.0",
            },
            Linked {
                name: "glibc",
                version: glibc,
                license: "LGPL-2.1-or-later",
            },
        ])
    }

    /// What the image is built from.
    pub(crate) fn source(&self) -> Result<Source> {
        let commit = self.git(&["log", "-1", "--format=%H %ct"]);
        let (revision, committed) = match commit.as_deref().and_then(|line| line.trim().split_once(' ')) {
            Some((revision, time)) => (Some(revision), Some(time.to_owned())),
            None => (None, None),
        };
        let time = env::var("SOURCE_DATE_EPOCH")
            .ok()
            .or(committed)
            .context("no git commit to date the image by: set SOURCE_DATE_EPOCH to seconds since 1970")?;
        let seconds = time
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH must be seconds since 1970, not {time:?}"))?;
        let clean = self
            .git(&["status", "--porcelain"])
            .is_some_and(|changes| changes.is_empty());
        Ok(Source {
            time: Timestamp::from_second(seconds)?,
            revision: revision.map(|id| format!("{id}{}", if clean { "" } else { "-dirty" })),
        })
    }

    /// Static, and without the paths of the machine that builds: two machines build the same bytes.
    fn compiler_flags(&self) -> Result<OsString> {
        let cargo_home = match env::var_os("CARGO_HOME") {
            Some(folder) => PathBuf::from(folder),
            None => env::home_dir()
                .context("set CARGO_HOME or HOME: cargo keeps crates' sources there")?
                .join(".cargo"),
        };
        // Separated by the unit separator, as cargo asks: a folder's name may have spaces.
        let mut flags = OsString::from("-C\u{1f}target-feature=+crt-static");
        if self.rust.is_some() {
            flags.push("\u{1f}-C\u{1f}relocation-model=static");
        }
        for (folder, name) in [(&cargo_home, "/cargo"), (&self.root, "/maroonedpods")] {
            flags.push("\u{1f}--remap-path-prefix=");
            flags.push(folder);
            flags.push("=");
            flags.push(name);
        }
        Ok(flags)
    }

    fn cargo(&self) -> Command {
        let mut cargo = cargo(&self.root);
        if let Some(rust) = &self.rust {
            cargo.env("RUSTC", &rust.rustc);
        }
        cargo
    }

    fn rustc(&self) -> Command {
        let mut rustc = Command::new(match &self.rust {
            Some(rust) => rust.rustc.clone().into_os_string(),
            None => env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
        });
        rustc.current_dir(&self.root);
        rustc
    }

    /// What git answers; None where it cannot.
    fn git(&self, arguments: &[&str]) -> Option<String> {
        let mut git = Command::new("git");
        git.current_dir(&self.root).args(arguments);
        output(&mut git).ok()
    }
}

impl Source {
    /// The standard annotations of an image of this name.
    pub(crate) fn labels(&self, title: &str) -> BTreeMap<String, String> {
        let mut labels = vec![
            ("title", title.to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("licenses", env!("CARGO_PKG_LICENSE").to_owned()),
            ("created", self.time.to_string()),
        ];
        if let Some(revision) = &self.revision {
            labels.push(("revision", revision.clone()));
        }
        labels
            .into_iter()
            .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value))
            .collect()
    }
}

/// The cargo that runs us, if one does.
fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder);
    // `cargo test` says of which package we are. Build scripts that look at such variables (ring's) would run again,
    // and all that needs them be compiled again, by each program that builds images.
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&variable);
        }
    }
    cargo
}

/// The version in an answer such as `rustc 1.95.0 (…)`.
fn second_word(answer: &str) -> Result<String> {
    let word = answer.split_whitespace().nth(1);
    Ok(word
        .with_context(|| format!("no version in {answer:?}"))?
        .to_owned())
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(
        status.success(),
        "{program} failed ({status}): {}",
        String::from_utf8_lossy(&stderr).trim()
    );
    Ok(String::from_utf8(stdout)?)
}
