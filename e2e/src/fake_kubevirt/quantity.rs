//! Quantities as Kubernetes reads them (`resource.Quantity`), for what stands in for Kubernetes' and KubeVirt's programs:
//! our own programs' reading of the same texts must not be what they are tested against.

use anyhow::{Context, Result, bail};

/// Thousandths of a unit, rounded up: what a kubelet counts of CPUs.
pub fn milli(text: &str) -> Result<u64> {
    Ok(micro(text)?.div_ceil(1000).try_into()?)
}

/// Whole units, rounded up: bytes of memory or disk.
pub fn units(text: &str) -> Result<u64> {
    Ok(micro(text)?.div_ceil(1_000_000).try_into()?)
}

/// Millionths of a unit, rounded up.
fn micro(text: &str) -> Result<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 6 {
        bail!("{text:?} is no quantity that a fake KubeVirt reads");
    }
    let number: u128 = format!("{whole}{fraction:0<6}")
        .parse()
        .with_context(|| format!("{text:?} is not a quantity"))?;
    let power = |exponent: u32| Ok(number * 10_u128.pow(exponent));
    match suffix {
        "n" => Ok(number.div_ceil(1_000_000_000)),
        "u" => Ok(number.div_ceil(1_000_000)),
        "m" => Ok(number.div_ceil(1000)),
        "" => Ok(number),
        "k" => power(3),
        "M" => power(6),
        "G" => power(9),
        "T" => power(12),
        "Ki" => Ok(number << 10),
        "Mi" => Ok(number << 20),
        "Gi" => Ok(number << 30),
        "Ti" => Ok(number << 40),
        _ => match suffix.strip_prefix(['e', 'E']).map(str::parse) {
            Some(Ok(exponent @ 0..=18)) => power(exponent),
            _ => bail!("{text:?} is not a quantity"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the documentation of Kubernetes ("Resource units"), and `Quantity.Value()`, which rounds up.
    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, expected) in [
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("128974848000m", 128_974_848),
            ("123Mi", 128_974_848),
            ("1.5Gi", 1_610_612_736),
            ("1500m", 2),
            ("0", 0),
            ("1n", 1),
            ("2000001u", 3),
            ("3k", 3000),
            ("2G", 2_000_000_000),
            ("1.5T", 1_500_000_000_000),
            ("5Ki", 5120),
            ("2Ti", 2_199_023_255_552),
            ("1E3", 1000),
        ] {
            assert_eq!(units(text).unwrap(), expected, "{text}");
        }
        for (text, expected) in [("0.1", 100), ("100m", 100), ("2", 2000), ("1u", 1), ("0.5", 500)] {
            assert_eq!(milli(text).unwrap(), expected, "{text}");
        }
        for text in ["", "x", "1Q", "-1", "1.2.3", "1e99"] {
            assert!(units(text).is_err(), "{text}");
        }
    }
}
