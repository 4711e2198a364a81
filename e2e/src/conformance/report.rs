//! What `e2e.test` reports of its specs (ginkgo's JSON), and what is written of that: `JUnit` and a Markdown table.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A reason is cut off after so many characters; the log has the rest.
const REASON: usize = 240;
/// Kind of the nodes of ginkgo's tree that are specs.
const SPEC: &str = "It";

/// How a spec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// It passed.
    Passed,
    /// It failed, or what runs before every spec did.
    Failed,
    /// It found that it is not for this cluster.
    Skipped,
}

impl Outcome {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// A spec's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it ran.
    pub seconds: f64,
    /// Why it did not pass; empty if it did.
    pub reason: String,
}

/// The ends of specs, by their full names.
pub(super) type Results = BTreeMap<String, Ended>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Vec<Report>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    /// In nanoseconds.
    run_time: f64,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

impl Report {
    /// As `--focus` is matched with.
    fn name(&self) -> String {
        let texts = self.container_hierarchy_texts.iter().flatten();
        let texts = texts.chain([&self.leaf_node_text]).map(String::as_str);
        texts.collect::<Vec<_>>().join(" ")
    }

    fn reason(&self) -> &str {
        self.failure
            .as_ref()
            .map(|failure| failure.message.as_str())
            .unwrap_or_default()
    }

    /// What was left out says no reason; a spec that skips itself does.
    fn was_run(&self) -> bool {
        !matches!(self.state.as_str(), "skipped" | "pending") || !self.reason().is_empty()
    }
}

fn parse(report: &str) -> Result<Vec<Report>> {
    let suites: Vec<Suite> = serde_json::from_str(report).context("no report of ginkgo's")?;
    Ok(suites.into_iter().flat_map(|suite| suite.spec_reports).collect())
}

/// The names of the specs that a dry run reports as run.
///
/// # Errors
/// It is no report.
pub(super) fn listed(report: &str) -> Result<Vec<String>> {
    let specs = parse(report)?
        .into_iter()
        .filter(|report| report.leaf_node_type == SPEC && report.was_run());
    Ok(specs.map(|report| report.name()).collect())
}

/// How the one spec of this name ended.
///
/// # Errors
/// It is no report, or tells neither of the spec nor of a failure before it.
pub(super) fn end_of(name: &str, report: &str) -> Result<Ended> {
    let reports = parse(report)?;
    let spec = reports
        .iter()
        .find(|report| report.leaf_node_type == SPEC && report.was_run() && report.name() == name);
    let failed = |report: &&Report| !matches!(report.state.as_str(), "passed" | "skipped" | "pending");
    let before = reports
        .iter()
        .filter(|report| report.leaf_node_type != SPEC)
        .find(failed);
    let report = before.or(spec).context("the report does not tell of the spec")?;
    let outcome = match report.state.as_str() {
        "passed" => Outcome::Passed,
        "skipped" => Outcome::Skipped,
        _ => Outcome::Failed,
    };
    Ok(Ended {
        outcome,
        seconds: report.run_time / 1e9,
        reason: shortened(report.reason()),
    })
}

/// A reason in one line.
fn shortened(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(REASON) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}

/// How many ended in each way.
#[must_use]
pub(super) fn counts(results: &Results) -> [(Outcome, usize); 3] {
    [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(|outcome| {
        let count = results.values().filter(|ended| ended.outcome == outcome).count();
        (outcome, count)
    })
}

/// A table of all results: those that did not pass come first.
#[must_use]
pub(super) fn markdown(title: &str, results: &Results) -> String {
    let counts = counts(results).map(|(outcome, count)| format!("{count} {}", outcome.name()));
    let mut text = format!("# {title}\n\n{}\n\n", counts.join(", "));
    text += "| spec | result | s | reason |\n|---|---|---|---|\n";
    let mut rows: Vec<_> = results.iter().collect();
    rows.sort_by_key(|(_, ended)| ended.outcome == Outcome::Passed);
    for (name, ended) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {} |",
            cell(name),
            ended.outcome.name(),
            ended.seconds,
            cell(&ended.reason)
        );
    }
    text
}

/// Text that is no markup in a cell of a table.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for letter in text.chars() {
        if matches!(letter, '\\' | '|' | '[' | ']' | '<' | '*' | '_' | '`') {
            cell.push('\\');
        }
        cell.push(letter);
    }
    cell
}

/// The results as `JUnit` has them.
#[must_use]
pub(super) fn junit(suite: &str, results: &Results) -> String {
    let [_, (_, failures), (_, skipped)] = counts(results);
    let seconds: f64 = results.values().map(|ended| ended.seconds).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" \
         skipped=\"{skipped}\" time=\"{seconds:.3}\">\n",
        escaped(suite),
        results.len()
    );
    for (name, ended) in results {
        let end = match ended.outcome {
            Outcome::Passed => "/>".to_owned(),
            Outcome::Failed => format!("><failure message=\"{}\"/></testcase>", escaped(&ended.reason)),
            Outcome::Skipped => format!("><skipped message=\"{}\"/></testcase>", escaped(&ended.reason)),
        };
        let _ = writeln!(
            text,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"{end}",
            escaped(suite),
            escaped(name),
            ended.seconds
        );
    }
    text + "</testsuite>\n"
}

/// Text in an attribute; control characters have no place in XML.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(texts: &[&str], state: &str, failure: Option<&str>) -> Value {
        node("It", texts, state, failure)
    }

    fn node(kind: &str, texts: &[&str], state: &str, failure: Option<&str>) -> Value {
        let (leaf, containers) = texts.split_last().unwrap_or((&"", &[]));
        let mut report = json!({
            "ContainerHierarchyTexts": if containers.is_empty() { Value::Null } else { json!(containers) },
            "LeafNodeType": kind, "LeafNodeText": leaf, "State": state, "RunTime": 2_500_000_000_u64,
        });
        if let Some(message) = failure {
            report["Failure"] =
                json!({"Message": message, "Location": {"FileName": "x.go", "LineNumber": 1}});
        }
        report
    }

    fn report(specs: &[Value]) -> String {
        json!([{"SuiteDescription": "s", "SpecReports": specs}]).to_string()
    }

    fn ended(outcome: Outcome, seconds: f64, reason: &str) -> Ended {
        Ended {
            outcome,
            seconds,
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn a_dry_run_lists_what_is_not_left_out() {
        let report = report(&[
            node("ReportBeforeSuite", &[""], "passed", None),
            spec(&["[sig-node] Pods", "should run"], "passed", None),
            spec(&["[sig-node] Pods", "should not"], "skipped", None),
            spec(&["alone"], "pending", None),
        ]);
        assert_eq!(listed(&report).unwrap(), ["[sig-node] Pods should run"]);
        assert!(listed("{}").is_err());
    }

    #[test]
    fn a_spec_ends_as_its_report_says() {
        for (state, failure, outcome, reason) in [
            ("passed", None, Outcome::Passed, ""),
            ("failed", Some("no\n  pod"), Outcome::Failed, "no pod"),
            ("timedout", Some("late"), Outcome::Failed, "late"),
            ("panicked", Some("oh"), Outcome::Failed, "oh"),
            ("skipped", Some("not here"), Outcome::Skipped, "not here"),
        ] {
            let report = report(&[
                spec(&["other"], "skipped", None),
                spec(&["a", "b"], state, failure),
            ]);
            assert_eq!(
                end_of("a b", &report).unwrap(),
                ended(outcome, 2.5, reason),
                "{state}"
            );
        }
    }

    #[test]
    fn a_failure_before_the_spec_is_its_own() {
        let before = node("SynchronizedBeforeSuite", &[""], "failed", Some("no nodes"));
        let report = report(&[before, spec(&["a"], "skipped", None)]);
        assert_eq!(
            end_of("a", &report).unwrap(),
            ended(Outcome::Failed, 2.5, "no nodes")
        );
    }

    #[test]
    fn a_report_of_other_specs_is_an_error() {
        let report = report(&[spec(&["b"], "passed", None), spec(&["a"], "skipped", None)]);
        assert!(end_of("a", &report).is_err());
    }

    #[test]
    fn a_long_reason_is_cut_off() {
        let reason = shortened(&"ä".repeat(REASON + 1));
        assert_eq!(reason.chars().count(), REASON + 2);
        assert_eq!(shortened(&"ä".repeat(REASON)).chars().count(), REASON);
    }

    fn results() -> Results {
        [
            ("[a] one", ended(Outcome::Passed, 1.26, "")),
            ("[b] two", ended(Outcome::Failed, 2.0, "a|b <c> \"d\" & e\u{1b}")),
            ("[c] three", ended(Outcome::Skipped, 0.0, "no")),
        ]
        .into_iter()
        .map(|(name, ended)| (name.to_owned(), ended))
        .collect()
    }

    #[test]
    fn what_did_not_pass_comes_first_in_the_table() {
        let text = markdown("T", &results());
        assert!(
            text.starts_with("# T\n\n1 passed, 1 failed, 1 skipped\n\n"),
            "{text}"
        );
        let rows: Vec<_> = text.lines().skip(6).collect();
        assert_eq!(
            rows,
            [
                "| \\[b\\] two | failed | 2 | a\\|b \\<c> \"d\" & e\u{1b} |",
                "| \\[c\\] three | skipped | 0 | no |",
                "| \\[a\\] one | passed | 1 |  |",
            ]
        );
    }

    #[test]
    fn junit_is_well_formed() {
        let text = junit("s", &results());
        assert!(
            text.contains("tests=\"3\" failures=\"1\" skipped=\"1\" time=\"3.260\""),
            "{text}"
        );
        assert!(text.contains("name=\"[a] one\" time=\"1.260\"/>"), "{text}");
        assert!(
            text.contains("<failure message=\"a|b &lt;c&gt; &quot;d&quot; &amp; e \"/></testcase>"),
            "{text}"
        );
        assert!(text.contains("<skipped message=\"no\"/></testcase>"), "{text}");
    }
}
