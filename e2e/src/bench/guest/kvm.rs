//! Whether KVM runs a guest. QEMU's arguments do not say: it may have been told to emulate where KVM fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::api::check::eventually;
use crate::fake_kubevirt::RealVm;

/// For QEMU to answer: at once, on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Of our question among those of others.
const ID: &str = "bench-kvm";

/// Asks the guest's QEMU (QMP's `query-kvm`).
pub async fn enabled(vm: &RealVm<'_>) -> Result<bool> {
    let question = format!("echo '{{\"execute\": \"query-kvm\", \"id\": \"{ID}\"}}' > /run/vm/qmp.in");
    vm.shell(&question).await?;
    eventually("QEMU to say whether it uses KVM", LIMIT, || async {
        answer(&vm.shell("cat /run/vm/qmp.log").await?)
    })
    .await
}

/// The answer in what QEMU has said so far: a JSON object on each line.
fn answer(log: &str) -> Result<Option<bool>> {
    // QEMU may be in the middle of the last line.
    let mut said = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let Some(answer) = said.find(|said| said["id"] == ID) else {
        return Ok(None);
    };
    ensure!(answer.get("error").is_none(), "QEMU refuses to say: {answer}");
    let enabled = answer["return"]["enabled"].as_bool();
    enabled.map(Some).with_context(|| format!("QEMU says {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_by_its_id() {
        let others = "{\"QMP\": {\"version\": {}}}\r\n{\"return\": {}}\r\n\
                      {\"return\": {\"enabled\": true, \"present\": true}, \"id\": \"other\"}\r\n";
        assert_eq!(answer(others).unwrap(), None);
        for enabled in [true, false] {
            let ours = format!(
                "{others}{{\"return\": {{\"enabled\": {enabled}, \"present\": true}}, \"id\": \"{ID}\"}}\r\n"
            );
            assert_eq!(answer(&ours).unwrap(), Some(enabled));
        }
        assert_eq!(
            answer(&format!("{others}{{\"id\": \"{ID}\", \"ret")).unwrap(),
            None
        );
    }

    #[test]
    fn an_answer_that_does_not_say_is_an_error() {
        for what in ["\"error\": {\"class\": \"GenericError\"}", "\"return\": {}"] {
            assert!(
                answer(&format!("{{\"id\": \"{ID}\", {what}}}")).is_err(),
                "{what}"
            );
        }
    }
}
