//! The sizes of the image's parts.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::tree::Tree;

/// Sizes in bytes, by what they are of, the largest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<(String, usize)>);

impl Sizes {
    /// Of the parts of a tree.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut parts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, entry, content) in tree.files() {
            *parts.entry(entry.part.clone()).or_default() += content.len();
        }
        let mut sizes: Vec<_> = parts.into_iter().collect();
        sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        Self(sizes)
    }

    /// A table of two columns, in MB.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = String::new();
        for (name, size) in &self.0 {
            let hundredths = size.saturating_add(5_000) / 10_000;
            // Writing to a String does not fail.
            let _ = writeln!(
                table,
                "  {name:<24}{:>6}.{:02} MB",
                hundredths / 100,
                hundredths % 100
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_added_up_and_the_largest_comes_first() {
        let mut tree = Tree::default();
        tree.file("small", "/a", 0o644, vec![0; 1_000_000]).unwrap();
        tree.file("large", "/b", 0o644, vec![0; 1_500_000]).unwrap();
        tree.file("large", "/c", 0o644, vec![0; 12_345]).unwrap();
        assert_eq!(
            Sizes::of(&tree).table(),
            "  large                        1.51 MB\n  small                        1.00 MB\n"
        );
    }
}
