//! Software bill of materials of a program: CycloneDX 1.6 JSON, from what `cargo tree` says of its crates.
//!
//! The crates cyclonedx-bom (0.8) and cargo-cyclonedx (0.5) write CycloneDX up to 1.5.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

/// What `cargo tree` must be asked with: the crates linked into a program (not those that run while it is built),
/// one a line, with depth, licence and repository.
pub(crate) const TREE_ARGUMENTS: [&str; 6] = [
    "--edges",
    "normal,no-proc-macro",
    "--prefix",
    "depth",
    "--format",
    "{p}\t{l}\t{r}",
];

/// A part that is linked in and is not a crate, such as the C library.
#[derive(Clone, Debug)]
pub(crate) struct Linked {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) license: &'static str,
}

/// A bill of materials; its fields are those of the CycloneDX JSON schema.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bom {
    #[serde(rename = "bomFormat")]
    format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependencies>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Metadata {
    timestamp: Timestamp,
    component: Component,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    id: String,
    name: String,
    version: String,
    purl: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<License>,
    #[serde(rename = "externalReferences", skip_serializing_if = "Vec::is_empty")]
    references: Vec<Reference>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct License {
    expression: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Reference {
    #[serde(rename = "type")]
    kind: &'static str,
    url: String,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependencies {
    #[serde(rename = "ref")]
    id: String,
    depends_on: BTreeSet<String>,
}

/// The bill of the program at the root of `tree`, which is what `cargo tree` printed.
///
/// `sha256` is the program's own digest, in hexadecimal: it ties the bill to the file, and makes its serial number.
///
/// # Errors
/// A line of the tree is not as [`TREE_ARGUMENTS`] asks for.
pub(crate) fn document(tree: &str, linked: &[Linked], sha256: &str, timestamp: Timestamp) -> Result<Bom> {
    let mut components = BTreeMap::new();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // The crates from the root down to the line before.
    let mut path: Vec<String> = Vec::new();
    for line in tree.lines() {
        let (depth, component) = line_of_tree(line)
            .with_context(|| format!("cargo tree printed {line:?}, which names no crate"))?;
        path.truncate(depth);
        if let Some(parent) = path.last() {
            edges
                .entry(parent.clone())
                .or_default()
                .insert(component.id.clone());
        }
        edges.entry(component.id.clone()).or_default();
        path.push(component.id.clone());
        components.insert(component.id.clone(), component);
    }
    let root = path.first().context("cargo tree printed nothing")?.clone();
    let mut program = components
        .remove(&root)
        .context("a program that depends on itself")?;
    program.kind = "application";
    program.hashes.push(Hash {
        alg: "SHA-256",
        content: sha256.to_owned(),
    });
    for part in linked {
        let purl = format!("pkg:generic/{}@{}", part.name, part.version);
        edges.entry(root.clone()).or_default().insert(purl.clone());
        edges.insert(purl.clone(), BTreeSet::new());
        components.insert(purl.clone(), part.component(purl));
    }
    Ok(bom(program, components, edges, sha256, timestamp))
}

/// A part of an image that is not a crate, such as a package of its distribution.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Its package URL, which says whose name that is.
    pub(crate) purl: String,
}

/// The bill of an image with programs of ours, whose bills these are, and other parts; `sha256` is the digest of what
/// it holds.
pub(crate) fn of_image(
    image: Part,
    parts: impl IntoIterator<Item = Part>,
    programs: Vec<Bom>,
    sha256: &str,
    timestamp: Timestamp,
) -> Bom {
    let mut components: BTreeMap<String, Component> = parts
        .into_iter()
        .map(|part| (part.purl.clone(), part.component("library")))
        .collect();
    let mut edges: BTreeMap<String, BTreeSet<String>> = components
        .keys()
        .map(|id| (id.clone(), BTreeSet::new()))
        .collect();
    let mut contents: BTreeSet<String> = components.keys().cloned().collect();
    for program in programs {
        contents.insert(program.metadata.component.id.clone());
        for component in program.components.into_iter().chain([program.metadata.component]) {
            components.insert(component.id.clone(), component);
        }
        for dependencies in program.dependencies {
            edges
                .entry(dependencies.id)
                .or_default()
                .extend(dependencies.depends_on);
        }
    }
    edges.insert(image.purl.clone(), contents);
    let mut image = image.component("container");
    image.hashes.push(Hash {
        alg: "SHA-256",
        content: sha256.to_owned(),
    });
    bom(image, components, edges, sha256, timestamp)
}

fn bom(
    component: Component,
    components: BTreeMap<String, Component>,
    edges: BTreeMap<String, BTreeSet<String>>,
    sha256: &str,
    timestamp: Timestamp,
) -> Bom {
    Bom {
        format: "CycloneDX",
        spec_version: "1.6",
        serial_number: Uuid::new_v5(&Uuid::NAMESPACE_OID, sha256.as_bytes())
            .urn()
            .to_string(),
        version: 1,
        metadata: Metadata { timestamp, component },
        components: components.into_values().collect(),
        dependencies: edges
            .into_iter()
            .map(|(id, depends_on)| Dependencies { id, depends_on })
            .collect(),
    }
}

impl Part {
    fn component(self, kind: &'static str) -> Component {
        Component {
            kind,
            id: self.purl.clone(),
            name: self.name,
            version: self.version,
            purl: self.purl,
            hashes: Vec::new(),
            licenses: Vec::new(),
            references: Vec::new(),
        }
    }
}

impl Linked {
    fn component(&self, purl: String) -> Component {
        Component {
            kind: "library",
            id: purl.clone(),
            name: self.name.to_owned(),
            version: self.version.clone(),
            purl,
            hashes: Vec::new(),
            licenses: vec![License {
                expression: self.license.to_owned(),
            }],
            references: Vec::new(),
        }
    }
}

/// Reads `<depth><name> v<version> (<path>)<tab><licence><tab><repository> (*)`: the path stands only where there
/// is one, and the star where the crate's own dependencies were printed before.
fn line_of_tree(line: &str) -> Option<(usize, Component)> {
    let crate_begins = line.find(|c: char| !c.is_ascii_digit())?;
    let (depth, rest) = line.split_at(crate_begins);
    let mut columns = rest.trim_end_matches(" (*)").split('\t');
    let mut words = columns.next()?.split(' ');
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    let license = columns.next()?;
    let repository = columns.next()?;
    let purl = format!("pkg:cargo/{name}@{version}");
    let component = Component {
        kind: "library",
        id: purl.clone(),
        name: name.to_owned(),
        version: version.to_owned(),
        purl,
        hashes: Vec::new(),
        licenses: some(license)
            .map(|license| License {
                // The spelling of old manifests, which is not an SPDX expression.
                expression: license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR "),
            })
            .into_iter()
            .collect(),
        references: some(repository)
            .map(|url| Reference {
                kind: "vcs",
                url: url.to_owned(),
            })
            .into_iter()
            .collect(),
    };
    Some((depth.parse().ok()?, component))
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TREE: &str = "0program v0.1.0 (/src/program)\tApache-2.0\t
1memo v2.8.3\tMIT / Apache-2.0\thttps://code.example/memo
2bytes v1.12.1\tMIT\thttps://code.example/bytes
1common v0.1.0 (/src/common)\tApache-2.0\t
2memo v2.8.3\tMIT / Apache-2.0\thttps://code.example/memo (*)
";

    fn linked() -> [Linked; 1] {
        [Linked {
            name: "glibc",
            version: "2.36".to_owned(),
            license: "LGPL-2.1-or-later",
        }]
    }

    #[test]
    fn a_tree_becomes_components_and_edges() {
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        let bom = serde_json::to_value(document(TREE, &linked(), "abc", time).unwrap()).unwrap();
        assert_eq!(
            bom["metadata"],
            json!({
                "timestamp": "2026-01-02T03:04:05Z",
                "component": {
                    "type": "application", "bom-ref": "pkg:cargo/program@0.1.0", "name": "program",
                    "version": "0.1.0", "purl": "pkg:cargo/program@0.1.0",
                    "hashes": [{"alg": "SHA-256", "content": "abc"}],
                    "licenses": [{"expression": "Apache-2.0"}],
                },
            })
        );
        let names: Vec<_> = bom["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| component["purl"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "pkg:cargo/bytes@1.12.1",
                "pkg:cargo/common@0.1.0",
                "pkg:cargo/memo@2.8.3",
                "pkg:generic/glibc@2.36"
            ]
        );
        assert_eq!(
            bom["components"][2]["licenses"],
            json!([{"expression": "MIT OR Apache-2.0"}])
        );
        assert_eq!(
            bom["components"][2]["externalReferences"],
            json!([{"type": "vcs", "url": "https://code.example/memo"}])
        );
        assert_eq!(
            bom["dependencies"],
            json!([
                {"ref": "pkg:cargo/bytes@1.12.1", "dependsOn": []},
                {"ref": "pkg:cargo/common@0.1.0", "dependsOn": ["pkg:cargo/memo@2.8.3"]},
                {"ref": "pkg:cargo/memo@2.8.3", "dependsOn": ["pkg:cargo/bytes@1.12.1"]},
                {"ref": "pkg:cargo/program@0.1.0", "dependsOn": [
                    "pkg:cargo/common@0.1.0", "pkg:cargo/memo@2.8.3", "pkg:generic/glibc@2.36"]},
                {"ref": "pkg:generic/glibc@2.36", "dependsOn": []},
            ])
        );
    }

    #[test]
    fn two_programs_have_two_serial_numbers() {
        let serial = |sha256| {
            document(TREE, &[], sha256, Timestamp::UNIX_EPOCH)
                .unwrap()
                .serial_number
        };
        assert_eq!(serial("abc"), serial("abc"));
        assert_ne!(serial("abc"), serial("abd"));
        assert!(serial("abc").starts_with("urn:uuid:"));
    }

    #[test]
    fn an_image_depends_on_its_parts_and_programs() {
        let part = |name: &str| Part {
            name: name.to_owned(),
            version: "1".to_owned(),
            purl: format!("pkg:deb/debian/{name}@1"),
        };
        let time = Timestamp::UNIX_EPOCH;
        let program = document(TREE, &linked(), "abc", time).unwrap();
        let bom = of_image(part("image"), [part("runc")], vec![program], "def", time);
        let bom = serde_json::to_value(bom).unwrap();
        assert_eq!(bom["metadata"]["component"]["type"], "container");
        assert_eq!(bom["metadata"]["component"]["hashes"][0]["content"], "def");
        assert_eq!(bom["components"].as_array().unwrap().len(), 1 + 5);
        let image = bom["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .find(|dependencies| dependencies["ref"] == "pkg:deb/debian/image@1");
        assert_eq!(
            image.unwrap()["dependsOn"],
            json!(["pkg:cargo/program@0.1.0", "pkg:deb/debian/runc@1"])
        );
    }

    #[test]
    fn what_is_no_tree_is_an_error() {
        for tree in ["", "error: no such package", "0program", "0program 1.0\tMIT\t"] {
            assert!(
                document(tree, &[], "abc", Timestamp::UNIX_EPOCH).is_err(),
                "{tree:?}"
            );
        }
    }
}
