//! Durations and sizes as people write them: `90s`, `1h30m`, `4 GiB`.
//!
//! Fields of configuration sections, failpoint delays. Must stay true: what is printed reads back as
//! the same value.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds per unit, largest first.
const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
/// Longest duration, in milliseconds: a hundred years. Sums with the present time stay far from any end.
const DURATION_MS_MAX: u64 = 36_500 * 86_400_000;
/// Bytes per unit, largest first of each kind; printing uses the binary ones.
const BINARY_UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];
const DECIMAL_UNITS: [(&str, u64); 5] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Not a duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseHumanError {
    /// Not a duration.
    #[error("`{0}` is no duration; write 250ms, 30s, 5m, 1h30m or 2d")]
    Duration(String),
    /// Not a size.
    #[error("`{0}` is no size in bytes; write 512 MiB, 4 GiB, 10 MB or a plain number")]
    Bytes(String),
}

/// A duration of whole milliseconds, written `250ms`, `30s`, `5m`, `1h30m`, `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// From a duration; what is below a millisecond is cut off.
    pub const fn new(duration: Duration) -> Self {
        Self::from_millis(duration.as_millis() as u64)
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl FromStr for HumanDuration {
    type Err = ParseHumanError;

    fn from_str(text: &str) -> Result<Self, ParseHumanError> {
        parse_duration_ms(text.trim())
            .map(Self::from_millis)
            .ok_or_else(|| ParseHumanError::Duration(text.to_owned()))
    }
}

fn parse_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut unit_before = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let (_, unit_ms) = TIME_UNITS
            .iter()
            .find(|(name, _)| *name == &rest[..letters])?;
        // Units fall: `30m1h` and `1s1s` are typing mistakes.
        if *unit_ms >= unit_before {
            return None;
        }
        unit_before = *unit_ms;
        total = total.checked_add(number.checked_mul(*unit_ms)?)?;
        rest = rest[letters..].trim_start();
    }
    (unit_before != u64::MAX && total <= DURATION_MS_MAX).then_some(total)
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis() as u64;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit_ms) in TIME_UNITS {
            if rest >= unit_ms {
                write!(f, "{}{name}", rest / unit_ms)?;
                rest %= unit_ms;
            }
        }
        Ok(())
    }
}

/// A number of bytes, written `512 MiB`, `4 GiB`, `10 MB` or as a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanBytes(u64);

impl HumanBytes {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many MiB.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// So many GiB.
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for HumanBytes {
    type Err = ParseHumanError;

    fn from_str(text: &str) -> Result<Self, ParseHumanError> {
        parse_bytes(text.trim())
            .map(Self)
            .ok_or_else(|| ParseHumanError::Bytes(text.to_owned()))
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    if unit.is_empty() {
        return Some(number);
    }
    let (_, size) = BINARY_UNITS
        .iter()
        .chain(&DECIMAL_UNITS)
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*size)
}

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |size: &u64| self.0 != 0 && self.0.is_multiple_of(*size);
        match BINARY_UNITS.iter().find(|(_, size)| fits(size)) {
            Some((name, size)) => write!(f, "{} {name}", self.0 / size),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for HumanBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a size such as \"4 GiB\" or a number of bytes"
        )]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_printed() {
        for (text, millis, printed) in [
            ("30s", 30_000, "30s"),
            ("5m", 300_000, "5m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1h 30m", 5_400_000, "1h30m"),
            ("250ms", 250, "250ms"),
            ("90s", 90_000, "1m30s"),
            ("0s", 0, "0s"),
            ("2d", 172_800_000, "2d"),
        ] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.get().as_millis(), millis, "{text}");
            assert_eq!(duration.to_string(), printed);
            assert_eq!(printed.parse(), Ok(duration));
        }
        for wrong in [
            "",
            "30",
            "s",
            "-5s",
            "1.5h",
            "5 parsecs",
            "30m1h",
            "1s1s",
            "36501d",
            "99999999999999999999d",
        ] {
            assert!(wrong.parse::<HumanDuration>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes, printed) in [
            ("4 GiB", 4 << 30, "4 GiB"),
            ("512MiB", 512 << 20, "512 MiB"),
            ("10 MB", 10_000_000, "10000000 B"),
            ("1536 KiB", 1536 << 10, "1536 KiB"),
            ("1024", 1024, "1 KiB"),
            ("0", 0, "0 B"),
        ] {
            let size: HumanBytes = text.parse().unwrap();
            assert_eq!(size.get(), bytes, "{text}");
            assert_eq!(size.to_string(), printed);
            assert_eq!(printed.parse(), Ok(size));
        }
        for wrong in [
            "",
            "GiB",
            "-1",
            "4 elephants",
            "99999999999999 TiB",
            "1.5 GiB",
        ] {
            assert!(wrong.parse::<HumanBytes>().is_err(), "{wrong}");
        }
    }
}
