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
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
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
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Aim {
    /// What is measured, with its unit.
    what: String,
    /// What was measured.
    measured: f64,
    /// What it should be at most.
    at_most: f64,
    met: bool,
}

impl Aim {
    /// Compares; a figure that is no number meets nothing.
    #[must_use]
    pub fn new(what: impl Into<String>, measured: f64, at_most: f64) -> Self {
        Self {
            what: what.into(),
            measured,
            at_most,
            met: measured <= at_most,
        }
    }
}

/// The aims as a table.
#[must_use]
pub fn aims(aims: &[Aim]) -> Table {
    let mut table = Table::new("Aims", &["", "measured", "at most", ""]);
    for aim in aims {
        table.row([
            aim.what.clone(),
            format!("{:.3}", aim.measured),
            format!("{:.3}", aim.at_most),
            if aim.met { "met" } else { "MISSED" }.to_owned(),
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
    fn an_aim_is_met_at_its_limit_and_missed_beyond() {
        let table = aims(&[2.0, 2.1, f64::NAN].map(|measured| Aim::new("w", measured, 2.0)));
        let verdicts: Vec<_> = table.rows.iter().map(|row| row[3].as_str()).collect();
        assert_eq!(verdicts, ["met", "MISSED", "MISSED"]);
        assert_eq!(table.rows[1][..3], ["w", "2.100", "2.000"]);
    }
}
