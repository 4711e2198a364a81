//! Whether KVM runs a guest. QEMU's arguments do not say: it may have been told to emulate where KVM fails.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::kubevirt::RealVm;

/// Asks the guest's QEMU (QMP's `query-kvm`).
pub async fn enabled(vm: &RealVm<'_>) -> Result<bool> {
    answer(&vm.qmp(r#"{"execute": "query-kvm"}"#).await?)
}

fn answer(said: &str) -> Result<bool> {
    let answer: Value = serde_json::from_str(said).with_context(|| format!("QEMU says {said:?}"))?;
    let enabled = answer["return"]["enabled"].as_bool();
    enabled.with_context(|| format!("QEMU says {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_says_whether() {
        for enabled in [true, false] {
            let said = format!(
                "{{\"return\": {{\"enabled\": {enabled}, \"present\": true}}, \"id\": \"libvirt-7\"}}\n"
            );
            assert_eq!(answer(&said).unwrap(), enabled);
        }
    }

    #[test]
    fn an_answer_that_does_not_say_is_an_error() {
        for said in [
            "{\"error\": {\"class\": \"GenericError\"}}",
            "{\"return\": {}}",
            "",
        ] {
            assert!(answer(said).is_err(), "{said}");
        }
    }
}
