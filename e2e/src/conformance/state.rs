//! What is known of the specs so far, in a file: a run that was stopped goes on where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::report::{Ended, Outcome, Results, junit, markdown};

/// The results of one build in one folder.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    kept: Kept,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// What the results are of: other builds have others.
    build: String,
    results: Results,
}

impl State {
    /// Reads what is known of a build from a folder, which is made if need be.
    pub(super) fn open(folder: &Path, build: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let state = folder.join(FILE);
        let kept = fs::read(state).ok();
        // One that was cut off, or of an earlier form, is as none.
        let kept = kept.and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
        let kept = kept.filter(|kept| kept.build == build).unwrap_or_else(|| Kept {
            build: build.to_owned(),
            ..Kept::default()
        });
        Ok(Self {
            folder: folder.to_owned(),
            kept,
        })
    }

    /// Forgets these specs, and no others.
    pub(super) fn forget(&mut self, specs: &[String]) -> Result<()> {
        self.kept.results.retain(|spec, _| !specs.contains(spec));
        self.write(FILE, &serde_json::to_vec_pretty(&self.kept)?)
    }

    /// The specs that have not passed yet.
    pub(super) fn left(&self, specs: Vec<String>) -> Vec<String> {
        let passed = |spec: &String| {
            self.end_of(spec)
                .is_some_and(|ended| ended.outcome == Outcome::Passed)
        };
        specs.into_iter().filter(|spec| !passed(spec)).collect()
    }

    fn end_of(&self, spec: &str) -> Option<&Ended> {
        self.kept.results.get(spec)
    }

    /// Of these specs, those that have ended.
    pub(super) fn results(&self, specs: &[String]) -> Results {
        let ends = specs.iter().filter_map(|spec| {
            let ended = self.end_of(spec)?.clone();
            Some((spec.clone(), ended))
        });
        ends.collect()
    }

    /// Adds the end of a spec, and writes all files again.
    pub(super) fn add(&mut self, spec: &str, ended: Ended, title: &str) -> Result<()> {
        self.kept.results.insert(spec.to_owned(), ended);
        let results = &self.kept.results;
        self.write(FILE, &serde_json::to_vec_pretty(&self.kept)?)?;
        self.write("junit.xml", junit(title, results).as_bytes())?;
        self.write("report.md", markdown(title, results).as_bytes())
    }

    /// A file is whole, whenever this process is killed.
    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let unfinished = self.folder.join(format!("{name}.unfinished"));
        fs::write(&unfinished, content)?;
        fs::rename(unfinished, self.folder.join(name)).with_context(|| format!("writing {name}"))
    }
}

const FILE: &str = "state.json";

/// What is shown of a spec that has ended: how many of all have, and how long the others may take as these did.
pub(super) fn progress(done: usize, all: usize, name: &str, ended: &Ended, elapsed: Duration) -> String {
    let line = format!(
        "{done:>3}/{all} {:<7} {:>4.0} s  {name}",
        ended.outcome.name(),
        ended.seconds
    );
    let reason = match ended.reason.as_str() {
        "" => String::new(),
        reason => format!("\n        {reason}"),
    };
    let left = all.saturating_sub(done);
    let of_all = match (u32::try_from(done), u32::try_from(left)) {
        (Ok(done), Ok(left)) if done > 0 && left > 0 => {
            let seconds = (elapsed / done * left).as_secs();
            format!("  ({} min left)", seconds.div_ceil(60))
        }
        _ => String::new(),
    };
    format!("{line}{of_all}{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Outcome) -> Ended {
        Ended {
            outcome,
            seconds: 2.4,
            reason: "why".to_owned(),
        }
    }

    #[test]
    fn a_rerun_leaves_out_what_passed_in_the_same_build() {
        let folder = tempfile::tempdir().unwrap();
        let specs = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut state = State::open(folder.path(), "1").unwrap();
        state.add("a", ended(Outcome::Passed), "t").unwrap();
        state.add("b", ended(Outcome::Failed), "t").unwrap();

        let left = |build| {
            let state = State::open(folder.path(), build).unwrap();
            (state.left(specs.clone()), state.results(&specs).len())
        };
        assert_eq!(left("1"), (["b", "c"].map(str::to_owned).to_vec(), 2));
        assert_eq!(left("2"), (specs.clone(), 0));
        // At once, for the run may be stopped before a spec ends; and no other spec's.
        state.forget(&specs[..1]).unwrap();
        assert_eq!(left("1"), (specs.clone(), 1));

        fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(left("1"), (specs.clone(), 0));
    }

    #[test]
    fn reports_hold_what_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path(), "1").unwrap();
        state.add("a", ended(Outcome::Passed), "t").unwrap();
        state.add("b", ended(Outcome::Failed), "t").unwrap();
        for file in ["junit.xml", "report.md"] {
            let text = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(text.contains('a') && text.contains("why"), "{text}");
        }
    }

    #[test]
    fn a_line_of_progress_says_how_long_the_rest_may_take() {
        let minute = Duration::from_secs(60);
        let passed = Ended {
            reason: String::new(),
            ..ended(Outcome::Passed)
        };
        assert_eq!(
            progress(2, 5, "n", &passed, minute),
            "  2/5 passed     2 s  n  (2 min left)"
        );
        assert_eq!(
            progress(5, 5, "n", &ended(Outcome::Failed), minute),
            "  5/5 failed     2 s  n\n        why"
        );
    }
}
