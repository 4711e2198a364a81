//! Medians, spreads and percentiles.

use serde::Serialize;

/// The middle of repeated measurements, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of them are no larger.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these measurements; `None` of none.
    #[must_use]
    pub fn of(measured: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measured.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }
}

/// The fewest measurements that have a 99th percentile: of fewer it would be the maximum under another name.
const FEWEST_FOR_P99: usize = 100;

/// The usual percentiles of many measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: usize,
    /// The median.
    pub p50: f64,
    /// Nine in ten are no larger.
    pub p90: f64,
    /// 99 in 100 are no larger. None of fewer than 100 measurements.
    pub p99: Option<f64>,
    /// The greatest.
    pub max: f64,
}

impl Percentiles {
    /// Of these measurements, by the nearest rank; `None` of none.
    #[must_use]
    pub fn of(measured: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measured.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied()
        };
        Some(Self {
            count: sorted.len(),
            p50: at(50)?,
            p90: at(90)?,
            p99: at(99).filter(|_| sorted.len() >= FEWEST_FOR_P99),
            max: at(100)?,
        })
    }

    /// The far end and what it is called: the 99th percentile, or the maximum where there is none.
    #[must_use]
    pub fn tail(&self) -> (&'static str, f64) {
        self.p99.map_or(("maximum", self.max), |p99| ("p99", p99))
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}", self.p50)?;
        if let Some(p99) = self.p99 {
            write!(f, " / p99 {p99:.0}")?;
        }
        write!(f, " / max {:.0}", self.max)
    }
}

/// `n` as a number to calculate with: counts here are far below 2^52.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub fn number(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_few() {
        assert_eq!(Spread::of([]), None);
        let of = |values: &[f64]| Spread::of(values.iter().copied()).unwrap();
        assert_eq!(
            of(&[3.0, 1.0, 2.0]),
            Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            }
        );
        assert!((of(&[4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < f64::EPSILON);
        assert!((of(&[7.0]).median - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn ranks_of_many() {
        assert_eq!(Percentiles::of([]), None);
        let hundred = Percentiles::of((1..=100).rev().map(f64::from)).unwrap();
        assert_eq!(
            hundred,
            Percentiles {
                count: 100,
                p50: 50.0,
                p90: 90.0,
                p99: Some(99.0),
                max: 100.0
            }
        );
        let one = Percentiles::of([5.0]).unwrap();
        assert_eq!((one.p50, one.p90, one.max), (5.0, 5.0, 5.0));
        // Of three, no fewer than 90 % are no larger than the third.
        let three = Percentiles::of([1.0, 2.0, 3.0]).unwrap();
        assert_eq!((three.p50, three.p90, three.max), (2.0, 3.0, 3.0));
    }

    #[test]
    fn a_99th_percentile_takes_a_hundred_measurements() {
        let few = Percentiles::of((1..100).map(f64::from)).unwrap();
        assert_eq!(few.tail(), ("maximum", 99.0));
        assert_eq!(few.to_string(), "50 / max 99");
        let enough = Percentiles::of((1..=100).map(f64::from)).unwrap();
        assert_eq!(enough.tail(), ("p99", 99.0));
        assert_eq!(enough.to_string(), "50 / p99 99 / max 100");
    }
}
