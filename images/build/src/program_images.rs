//! Our two programs as container images: built static, so that an image needs no base and holds nothing else.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cargo::{Profile, Source, TARGET, Workspace};
use crate::command::put;
use crate::oci::{Files, Image};
use crate::sbom;

/// An ID that no distribution gives to a user: small base images run as it.
const USER: &str = "65532:65532";
const WEBHOOK: &str = "maroonedpods-webhook";
const RECONCILER: &str = "maroonedpods-reconciler";

/// How to build and name the images.
#[derive(Clone, Debug)]
pub struct Options {
    /// Put before the name, with a slash between; may be empty.
    pub registry: String,
    /// The version of the programs where there is none.
    pub tag: Option<String>,
    /// How the programs are compiled.
    pub profile: Profile,
}

/// Both images.
#[derive(Clone, Debug)]
pub struct Images {
    /// Of the webhook.
    pub webhook: Built,
    /// Of the reconciler.
    pub reconciler: Built,
}

/// One image.
#[derive(Clone, Debug)]
pub struct Built {
    /// Full reference: registry, name, tag.
    pub name: String,
    /// The OCI archive.
    pub archive: PathBuf,
    /// The software bill of materials (CycloneDX JSON), which the image holds too.
    pub sbom: PathBuf,
    /// Digest of the image's manifest, `sha256:…`.
    pub digest: String,
    /// Size of the archive, in bytes.
    pub size: usize,
}

/// The images that tests run: quickly compiled, and named below `localhost`, because Kubernetes looks up a bare name in a
/// registry. cargo builds what is not built yet, which takes minutes the first time, and lets only one process build at a
/// time. Blocks.
pub fn images() -> Result<Images> {
    build(&Options {
        registry: "localhost".to_owned(),
        tag: None,
        profile: Profile::Test,
    })
}

/// Builds both images below cargo's target folder. Blocks.
///
/// The same commit gives the same images, wherever and whenever it is built.
///
/// # Errors
/// A program does not build; there is neither a git commit nor `SOURCE_DATE_EPOCH` to date the images by.
pub fn build(options: &Options) -> Result<Images> {
    let workspace = Workspace::find()?;
    let source = workspace.source()?;
    let image = |program| build_one(&workspace, &source, options, program).with_context(|| program);
    Ok(Images {
        webhook: image(WEBHOOK)?,
        reconciler: image(RECONCILER)?,
    })
}

fn build_one(
    workspace: &Workspace,
    source: &Source,
    options: &Options,
    program: &'static str,
) -> Result<Built> {
    let executable = workspace.build(program, options.profile, TARGET)?;
    let binary = fs::read(&executable).with_context(|| format!("reading {}", executable.display()))?;
    let sbom = sbom::document(
        &workspace.dependencies(program, TARGET)?,
        &workspace.linked()?,
        &format!("{:x}", Sha256::digest(&binary)),
        source.time,
    )?;
    let sbom = serde_json::to_vec_pretty(&sbom)?;

    let image = image(program, binary, sbom.clone(), source, options)?;
    let archive = image.archive()?;
    let folder = options.profile.images(&workspace.target);
    fs::create_dir_all(&folder)?;
    Ok(Built {
        name: image.name,
        archive: put(&folder, &format!("{program}.tar"), &archive.bytes)?,
        sbom: put(&folder, &format!("{program}.cdx.json"), &sbom)?,
        digest: archive.digest,
        size: archive.bytes.len(),
    })
}

fn image(program: &str, binary: Vec<u8>, sbom: Vec<u8>, source: &Source, options: &Options) -> Result<Image> {
    let path = format!("/bin/{program}");
    let mut files = Files::default();
    files.file(&path, 0o755, binary)?;
    // Where scanners look for it: any *.cdx.json in an image.
    files.file(&format!("/usr/share/sbom/{program}.cdx.json"), 0o644, sbom)?;
    Ok(Image {
        name: reference(options, program),
        files,
        entrypoint: vec![path],
        user: USER.to_owned(),
        env: vec!["PATH=/bin".to_owned()],
        labels: source.labels(program),
        created: source.time,
    })
}

fn reference(options: &Options, program: &str) -> String {
    let tag = options.tag.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
    match options.registry.trim_end_matches('/') {
        "" => format!("{program}:{tag}"),
        registry => format!("{registry}/{program}:{tag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(registry: &str, tag: Option<&str>) -> Options {
        Options {
            registry: registry.to_owned(),
            tag: tag.map(str::to_owned),
            profile: Profile::Release,
        }
    }

    #[test]
    fn registry_and_tag_make_the_name() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            reference(&options("", None), "program"),
            format!("program:{version}")
        );
        assert_eq!(
            reference(&options("registry.example/team/", Some("edge")), "program"),
            "registry.example/team/program:edge"
        );
    }

    #[test]
    fn an_image_runs_its_program_as_an_unprivileged_user() {
        let source = Source {
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            revision: Some("abc".to_owned()),
        };
        let image = image("program", vec![1], vec![2], &source, &options("", None)).unwrap();
        assert_eq!(image.entrypoint, ["/bin/program"]);
        assert_eq!(image.user, "65532:65532");
        assert_eq!(image.labels["org.opencontainers.image.title"], "program");
        assert_eq!(image.labels["org.opencontainers.image.revision"], "abc");
        assert_eq!(
            image.labels["org.opencontainers.image.created"],
            "2026-01-02T03:04:05Z"
        );
        assert_eq!(image.created, source.time);
    }
}
