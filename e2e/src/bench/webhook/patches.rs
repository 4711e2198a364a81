//! Whether answers that patch a pod in different ways mean the same pod.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Bytes;
use json_patch::Patch;
use serde::Deserialize;
use serde_json::Value;

/// Fails unless all these answers to a review, by design, lead to the same pod, and to another than the review's.
pub(super) fn mean_the_same(review: &[u8], answers: &[(&str, Bytes)]) -> Result<()> {
    let mut first = None;
    for (design, answer) in answers {
        let pod = patched(review, answer).with_context(|| format!("the answer of {design}"))?;
        let (of, expected) = first.get_or_insert_with(|| (*design, pod.clone()));
        ensure!(
            pod == *expected,
            "the patch of {design} leads to another pod than that of {of}:\n{pod:#}\n{expected:#}"
        );
    }
    Ok(())
}

/// The pod of a review as the answer's patch leaves it.
fn patched(review: &[u8], answer: &[u8]) -> Result<Value> {
    let review: Value = serde_json::from_slice(review)?;
    let answer: Value = serde_json::from_slice(answer)?;
    let (request, response) = (&review["request"], &answer["response"]);
    ensure!(
        response["uid"].is_string() && response["uid"] == request["uid"],
        "it answers another request: {response}"
    );
    ensure!(response["allowed"] == true, "it refuses the pod: {response}");
    ensure!(
        response["patchType"] == "JSONPatch",
        "it has no JSON patch: {response}"
    );
    let patch: Patch = serde_json::from_slice(&decoded(&response["patch"])?)?;
    let mut pod = request["object"].clone();
    json_patch::patch(&mut pod, &patch)?;
    ensure!(pod != request["object"], "its patch changes nothing");
    Ok(pod)
}

/// A patch is in base64, or, as kube writes it, an array of bytes.
fn decoded(patch: &Value) -> Result<Vec<u8>> {
    Ok(match patch {
        Value::String(text) => BASE64_STANDARD.decode(text)?,
        bytes => Vec::deserialize(bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UID: &str = "u";

    fn review() -> Vec<u8> {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
        json!({"request": {"uid": UID, "object": pod}})
            .to_string()
            .into_bytes()
    }

    fn base64(patch: &Value) -> Value {
        BASE64_STANDARD.encode(patch.to_string()).into()
    }

    fn bytes(patch: &Value) -> Value {
        patch.to_string().into_bytes().into()
    }

    fn answer(patch: &Value) -> Value {
        json!({"response": {"uid": UID, "allowed": true, "patchType": "JSONPatch", "patch": patch}})
    }

    fn compared(answers: &[Value]) -> Result<()> {
        let answers: Vec<_> = answers
            .iter()
            .map(|answer| ("d", Bytes::from(answer.to_string())))
            .collect();
        mean_the_same(&review(), &answers)
    }

    /// A label, with the labels made first.
    fn in_steps(value: &str) -> Value {
        json!([
            {"op": "add", "path": "/metadata/labels", "value": {}},
            {"op": "add", "path": "/metadata/labels/a", "value": value},
        ])
    }

    fn at_once(value: &str) -> Value {
        json!([{"op": "add", "path": "/metadata/labels", "value": {"a": value}}])
    }

    #[test]
    fn the_pod_counts_and_not_the_operations() {
        compared(&[answer(&base64(&in_steps("1"))), answer(&bytes(&at_once("1")))]).unwrap();
    }

    #[test]
    fn another_pod_is_found_whichever_answer_it_is_of() {
        let (one, two) = (answer(&base64(&in_steps("1"))), answer(&bytes(&at_once("2"))));
        for answers in [[&one, &one, &two], [&one, &two, &one], [&two, &one, &one]] {
            let error = compared(&answers.map(Clone::clone)).unwrap_err();
            assert!(error.to_string().contains("another pod"), "{error}");
        }
    }

    #[test]
    fn an_answer_that_patches_nothing_is_an_error() {
        let good = base64(&in_steps("1"));
        let mut bad = vec![answer(&base64(&json!([]))), answer(&Value::Null), json!({})];
        for (field, value) in [
            ("uid", "other".into()),
            ("allowed", false.into()),
            ("patchType", Value::Null),
        ] {
            let mut answer = answer(&good);
            answer["response"][field] = value;
            bad.push(answer);
        }
        for answer in bad {
            assert!(compared(&[answer.clone(), answer.clone()]).is_err(), "{answer}");
        }
        compared(&[answer(&good), answer(&good)]).unwrap();
    }
}
