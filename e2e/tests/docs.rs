//! The pages: every link leads somewhere, docs/troubleshooting.md names every reason, and what the code cites of the
//! protocol is in docs/architecture.md.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use maroonedpods_common::api::{
    AcceptedReason, AttemptFailure, CertificatesReadyReason, ClusterReadyReason, ConfigCondition,
    NodeCondition, NodeReason, PodReason, ProviderReadyReason,
};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use strum::VariantArray;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Where pages are, and where code that cites the protocol is.
const FOLDERS: [&str; 10] = [
    ".github",
    "charts",
    "common",
    "docs",
    "e2e",
    "examples",
    "hack",
    "images",
    "reconciler",
    "webhook",
];
const CODE: [&str; 3] = ["rs", "yaml", "tpl"];

/// Files below the folders, and in the root, with one of these extensions.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = FOLDERS
        .iter()
        .map(|folder| Path::new(ROOT).join(folder))
        .collect();
    let mut take = |path: PathBuf| {
        if extensions
            .iter()
            .any(|e| path.extension().is_some_and(|found| found == *e))
        {
            found.push(path);
        }
    };
    for entry in fs::read_dir(ROOT).unwrap() {
        take(entry.unwrap().path());
    }
    while let Some(folder) = folders.pop() {
        // Not every folder is there.
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                take(path);
            }
        }
    }
    found
}

/// The anchors that a forge makes of a page's headings, and where the page's links lead.
fn anchors_and_links(text: &str) -> (BTreeSet<String>, Vec<String>) {
    let (mut anchors, mut links) = (BTreeSet::new(), Vec::new());
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => anchors.extend(heading.take().map(|text| anchor(&text))),
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                links.push(dest_url.into_string());
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            _ => {}
        }
    }
    (anchors, links)
}

fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
        .collect()
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// The page names files from the root, or from the reconciler's source.
#[test]
fn files_that_the_architecture_names_exist() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/architecture.md")).unwrap();
    let mut named = BTreeSet::new();
    for event in Parser::new_ext(&page, Options::ENABLE_TABLES) {
        if let Event::Code(code) = event {
            let is_file = code.ends_with(".rs") || code.ends_with(".yaml") || code.ends_with('/');
            if is_file && !code.contains(['…', '*']) {
                named.insert(code.into_string());
            }
        }
    }
    assert!(named.len() > 15, "{named:?}");
    named.retain(|file| {
        let places = [
            Path::new(ROOT).join(file),
            Path::new(ROOT).join("reconciler/src").join(file),
        ];
        !places.iter().any(|place| place.exists())
    });
    assert!(named.is_empty(), "no such files: {named:?}");
}

#[test]
fn every_link_leads_somewhere() {
    let pages: BTreeMap<_, _> = files(&["md"])
        .into_iter()
        .map(|path| {
            (
                plain(&path),
                anchors_and_links(&fs::read_to_string(&path).unwrap()),
            )
        })
        .collect();
    assert!(pages.len() > 3, "{pages:?}");
    let mut broken = Vec::new();
    for (page, (_, links)) in &pages {
        for link in links.iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => plain(&page.parent().unwrap().join(file)),
            };
            let has_anchor = |(anchors, _): &(BTreeSet<String>, _)| anchors.contains(anchor);
            if !target.exists() || !(anchor.is_empty() || pages.get(&target).is_some_and(has_anchor)) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn each_page_of_docs_can_be_found() {
    let links_of = |page: &str| anchors_and_links(&fs::read_to_string(Path::new(ROOT).join(page)).unwrap()).1;
    let (readme, contents) = (links_of("README.md"), links_of("docs/SUMMARY.md"));
    for page in fs::read_dir(Path::new(ROOT).join("docs")).unwrap() {
        let page = page.unwrap().path();
        let name = page.file_name().unwrap().to_str().unwrap();
        // The site's table of contents, and its settings.
        if page.extension().is_none_or(|extension| extension != "md") || name == "SUMMARY.md" {
            continue;
        }
        assert!(
            readme.contains(&format!("docs/{name}")),
            "README.md does not link docs/{name}"
        );
        assert!(
            contents.iter().any(|link| link == name),
            "docs/SUMMARY.md does not link {name}"
        );
    }
}

/// The numbers of steps, and the names of invariants, that a line cites: `Step 8`, `steps 10 to 12`, `S1`, `L3`.
fn cited(line: &str) -> Vec<String> {
    let words: Vec<_> = line
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let mut cited = Vec::new();
    for (place, word) in words.iter().enumerate() {
        if matches!(word.to_ascii_lowercase().as_str(), "step" | "steps") {
            let numbers = words[place + 1..].iter().take_while(|word| {
                matches!(**word, "to" | "and") || word.starts_with(|c: char| c.is_ascii_digit())
            });
            cited.extend(
                numbers
                    .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
                    .map(ToString::to_string),
            );
        }
        if let Some(number) = word.strip_prefix(['S', 'L'])
            && number.len() == 1
            && number.starts_with(|c: char| c.is_ascii_digit())
        {
            cited.push((*word).to_owned());
        }
    }
    cited
}

#[test]
fn citations_are_read() {
    assert_eq!(cited("//! Steps 10 to 12: the release."), ["10", "12"]);
    assert_eq!(
        cited("//! Step 2a, and S1 and L3 (S10, L, steps)."),
        ["2a", "S1", "L3"]
    );
    assert!(cited("// in 3 steps, by V1 and s1").is_empty());
}

#[test]
fn the_code_cites_what_the_protocol_has() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/architecture.md")).unwrap();
    let has = |name: &str| {
        page.contains(&format!("\n| {name} |"))
            || page.contains(&format!("({name})"))
            || page.contains(&format!("**{name}**"))
    };
    let mut cites = 0;
    for path in files(&CODE) {
        let text = fs::read_to_string(&path).unwrap();
        let comments = text
            .lines()
            .filter(|line| line.trim_start().starts_with(['/', '#']));
        for line in comments {
            for name in cited(line) {
                cites += 1;
                assert!(
                    has(&name),
                    "{} cites {name}, which docs/architecture.md lacks: {line}",
                    path.display()
                );
            }
        }
    }
    assert!(cites > 20, "{cites}");
}

fn texts<E: VariantArray + Copy + Into<&'static str>>() -> impl Iterator<Item = &'static str> {
    E::VARIANTS.iter().map(|variant| (*variant).into())
}

#[test]
fn troubleshooting_names_every_condition_and_reason() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/troubleshooting.md")).unwrap();
    let missing: Vec<_> = texts::<ConfigCondition>()
        .chain(texts::<AcceptedReason>())
        .chain(texts::<ClusterReadyReason>())
        .chain(texts::<ProviderReadyReason>())
        .chain(texts::<CertificatesReadyReason>())
        .chain(texts::<NodeCondition>())
        .chain(texts::<NodeReason>())
        .chain(texts::<AttemptFailure>())
        .chain(texts::<PodReason>())
        .filter(|text| !page.contains(&format!("`{text}`")))
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn programs_and_chart_have_one_version() {
    let chart = fs::read_to_string(Path::new(ROOT).join("charts/maroonedpods/Chart.yaml")).unwrap();
    for field in ["version", "appVersion"] {
        let line = format!("\n{field}: {}\n", env!("CARGO_PKG_VERSION"));
        assert!(chart.contains(&line), "{line:?} is not in\n{chart}");
    }
}
