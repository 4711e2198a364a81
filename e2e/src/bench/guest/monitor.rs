//! What QEMU says of itself, through its monitor (QMP). Its arguments do not say whether KVM runs a guest: it may have been
//! told to emulate where KVM fails.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::kubevirt::RealVm;

/// Whether KVM runs the guest.
pub async fn kvm(vm: &RealVm<'_>) -> Result<bool> {
    let returned = returned(&vm.qmp(r#"{"execute": "query-kvm"}"#).await?)?;
    let enabled = returned["enabled"].as_bool();
    enabled.with_context(|| format!("QEMU says {returned} of KVM"))
}

/// QEMU's version, such as `10.0.2`.
pub async fn version(vm: &RealVm<'_>) -> Result<String> {
    let returned = returned(&vm.qmp(r#"{"execute": "query-version"}"#).await?)?;
    let number = |part| returned["qemu"][part].as_u64();
    let version = number("major").zip(number("minor")).zip(number("micro"));
    let ((major, minor), micro) = version.with_context(|| format!("QEMU says {returned} of its version"))?;
    Ok(format!("{major}.{minor}.{micro}"))
}

/// What a command returned.
fn returned(answer: &str) -> Result<Value> {
    let answer: Value = serde_json::from_str(answer).with_context(|| format!("QEMU says {answer:?}"))?;
    let returned = answer.get("return").cloned();
    returned.with_context(|| format!("QEMU refuses: {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_what_a_command_returned() {
        let answer = "{\"return\": {\"enabled\": false, \"present\": true}, \"id\": \"libvirt-7\"}\n";
        assert_eq!(returned(answer).unwrap()["enabled"], false);
        for refused in ["{\"error\": {\"class\": \"GenericError\"}}", "", "{"] {
            assert!(returned(refused).is_err(), "{refused}");
        }
    }
}
