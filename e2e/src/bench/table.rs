//! Plain tables on standard output.

use serde::Serialize;

/// A table with a title: the first column is text, the others are numbers, set to the right.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// What it is about.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows, each as long as `columns`.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    #[must_use]
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = lines().filter_map(|line| line.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
            })
            .collect();
        writeln!(f, "\n{}", self.title)?;
        for line in lines() {
            for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
                match index {
                    0 => write!(f, "  {cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A figure beside what it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// What is measured, with its unit.
    pub what: String,
    /// What was measured.
    pub measured: f64,
    /// What it should be at most.
    pub at_most: f64,
}

/// The goals as a table.
#[must_use]
pub fn goals(goals: &[Goal]) -> Table {
    let mut table = Table::new("Figures to reach", &["", "measured", "at most", ""]);
    for goal in goals {
        let verdict = if goal.measured <= goal.at_most {
            "reached"
        } else {
            "MISSED"
        };
        table.row([
            goal.what.clone(),
            format!("{:.2}", goal.measured),
            format!("{:.2}", goal.at_most),
            verdict.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("Title", &["", "n"]);
        table.row(["a".to_owned(), "10".to_owned()]);
        table.row(["bcd".to_owned(), "9".to_owned()]);
        assert_eq!(table.to_string(), "\nTitle\n        n\n  a    10\n  bcd   9\n");
    }

    #[test]
    fn a_goal_is_reached_at_its_limit() {
        let goal = |measured| Goal {
            what: "w".to_owned(),
            measured,
            at_most: 2.0,
        };
        let table = goals(&[goal(2.0), goal(2.1)]);
        assert_eq!(
            (table.rows[0][3].as_str(), table.rows[1][3].as_str()),
            ("reached", "MISSED")
        );
    }
}
