//! The blocks of a page: paragraphs, items of lists, and rows of tables. Headings, code and the heads of tables state
//! nothing that is checked here.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The text of each block, without markup and with single spaces.
pub fn blocks(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut text = String::new();
    let mut skipped = false;
    for event in Parser::new_ext(page, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. } | Tag::CodeBlock(_) | Tag::TableHead) => {
                end_block(&mut text, &mut found);
                skipped = true;
            }
            Event::End(TagEnd::Heading(_) | TagEnd::CodeBlock | TagEnd::TableHead) => skipped = false,
            Event::Start(Tag::Paragraph | Tag::List(_) | Tag::Item | Tag::TableRow | Tag::BlockQuote(_))
            | Event::End(TagEnd::Paragraph | TagEnd::Item | TagEnd::TableRow) => {
                end_block(&mut text, &mut found);
            }
            Event::Text(part) | Event::Code(part) if !skipped => text.push_str(&part),
            Event::SoftBreak | Event::HardBreak | Event::Start(Tag::TableCell) => text.push(' '),
            _ => {}
        }
    }
    found
}

fn end_block(text: &mut String, found: &mut Vec<String>) {
    let block = single_spaced(text);
    text.clear();
    if !block.is_empty() {
        found.push(block);
    }
}

pub fn single_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How many sentences a block has; its end ends one.
pub fn sentences(block: &str) -> usize {
    let ended = block.trim_end_matches(is_after_end).trim_end_matches(is_end);
    let words = ended.split(' ');
    1 + words
        .filter(|word| word.trim_end_matches(is_after_end).ends_with(is_end))
        .count()
}

fn is_end(letter: char) -> bool {
    matches!(letter, '.' | '!' | '?')
}

fn is_after_end(letter: char) -> bool {
    matches!(letter, ')' | '"' | '\'')
}

#[test]
fn sentences_are_counted() {
    for (block, number) in [
        ("One, two: 1.5", 1),
        ("One.", 1),
        ("One (two.)", 1),
        ("One. Two", 2),
        ("One. (Two?) \"Three!\" Four.", 4),
    ] {
        assert_eq!(sentences(block), number, "{block}");
    }
}

#[test]
fn a_page_falls_apart_into_blocks() {
    let page = "# Head `code`\n\nOne\ntwo `three`, [four](five.md).\n\n```\ncode\n```\n\n\
        - **Tight:** item\n  goes on\n- other\n  - nested\n\n| head | |\n|---|---|\n| a | `b` c |\n| | d |\n\n\
        - loose\n\n  ```yaml\n  code\n  ```\n\n  after code\n\n- last\n";
    assert_eq!(
        blocks(page),
        [
            "One two three, four.",
            "Tight: item goes on",
            "other",
            "nested",
            "a b c",
            "d",
            "loose",
            "after code",
            "last",
        ]
    );
}
