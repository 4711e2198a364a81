//! Shortens text that others wrote before a program of ours passes it on: in logs, conditions, events, status and
//! denials.

use std::borrow::Cow;

/// Bytes of a text for people: what the note of an event may hold.
pub const LONGEST: usize = 1024;
/// Bytes of one value that is quoted inside such a text.
pub const LONGEST_VALUE: usize = 128;
/// How many names a text lists.
pub const MOST_NAMES: usize = 10;

/// The text, or its beginning and how many bytes more there are, in at most `limit` bytes (but never fewer than the note
/// of the missing bytes takes). It ends between two characters.
#[must_use]
pub fn shortened(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    // The longest tail that this text can have, so that the number need not be known before the cut.
    let room = limit.saturating_sub(tail(text.len()).len());
    let end = (0..=room)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    Cow::Owned(format!("{}{}", &text[..end], tail(text.len() - end)))
}

/// A text for people, by [`shortened`] to [`LONGEST`].
#[must_use]
pub fn sentence(text: &str) -> Cow<'_, str> {
    shortened(text, LONGEST)
}

/// A value inside a text for people, by [`shortened`] to [`LONGEST_VALUE`].
#[must_use]
pub fn value(text: &str) -> Cow<'_, str> {
    shortened(text, LONGEST_VALUE)
}

/// The names, separated by commas; of those past [`MOST_NAMES`], only the number.
#[must_use]
pub fn listed(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<_> = names
        .iter()
        .take(MOST_NAMES)
        .map(|name| value(name.as_ref()))
        .collect();
    let more = names.len() - shown.len();
    let tail = if more == 0 { String::new() } else { tail(more) };
    format!("{}{tail}", shown.join(", "))
}

fn tail(more: usize) -> String {
    format!("… ({more} more)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_stays_and_long_text_says_how_much_is_missing() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened(&"a".repeat(100), 20), "aaaaaa… (94 more)");
        let megabyte = "é".repeat(1 << 19);
        let cut = sentence(&megabyte);
        assert!(cut.len() <= LONGEST && cut.ends_with(" more)"), "{cut}");
    }

    #[test]
    fn it_ends_between_characters_and_within_the_limit_whatever_the_text() {
        for text in [
            "éééééééééééééééééééé",
            "a🦀🦀🦀🦀🦀🦀🦀🦀🦀",
            "\u{0}\u{0}abcdefghijklmnopqrstuvwxyz",
        ] {
            for limit in 16..60 {
                let cut = shortened(text, limit);
                assert!(cut.len() <= limit, "{limit}: {cut}");
                assert!(text.len() <= limit || cut.contains("… ("), "{limit}: {cut}");
            }
        }
    }

    #[test]
    fn a_list_names_ten_and_counts_the_rest() {
        let names: Vec<_> = (0..1500).map(|n| format!("policy-{n}")).collect();
        let text = listed(&names);
        assert!(text.ends_with("policy-9… (1490 more)"), "{text}");
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&[] as &[&str]), "");
    }
}
