//! Figures as people read them: times, bytes, money, names. `view` and nobody else uses it.
//! Must stay true: decimal units; money is never rounded up.

use owm_proto::Msat;

/// `3 s`, `4 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub(super) fn time(ms: u64) -> String {
    let secs = ms / 1_000;
    match secs {
        0..60 => format!("{secs} s"),
        60..3_600 => format!("{} min {} s", secs / 60, secs % 60),
        3_600..86_400 => format!("{} h {} min", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

/// The time of day of a Unix time, UTC: `15:04:05`.
pub(super) fn clock(unix_ms: u64) -> String {
    let secs = unix_ms / 1_000 % 86_400;
    let (hours, minutes) = (secs / 3_600, secs % 3_600 / 60);
    format!("{hours:02}:{minutes:02}:{:02}", secs % 60)
}

/// `512 B`, `1.5 kB`, `24.6 MB`, `3.1 GB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// An absent figure is a question mark.
pub(super) fn known<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "?".to_owned(), show)
}

/// Satoshi with all three decimals that a millisatoshi has: `1,234.567 sat`.
pub(super) fn sats(amount: Msat) -> String {
    format!("{}.{:03} sat", grouped(amount.0 / 1_000), amount.0 % 1_000)
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The first characters of a name, cut visibly.
pub(super) fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let times = [0, 59_999, 61_000, 7_260_000, 100 * 3_600_000].map(time);
        assert_eq!(times, ["0 s", "59 s", "1 min 1 s", "2 h 1 min", "4 d 4 h"]);
        let sizes = [
            999,
            1_500,
            999_949,
            999_951,
            3_100_000_000,
            5_000_000_000_000_000,
        ]
        .map(bytes);
        let expected = [
            "999 B",
            "1.5 kB",
            "999.9 kB",
            "1.0 MB",
            "3.1 GB",
            "5000.0 TB",
        ];
        assert_eq!(sizes, expected);
        assert_eq!(sats(Msat(1_234_567_899)), "1,234,567.899 sat");
        assert_eq!(sats(Msat(25)), "0.025 sat");
        assert_eq!(clock(1_000 * (86_400 * 3 + 3_600 * 15 + 65)), "15:01:05");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
        assert_eq!(known(None::<u64>, bytes), "?");
    }
}
