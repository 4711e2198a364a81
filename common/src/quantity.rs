//! Exact reading of Kubernetes quantities: integers only, rounded up.
//!
//! The grammar is that of `resource.Quantity` in k8s.io/apimachinery: an optional sign; digits with an optional
//! fraction; then nothing, a decimal suffix (`n u m k M G T P E`), a binary suffix (`Ki Mi Gi Ti Pi Ei`) or a
//! decimal exponent (`e3`, `E-3`). Rounding is that of `Quantity.Value()` and `Quantity.MilliValue()`: a pod
//! that asks for a fraction gets at least that.
//!
//! The crate `kube_quantity` (0.9) reads no decimal exponents, and rounds nothing up.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A text that is not a quantity, or a quantity that no resource can have.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum ParseQuantityError {
    /// The text is outside the grammar.
    #[error(
        "{0:?} is not a quantity: expected a number with an optional suffix, such as 500m, 2, 1.5Gi or 1e3"
    )]
    Malformed(String),
    /// The number is below zero.
    #[error("{0:?} is negative: expected a quantity of 0 or more")]
    Negative(String),
    /// The number does not fit into 64 bits.
    #[error("{0:?} is too large: expected a quantity that fits into 64 bits")]
    TooLarge(String),
}

/// The quantity in thousandths, rounded up: `1500m` and `1.5` are 1500.
pub fn milli(quantity: &Quantity) -> Result<u64, ParseQuantityError> {
    scaled(&quantity.0, 3)
}

/// The quantity in whole units (bytes, for memory), rounded up: `1Ki` is 1024, `1500m` is 2.
pub fn units(quantity: &Quantity) -> Result<u64, ParseQuantityError> {
    scaled(&quantity.0, 0)
}

/// A number taken apart: ±`digits` with `point` of them before the decimal point, times `multiplier`.
struct Parts {
    negative: bool,
    digits: Vec<u8>,
    point: i64,
    multiplier: u128,
}

/// The quantity times 10^`power`, rounded up.
fn scaled(text: &str, power: i64) -> Result<u64, ParseQuantityError> {
    let parts = parse(text).ok_or_else(|| ParseQuantityError::Malformed(text.to_owned()))?;
    if parts.digits.iter().all(|digit| *digit == 0) {
        return Ok(0);
    }
    if parts.negative {
        return Err(ParseQuantityError::Negative(text.to_owned()));
    }
    round_up(&parts.digits, parts.point.saturating_add(power), parts.multiplier)
        .ok_or_else(|| ParseQuantityError::TooLarge(text.to_owned()))
}

fn parse(text: &str) -> Option<Parts> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, rest) = split_digits(unsigned);
    let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (exponent, multiplier) = interpret(suffix)?;
    Some(Parts {
        negative,
        digits: whole
            .bytes()
            .chain(fraction.bytes())
            .map(|digit| digit - b'0')
            .collect(),
        point: i64::try_from(whole.len()).ok()?.saturating_add(exponent),
        multiplier,
    })
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// A suffix as a power of ten and a factor.
fn interpret(suffix: &str) -> Option<(i64, u128)> {
    Some(match suffix {
        "" => (0, 1),
        "n" => (-9, 1),
        "u" => (-6, 1),
        "m" => (-3, 1),
        "k" => (3, 1),
        "M" => (6, 1),
        "G" => (9, 1),
        "T" => (12, 1),
        "P" => (15, 1),
        "E" => (18, 1),
        "Ki" => (0, 1 << 10),
        "Mi" => (0, 1 << 20),
        "Gi" => (0, 1 << 30),
        "Ti" => (0, 1 << 40),
        "Pi" => (0, 1 << 50),
        "Ei" => (0, 1 << 60),
        exponent => (exponent.strip_prefix(['e', 'E'])?.parse().ok()?, 1),
    })
}

/// Long multiplication, so that any number of digits is exact: the part before the point times the factor, plus
/// what the part behind it carries over, plus one if anything is left behind the point. `None` if the result
/// does not fit.
fn round_up(digits: &[u8], point: i64, multiplier: u128) -> Option<u64> {
    let split = usize::try_from(point.max(0)).map_or(digits.len(), |point| point.min(digits.len()));
    let (whole, fraction) = digits.split_at(split);

    let mut product: u128 = 0;
    for digit in whole {
        product = product.checked_mul(10)?.checked_add(u128::from(*digit))?;
    }
    // A point to the right of the last digit. Some digit is not zero, so what overflows here is too large.
    let zeros = point.saturating_sub(i64::try_from(digits.len()).ok()?).max(0);
    let shift = 10_u128.checked_pow(u32::try_from(zeros).ok()?)?;
    product = product.checked_mul(shift)?.checked_mul(multiplier)?;

    let (mut carry, mut remainder) = (0, false);
    for digit in fraction.iter().rev() {
        let column = u128::from(*digit) * multiplier + carry;
        remainder |= !column.is_multiple_of(10);
        carry = column / 10;
    }
    u64::try_from(product.checked_add(carry)?.checked_add(u128::from(remainder))?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity(text.to_owned())
    }

    #[test]
    fn known_quantities() {
        // (text, MilliValue, Value)
        for (text, expected_milli, expected_units) in [
            ("0", 0, 0),
            ("-0", 0, 0),
            ("0e99999999999", 0, 0),
            ("2", 2000, 2),
            ("+2", 2000, 2),
            ("007", 7000, 7),
            ("1.", 1000, 1),
            (".5", 500, 1),
            ("0.1", 100, 1),
            ("100m", 100, 1),
            ("1500m", 1500, 2),
            ("1n", 1, 1),
            ("1000001n", 2, 1),
            ("999u", 1, 1),
            ("1k", 1_000_000, 1000),
            ("1e3", 1_000_000, 1000),
            ("1E+3", 1_000_000, 1000),
            ("5e-1", 500, 1),
            ("1e-99999", 1, 1),
            ("1Ki", 1_024_000, 1024),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("0.1Ki", 102_400, 103),
            ("1Ti", 1_099_511_627_776_000, 1_099_511_627_776),
            ("1Pi", 1_125_899_906_842_624_000, 1_125_899_906_842_624),
            ("0.0000000000000000000000000000000000000001Ei", 1, 1),
            (
                "0.333333333333333333333333333333333333333333Mi",
                349_525_334,
                349_526,
            ),
        ] {
            assert_eq!(milli(&quantity(text)), Ok(expected_milli), "{text}");
            assert_eq!(units(&quantity(text)), Ok(expected_units), "{text}");
        }
    }

    #[test]
    fn outside_the_grammar() {
        for text in [
            "",
            "+",
            ".",
            "Mi",
            "1 Gi",
            " 1",
            "1Gb",
            "1KiB",
            "1K",
            "1mi",
            "1e",
            "1E+",
            "1e1.5",
            "--1",
            "1.2.3",
            "0x10",
            "NaN",
            "1٣",
            "1e99999999999999999999",
        ] {
            assert_eq!(
                units(&quantity(text)),
                Err(ParseQuantityError::Malformed(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn errors_quote_the_text_and_say_what_is_expected() {
        let shown = |text| units(&quantity(text)).unwrap_err().to_string();
        assert_eq!(
            shown("1GB"),
            "\"1GB\" is not a quantity: expected a number with an optional suffix, such as 500m, 2, 1.5Gi or 1e3"
        );
        assert_eq!(
            shown("-1n"),
            "\"-1n\" is negative: expected a quantity of 0 or more"
        );
        assert_eq!(
            shown("1e20"),
            "\"1e20\" is too large: expected a quantity that fits into 64 bits"
        );
    }

    #[test]
    fn too_large_is_an_error() {
        for text in [
            "16Ei",
            "1e20",
            "1e9223372036854775807",
            "99999999999999999999999999999999999999999999999",
        ] {
            assert_eq!(
                units(&quantity(text)),
                Err(ParseQuantityError::TooLarge(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(units(&quantity("18446744073709551615")), Ok(u64::MAX));
        assert_eq!(units(&quantity("1E")), Ok(1_000_000_000_000_000_000));
        assert_eq!(
            milli(&quantity("1E")),
            Err(ParseQuantityError::TooLarge("1E".to_owned()))
        );
    }

    /// Suffix, and the quantity of one such unit in billionths.
    const SUFFIXES: [(&str, i128); 13] = [
        ("", 1_000_000_000),
        ("n", 1),
        ("u", 1000),
        ("m", 1_000_000),
        ("k", 1_000_000_000_000),
        ("M", 1_000_000_000_000_000),
        ("G", 1_000_000_000_000_000_000),
        ("e3", 1_000_000_000_000),
        ("E-2", 10_000_000),
        ("Ki", 1_000_000_000 << 10),
        ("Mi", 1_000_000_000 << 20),
        ("Gi", 1_000_000_000 << 30),
        ("Ti", 1_000_000_000 << 40),
    ];

    fn divided_up(numerator: i128, divisor: i128) -> i128 {
        numerator / divisor + i128::from(numerator % divisor != 0)
    }

    proptest! {
        #[test]
        fn agrees_with_wide_arithmetic(
            whole in 0..1_000_000_i128,
            fraction in 0..1_000_000_i128,
            (suffix, billionths) in prop::sample::select(&SUFFIXES[..]),
            sign in prop::sample::select(&["", "+", "-"][..]),
        ) {
            let text = format!("{sign}{whole}.{fraction:06}{suffix}");
            let millionths_of_billionths = (whole * 1_000_000 + fraction) * billionths;
            for (read, divisor) in [
                (milli(&quantity(&text)), 1_000_000_i128 * 1_000_000),
                (units(&quantity(&text)), 1_000_000_i128 * 1_000_000_000),
            ] {
                let expected = divided_up(millionths_of_billionths, divisor);
                let expected = if sign == "-" && expected != 0 {
                    Err(ParseQuantityError::Negative(text.clone()))
                } else {
                    u64::try_from(expected).map_err(|_| ParseQuantityError::TooLarge(text.clone()))
                };
                prop_assert_eq!(read, expected);
            }
        }

        #[test]
        fn arbitrary_text_is_answered(text in "\\PC*") {
            let (in_units, in_milli) = (units(&quantity(&text)), milli(&quantity(&text)));
            if let (Ok(in_units), Ok(in_milli)) = (in_units, in_milli) {
                prop_assert_eq!(in_milli.div_ceil(1000), in_units);
            }
        }

        #[test]
        fn near_quantities_are_answered(text in "[+-]?[0-9]{0,45}[.]?[0-9]{0,45}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,22}") {
            let (in_units, in_milli) = (units(&quantity(&text)), milli(&quantity(&text)));
            if let (Ok(in_units), Ok(in_milli)) = (in_units, in_milli) {
                prop_assert_eq!(in_milli.div_ceil(1000), in_units);
            }
        }
    }
}
