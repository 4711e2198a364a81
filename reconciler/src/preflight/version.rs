//! Versions for comparison with minimum versions: major and minor.

use std::fmt;

/// A release line, such as 1.30.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// The version with these numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Parses `v1.7.0-beta.1`, `1.36+` and the like; what follows the minor number does not matter for minimum
    /// versions.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, rest) = text.strip_prefix('v').unwrap_or(text).split_once('.')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self {
            major: major.parse().ok()?,
            minor: rest[..digits].parse().ok()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_number() {
        assert_eq!(Version::parse("v1.7.0-beta.1"), Some(Version::new(1, 7)));
        assert_eq!(Version::parse("1.36+"), Some(Version::new(1, 36)));
        assert!(Version::parse("1.9") < Version::parse("v1.30.2"));
        for none in ["", "v", "devel", "1", "1.x", "1.é", "v.7"] {
            assert_eq!(Version::parse(none), None, "{none}");
        }
    }
}
