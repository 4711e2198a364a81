//! Whether a test that is named exists, and runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const FOLDERS: [&str; 5] = ["common", "e2e", "images", "reconciler", "webhook"];

/// The text of each Rust file, by its path from the root.
pub struct Sources(BTreeMap<String, String>);

impl Sources {
    pub fn load(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders: Vec<_> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, fs::read_to_string(path).unwrap());
                }
            }
        }
        Self(files)
    }

    /// The function must be a test, or a step that its own test target calls, and its file must be compiled.
    pub fn check(&self, file: &str, function: &str) -> Result<(), String> {
        let text = self.0.get(file).ok_or_else(|| format!("no file {file}"))?;
        if !self.is_compiled(file) {
            return Err(format!("{file} is part of no target"));
        }
        match attributes(text, function) {
            None => Err(format!("{file} has no function {function}")),
            Some(attributes) if attributes.iter().any(|attribute| is_test(attribute)) => Ok(()),
            Some(_) if self.is_called(file, function) => Ok(()),
            Some(_) => Err(format!("{function} of {file} is no test, and no test calls it")),
        }
    }

    /// Whether modules lead from the root of a target to the file.
    fn is_compiled(&self, file: &str) -> bool {
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
        if is_test_target(folder) || matches!(name, "main.rs" | "lib.rs") {
            return true;
        }
        let (above, module) = match name.strip_suffix(".rs") {
            Some("mod") => folder.rsplit_once('/').unwrap_or_default(),
            stem => (folder, stem.unwrap_or_default()),
        };
        let parents = [
            format!("{above}/main.rs"),
            format!("{above}/lib.rs"),
            format!("{above}/mod.rs"),
            format!("{above}.rs"),
        ];
        let declaration = format!("mod {module};");
        parents.iter().any(|parent| {
            let declares = |text: &String| text.lines().any(|line| line.ends_with(&declaration));
            self.0.get(parent).is_some_and(declares) && self.is_compiled(parent)
        })
    }

    /// Whether the test target that the file is part of names the function again.
    fn is_called(&self, file: &str, function: &str) -> bool {
        let Some((tests, rest)) = file
            .split_once("/tests/")
            .filter(|(before, _)| !before.contains("/src"))
        else {
            return false;
        };
        let target = match rest.split_once('/') {
            Some((target, _)) => format!("{tests}/tests/{target}/"),
            None => file.to_owned(),
        };
        let files = self.0.iter().filter(|(path, _)| path.starts_with(&target));
        files.flat_map(|(_, text)| text.lines()).any(|line| {
            let code = line.trim_start();
            !code.starts_with("//")
                && !code.starts_with("use ")
                && !defines(code, function)
                && words(code).any(|word| word == function)
        })
    }
}

/// A file in this folder is a test target of its own.
fn is_test_target(folder: &str) -> bool {
    folder.ends_with("/tests") && !folder.contains("/src/")
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn defines(line: &str, function: &str) -> bool {
    let mut words = words(line);
    words.any(|word| word == "fn") && words.next() == Some(function)
}

fn is_test(attribute: &str) -> bool {
    attribute.starts_with("#[test]") || attribute.starts_with("#[tokio::test")
}

/// The attributes of a function, if it is there.
fn attributes<'a>(text: &'a str, function: &str) -> Option<Vec<&'a str>> {
    let lines: Vec<_> = text.lines().map(str::trim_start).collect();
    let place = lines.iter().position(|line| defines(line, function))?;
    let above = lines[..place].iter().rev();
    // An attribute of several lines ends in one of these.
    let of_function = above.take_while(|line| !line.is_empty() && !line.ends_with(['}', '{']));
    Some(
        of_function
            .copied()
            .filter(|line| line.starts_with("#["))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Sources {
        Sources(
            files
                .iter()
                .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
                .collect(),
        )
    }

    fn tree() -> Sources {
        sources(&[
            (
                "e2e/tests/one.rs",
                "#[tokio::test(flavor = \"x\")]\n#[ignore = \"long\"]\nasync fn whole() {\n    step().await;\n}\n\n\
                 async fn step() {}\n\nfn unused() {}\n// unused\n",
            ),
            (
                "e2e/tests/dir/main.rs",
                "mod part;\n\n#[test]\nfn all() {\n    part::half();\n}\n",
            ),
            ("e2e/tests/dir/part.rs", "pub fn half() {}\n"),
            ("e2e/tests/dir/lost.rs", "#[test]\nfn never_runs() {}\n"),
            ("common/src/lib.rs", "mod inner;\n"),
            (
                "common/src/inner.rs",
                "fn product() {}\n#[cfg(test)]\nmod tests;\n",
            ),
            (
                "common/src/inner/tests.rs",
                "proptest! {\n    #[test]\n    fn holds(x: u8) {}\n}\nfn helper() {}\n",
            ),
        ])
    }

    #[test]
    fn tests_and_their_steps_are_found() {
        for (file, function) in [
            ("e2e/tests/one.rs", "whole"),
            ("e2e/tests/one.rs", "step"),
            ("e2e/tests/dir/part.rs", "half"),
            ("common/src/inner/tests.rs", "holds"),
        ] {
            assert_eq!(tree().check(file, function), Ok(()));
        }
    }

    #[test]
    fn what_is_not_there_or_does_not_run_is_found() {
        for (file, function, problem) in [
            ("e2e/tests/two.rs", "whole", "no file e2e/tests/two.rs"),
            (
                "e2e/tests/one.rs",
                "gone",
                "e2e/tests/one.rs has no function gone",
            ),
            ("e2e/tests/one.rs", "who", "e2e/tests/one.rs has no function who"),
            (
                "e2e/tests/one.rs",
                "unused",
                "unused of e2e/tests/one.rs is no test, and no test calls it",
            ),
            (
                "e2e/tests/dir/lost.rs",
                "never_runs",
                "e2e/tests/dir/lost.rs is part of no target",
            ),
            (
                "common/src/inner.rs",
                "product",
                "product of common/src/inner.rs is no test, and no test calls it",
            ),
            (
                "common/src/inner/tests.rs",
                "helper",
                "helper of common/src/inner/tests.rs is no test, and no test calls it",
            ),
        ] {
            assert_eq!(tree().check(file, function), Err(problem.to_owned()));
        }
    }
}
