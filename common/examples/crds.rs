//! Writes one YAML file per CRD into the folder given as the only argument. `hack/generate` runs it.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use maroonedpods_common::api;

fn main() -> Result<(), Box<dyn Error>> {
    let folder: PathBuf = env::args_os().nth(1).ok_or("usage: crds FOLDER")?.into();
    fs::create_dir_all(&folder)?;
    for crd in api::crds() {
        fs::write(folder.join(file_name(&crd)), yaml(&crd)?)?;
    }
    Ok(())
}

fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.spec.names.plural)
}

fn yaml(crd: &CustomResourceDefinition) -> Result<String, serde_yaml_ng::Error> {
    let body = serde_yaml_ng::to_string(crd)?;
    Ok(format!(
        "# Written by hack/generate from common/src/api. Do not edit.\n{body}"
    ))
}
