//! The table: a section for each page, a row for each block.

use std::collections::BTreeMap;

use jiff::civil::Date;
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use crate::page::{sentences, single_spaced};

/// The rows of each page.
pub struct Table(BTreeMap<String, Vec<Row>>);

/// How a block begins, how many sentences it has, and what backs it, all as written.
struct Row {
    begins: String,
    sentences: String,
    backed_by: String,
}

/// What backs a block.
#[derive(Debug, PartialEq)]
pub enum Backing {
    /// A test, or a step of one.
    Test { file: String, function: String },
    /// A file of this repository that is what the block says.
    File(String),
    /// A meaning, an aim or a promise: it can be kept or broken, and is not true or false.
    Definition,
    /// What to do, or where to read on.
    Instruction,
    /// Read in another project's source or documentation.
    Source,
    /// Measured, or done by hand, on a day.
    Run,
}

impl Table {
    pub fn parse(text: &str) -> Self {
        let mut pages = BTreeMap::<String, Vec<Row>>::new();
        let mut heading = None::<String>;
        let mut page = String::new();
        // As plain text, and with code marked.
        let mut cells: Vec<[String; 2]> = Vec::new();
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading {
                    level: HeadingLevel::H2,
                    ..
                }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(HeadingLevel::H2)) => {
                    page = heading.take().unwrap_or_default();
                    pages.entry(page.clone()).or_default();
                }
                Event::Start(Tag::TableRow) => cells.clear(),
                Event::Start(Tag::TableCell) => cells.push(Default::default()),
                Event::End(TagEnd::TableRow) => {
                    if let [[begins, _], [sentences, _], [_, backed_by]] = cells.as_slice() {
                        pages.entry(page.clone()).or_default().push(Row {
                            begins: single_spaced(begins),
                            sentences: single_spaced(sentences),
                            backed_by: single_spaced(backed_by),
                        });
                    }
                }
                Event::Text(part) => match (&mut heading, cells.last_mut()) {
                    (Some(heading), _) => heading.push_str(&part),
                    (None, Some(cell)) => cell.iter_mut().for_each(|text| text.push_str(&part)),
                    (None, None) => {}
                },
                Event::Code(part) => {
                    if let Some([plain, marked]) = cells.last_mut() {
                        plain.push_str(&part);
                        marked.extend(["`", part.as_ref(), "`"]);
                    }
                }
                _ => {}
            }
        }
        Self(pages)
    }

    /// What is wrong between the table and the pages, whose blocks these are.
    pub fn mismatches(&self, pages: &BTreeMap<String, Vec<String>>) -> Vec<String> {
        let mut problems = Vec::new();
        for page in self.0.keys().filter(|page| !pages.contains_key(*page)) {
            problems.push(format!("{page} is not a page"));
        }
        for (page, blocks) in pages {
            let rows = self.0.get(page).map(Vec::as_slice).unwrap_or_default();
            let is_for = |row: &Row, block: &str| !row.begins.is_empty() && block.starts_with(&row.begins);
            for block in blocks {
                let rows: Vec<_> = rows.iter().filter(|row| is_for(row, block)).collect();
                let [row] = rows.as_slice() else {
                    problems.push(format!("{page}: {} rows, not one, for: {block}", rows.len()));
                    continue;
                };
                let found = sentences(block).to_string();
                if row.sentences != found {
                    let said = &row.sentences;
                    problems.push(format!(
                        "{page}: sentences: {found}, and {said} in the row: {block}"
                    ));
                }
            }
            for row in rows {
                let number = blocks.iter().filter(|block| is_for(row, block)).count();
                if number != 1 {
                    problems.push(format!("{page}: {number} blocks, not one, begin: {}", row.begins));
                }
            }
        }
        problems
    }

    /// Each backing of each row, with the row's place.
    pub fn backings(&self) -> impl Iterator<Item = (String, Result<Backing, String>)> {
        self.0.iter().flat_map(|(page, rows)| {
            rows.iter().flat_map(move |row| {
                let each = row.backed_by.split(';');
                each.map(move |one| (format!("{page}: {}", row.begins), Backing::parse(one.trim())))
            })
        })
    }
}

impl Backing {
    fn parse(text: &str) -> Result<Self, String> {
        let code = text.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        if let Some(code) = code.filter(|code| !code.is_empty() && !code.contains('`')) {
            return Ok(match code.split_once("::") {
                Some((file, function)) => Self::Test {
                    file: file.to_owned(),
                    function: function.to_owned(),
                },
                None => Self::File(code.to_owned()),
            });
        }
        match text {
            "definition" => return Ok(Self::Definition),
            "instruction" => return Ok(Self::Instruction),
            _ => {}
        }
        let (kind, what) = text.split_once(": ").unwrap_or((text, ""));
        let day = kind.strip_prefix("run ").map(str::parse::<Date>);
        match (kind, day) {
            // A project, and where in it.
            ("source", _) if what.split(' ').count() > 1 => Ok(Self::Source),
            (_, Some(Ok(_))) if !what.is_empty() => Ok(Self::Run),
            _ => Err(format!("backs nothing: {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# Claims\n\n## a.md\n\n| the block begins | sentences | backed by |\n|---|---|---|\n";

    /// What is wrong when a.md has these blocks, and these are its rows.
    fn problems(blocks: &[&str], rows: &str) -> Vec<String> {
        let blocks = blocks.iter().map(ToString::to_string).collect();
        Table::parse(&format!("{HEAD}{rows}")).mismatches(&[("a.md".to_owned(), blocks)].into())
    }

    #[test]
    fn rows_are_matched_by_how_blocks_begin() {
        let blocks = ["One of `two", "a <b> c", "d|e f"];
        let blocks = blocks.map(|block| block.replace('`', ""));
        let blocks: Vec<_> = blocks.iter().map(String::as_str).collect();
        let rows = "| One of | 1 | definition |\n| a `<b>` | 1 | definition |\n| d\\|e | 1 | definition |\n";
        assert_eq!(problems(&blocks, rows), [""; 0]);
    }

    #[test]
    fn a_block_without_a_row_is_found() {
        assert_eq!(
            problems(&["One.", "Two."], "| One | 1 | definition |\n"),
            ["a.md: 0 rows, not one, for: Two."]
        );
    }

    #[test]
    fn a_row_without_a_block_or_without_words_is_found() {
        let rows = "| One | 1 | definition |\n| Two | 1 | definition |\n| | 1 | definition |\n";
        assert_eq!(
            problems(&["One."], rows),
            [
                "a.md: 0 blocks, not one, begin: Two",
                "a.md: 0 blocks, not one, begin: "
            ]
        );
    }

    #[test]
    fn a_row_for_two_blocks_is_found() {
        assert_eq!(
            problems(&["One a.", "One b."], "| One | 1 | definition |\n"),
            ["a.md: 2 blocks, not one, begin: One"]
        );
    }

    #[test]
    fn two_rows_for_a_block_are_found() {
        let rows = "| One | 1 | definition |\n| One a | 1 | definition |\n";
        assert_eq!(
            problems(&["One a."], rows),
            ["a.md: 2 rows, not one, for: One a."]
        );
    }

    #[test]
    fn a_sentence_that_came_or_went_is_found() {
        assert_eq!(
            problems(&["One. Two?"], "| One | 1 | definition |\n"),
            ["a.md: sentences: 2, and 1 in the row: One. Two?"]
        );
        assert_eq!(
            problems(&["One"], "| One | | definition |\n"),
            ["a.md: sentences: 1, and  in the row: One"]
        );
    }

    #[test]
    fn a_section_for_no_page_and_a_page_without_a_section_are_found() {
        let table = Table::parse(HEAD);
        assert_eq!(
            table.mismatches(&[("b.md".to_owned(), vec!["One.".to_owned()])].into()),
            ["a.md is not a page", "b.md: 0 rows, not one, for: One."]
        );
    }

    #[test]
    fn each_kind_of_backing_is_read() {
        let row = "| One | 1 | `x/y.rs::z`; `LICENSE`; definition; instruction; source: project a/file.go; \
            run 2026-11-27: hack/demo |\n";
        let table = Table::parse(&format!("{HEAD}{row}"));
        let read: Vec<_> = table.backings().map(|(_, backing)| backing.unwrap()).collect();
        let test = Backing::Test {
            file: "x/y.rs".to_owned(),
            function: "z".to_owned(),
        };
        let file = Backing::File("LICENSE".to_owned());
        assert_eq!(
            read,
            [
                test,
                file,
                Backing::Definition,
                Backing::Instruction,
                Backing::Source,
                Backing::Run
            ]
        );
    }

    #[test]
    fn what_backs_nothing_is_found() {
        for bad in [
            "",
            "obvious",
            "``",
            "`x.rs::y`, `z.rs::a`",
            "definition;",
            "source:",
            "source: project",
            "run: hack/demo",
            "run 2026-13-01: hack/demo",
            "run 2026-11-27:",
        ] {
            let table = Table::parse(&format!("{HEAD}| One | 1 | {bad} |\n"));
            let mut backings = table.backings();
            let (place, _) = backings.find(|(_, backing)| backing.is_err()).expect(bad);
            assert_eq!(place, "a.md: One");
        }
    }
}
