//! Other guests to boot in turns with ours: another node image, other VMs.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A guest that differs from ours.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// What its column is called.
    pub name: String,
    /// The OCI archive of its node image, which `config` names.
    pub archive: Option<PathBuf>,
    /// What differs in the spec of the `MaroonedPodsConfig`, as a merge patch (RFC 7396).
    #[serde(default = "nothing")]
    pub config: Value,
}

fn nothing() -> Value {
    Value::Object(Map::new())
}

/// Reads a list of them, in YAML.
///
/// # Errors
/// The file's, or what is wrong with the list.
pub fn read(path: &Path) -> Result<Vec<Variant>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let variants: Vec<Variant> = serde_yaml_ng::from_reader(file).with_context(|| {
        format!(
            "{} is not a list of name, archive and config (both optional)",
            path.display()
        )
    })?;
    for variant in &variants {
        let at = || format!("{}, {}", path.display(), variant.name);
        ensure!(variant.config.is_object(), "{}: config is not an object", at());
        if let Some(archive) = &variant.archive {
            ensure!(archive.is_file(), "{}: {} is no file", at(), archive.display());
            ensure!(
                variant.config["nodeImage"].is_string(),
                "{}: config names no nodeImage, so that the archive would not be used",
                at()
            );
        }
    }
    Ok(variants)
}

/// The merge patch that takes back what `patch` changes of `base`.
pub fn undone(patch: &Value, base: &Value) -> Value {
    match (patch, base) {
        (Value::Object(patch), Value::Object(base)) => patch
            .iter()
            .map(|(key, value)| (key.clone(), undone(value, base.get(key).unwrap_or(&Value::Null))))
            .collect(),
        _ => base.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn read_text(text: &str) -> Result<Vec<Variant>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("variants.yaml");
        fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn variants_are_a_list_in_yaml() {
        let read = read_text("- name: a\n- {name: b, config: {vm: {cpuModel: max}}}\n").unwrap();
        let names: Vec<_> = read.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(read[0].config, json!({}));
        assert_eq!(read[1].config["vm"]["cpuModel"], "max");
        for (wrong, says) in [
            ("name: a", "is not a list of name"),
            ("- {name: a, image: b}", "is not a list of name"),
            ("- {name: a, config: [b]}", "a: config is not an object"),
            ("- {name: a, archive: /no/such}", "a: /no/such is no file"),
            (
                "- {name: a, archive: /proc/version}",
                "a: config names no nodeImage",
            ),
        ] {
            let error = format!("{:#}", read_text(wrong).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_a_patch_changed_is_taken_back() {
        let base = json!({"a": 1, "b": {"c": 2, "d": 3}});
        let patch = json!({"a": {"x": 1}, "b": {"c": null, "e": 4}, "f": {"g": 5}});
        let mut changed = base.clone();
        json_patch::merge(&mut changed, &patch);
        json_patch::merge(&mut changed, &undone(&patch, &base));
        assert_eq!(changed, base);
    }
}
