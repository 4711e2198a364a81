//! docs/claims.md: each block of the pages has one row that names what backs it, and what is named exists.

// Clippy takes only the functions marked as tests for test code, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod page;
mod sizes;
mod sources;
mod table;

use std::fs;
use std::path::Path;

use sources::Sources;
use table::{Backing, Table};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const TABLE: &str = "docs/claims.md";

fn read(file: &str) -> String {
    let path = Path::new(ROOT).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The pages that state facts: all of docs but the table of contents and the table of claims, and two of the root.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let docs = docs.map(|page| format!("docs/{}", page.unwrap().file_name().display()));
    let mut pages: Vec<_> = docs
        .filter(|page| {
            let is_page = Path::new(page).extension().is_some_and(|end| end == "md");
            is_page && page != "docs/SUMMARY.md" && page != TABLE
        })
        .chain(["README.md", "SECURITY.md"].map(str::to_owned))
        .collect();
    pages.sort();
    pages
}

#[test]
fn every_block_has_one_row_and_every_row_one_block() {
    let pages = pages().into_iter().map(|page| {
        let blocks = page::blocks(&read(&page));
        (page, blocks)
    });
    let problems = Table::parse(&read(TABLE)).mismatches(&pages.collect());
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn what_rows_name_exists() {
    let table = Table::parse(&read(TABLE));
    let sources = Sources::load(Path::new(ROOT));
    let mut problems = Vec::new();
    let mut tests = 0;
    for (place, backing) in table.backings() {
        let checked = backing.and_then(|backing| match backing {
            Backing::Test { file, function } => {
                tests += 1;
                sources.check(&file, &function)
            }
            Backing::File(file) if !Path::new(ROOT).join(&file).exists() => Err(format!("no file {file}")),
            _ => Ok(()),
        });
        problems.extend(checked.err().map(|problem| format!("{place}: {problem}")));
    }
    assert!(tests > 300, "{tests}");
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}
