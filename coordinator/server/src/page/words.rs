//! Numbers, spans and times as people read them. All times are UTC, because the readers are everywhere;
//! all spans are coarse, so that a page changes when something happens and not because time passes.

use std::time::Duration;

use owm_coordinator_domain::network::{Level, Reason};
use owm_proto::{Permille, UnixMillis};
use time::{OffsetDateTime, UtcOffset};

/// The instant; the last one that has a name if it is beyond year 9999.
fn utc(at: UnixMillis) -> OffsetDateTime {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time::macros::datetime!(9999-12-31 23:59:59 UTC))
        .to_offset(UtcOffset::UTC)
}

/// `2026-11-22T00:42Z`, for the `datetime` of a `<time>`.
pub(super) fn machine_time(at: UnixMillis) -> String {
    let t = utc(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute()
    )
}

/// `00:42 UTC` of today, `21 Nov 00:42 UTC` of this year, else with the year.
pub(super) fn clock(at: UnixMillis, now: UnixMillis) -> String {
    let (t, today) = (utc(at), utc(now));
    let time = format!("{:02}:{:02} UTC", t.hour(), t.minute());
    if t.date() == today.date() {
        return time;
    }
    let month = t.month().to_string();
    let day = format!("{} {}", t.day(), month.get(..3).unwrap_or(&month));
    if t.year() == today.year() {
        return format!("{day} {time}");
    }
    format!("{day} {} {time}", t.year())
}

/// `14:58:07 UTC`, where seconds matter.
pub(super) fn clock_to_the_second(at: UnixMillis) -> String {
    let t = utc(at);
    format!("{:02}:{:02}:{:02} UTC", t.hour(), t.minute(), t.second())
}

/// `<1 min`, `3 min`, `2 h 5 min`, `4 days`.
pub(super) fn span(span: Duration) -> String {
    let minutes = span.as_secs() / 60;
    match minutes {
        0 => "<1 min".to_owned(),
        1..60 => format!("{minutes} min"),
        60..1_440 if minutes.is_multiple_of(60) => format!("{} h", minutes / 60),
        60..1_440 => format!("{} h {} min", minutes / 60, minutes % 60),
        1_440..2_880 => "1 day".to_owned(),
        _ => format!("{} days", minutes / 1_440),
    }
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 node`, `3 nodes`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

/// `98.7 %`, `100 %`.
pub(super) fn percent(share: Permille) -> String {
    match share.0 % 10 {
        0 => format!("{} %", share.0 / 10),
        tenth => format!("{}.{tenth} %", share.0 / 10),
    }
}

/// `270 MB`, in decimal units as disks are sold.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut unit, mut scale) = (0, 1_u64);
    while bytes / scale >= 1_000 && unit + 1 < UNITS.len() {
        unit += 1;
        scale *= 1_000;
    }
    let (whole, tenth) = (bytes / scale, bytes % scale * 10 / scale);
    if unit == 0 || whole >= 10 || tenth == 0 {
        return format!("{whole} {}", UNITS[unit]);
    }
    format!("{whole}.{tenth} {}", UNITS[unit])
}

/// `1.4 s`, `940 ms`.
pub(super) fn milliseconds(ms: u64) -> String {
    if ms < 1_000 {
        return format!("{ms} ms");
    }
    format!("{}.{} s", grouped(ms / 1_000), ms % 1_000 / 100)
}

/// A number given in tenths: one decimal below a hundred, none above.
pub(super) fn tenths(tenths: u64) -> String {
    if tenths >= 1_000 {
        return grouped((tenths + 5) / 10);
    }
    format!("{}.{}", grouped(tenths / 10), tenths % 10)
}

/// The level in words.
pub(super) const fn level(level: Level) -> &'static str {
    match level {
        Level::Good => "All good",
        Level::Degraded => "Degraded",
        Level::Down => "Down",
    }
}

/// A reason as a sentence without its full stop, and what to do about it where the reader may be the
/// one who can.
pub(super) fn reason(reason: &Reason, now: UnixMillis) -> (String, &'static str) {
    let since = |at: &Option<UnixMillis>| {
        at.map_or(String::new(), |at| format!(" since {}", clock(at, now)))
    };
    match reason {
        Reason::DatabaseAway { since } => (
            format!(
                "the coordinator's database has not answered since {}; new questions are refused until it is back, what was asked before is kept",
                clock_to_the_second(*since)
            ),
            "",
        ),
        Reason::NoModel => ("no model is published yet".to_owned(), ""),
        Reason::NoNodes => (
            "no node has joined, or none was heard of for a day".to_owned(),
            "",
        ),
        Reason::NoneConnected {
            expected,
            since: at,
        } => (
            match expected {
                1 => format!("the only node is silent{}", since(at)),
                2 => format!("both nodes are silent{}", since(at)),
                n => format!("all {} nodes are silent{}", grouped(*n), since(at)),
            },
            "Whoever runs one starts it again with owm-node start; owm-node doctor finds what is wrong",
        ),
        Reason::Unheld { sub_models, .. } => {
            let names: Vec<String> = sub_models.iter().map(ToString::to_string).collect();
            (format!("no node holds {}", names.join(" or ")), "")
        }
        Reason::Silent {
            silent,
            expected,
            since: at,
        } => {
            let is = if *silent == 1 { "is" } else { "are" };
            let at = match (at, silent) {
                (Some(_), 2..) => format!(", the first{}", since(at)),
                _ => since(at),
            };
            let (silent, expected) = (grouped(*silent), grouped(*expected));
            (format!("{silent} of {expected} nodes {is} silent{at}"), "")
        }
        Reason::Waiting { queued, longest } => (
            format!(
                "{} {} for a free node, the longest for {}",
                count(*queued, "question", "questions"),
                if *queued == 1 { "waits" } else { "wait" },
                wait(*longest)
            ),
            "",
        ),
        Reason::Failing { failed, of } => (
            format!(
                "{} of the last {} questions failed",
                grouped(*failed),
                grouped(*of)
            ),
            "",
        ),
        Reason::Answering { connected } => (
            format!(
                "{} ready to answer",
                count(*connected, "node is", "nodes are")
            ),
            "",
        ),
    }
}

/// A wait below a minute by tens of seconds: it is looked at while it lasts.
pub(super) fn wait(longest: Duration) -> String {
    match longest.as_secs() {
        0..10 => "<10 s".to_owned(),
        secs @ 10..60 => format!("{} s", secs / 10 * 10),
        _ => span(longest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22 14:58:07 UTC.
    const NOW: UnixMillis = UnixMillis(1_795_359_487_000);

    #[test]
    fn times_say_no_more_than_is_needed() {
        let back = |secs| NOW.before(Duration::from_secs(secs));
        assert_eq!(clock(NOW, NOW), "14:58 UTC");
        assert_eq!(clock(back(14 * 3_600), NOW), "00:58 UTC");
        assert_eq!(clock(back(15 * 3_600), NOW), "21 Nov 23:58 UTC");
        assert_eq!(clock(back(326 * 86_400), NOW), "31 Dec 2025 14:58 UTC");
        assert_eq!(machine_time(NOW), "2026-11-22T14:58Z");
        assert_eq!(clock_to_the_second(NOW), "14:58:07 UTC");
        assert_eq!(machine_time(UnixMillis(u64::MAX)), "9999-12-31T23:59Z");
    }

    #[test]
    fn spans_are_coarse() {
        let said = |secs| span(Duration::from_secs(secs));
        assert_eq!(said(59), "<1 min");
        assert_eq!(said(60), "1 min");
        assert_eq!(said(3_600), "1 h");
        assert_eq!(said(7_500), "2 h 5 min");
        assert_eq!(said(86_400), "1 day");
        assert_eq!(said(400_000), "4 days");
        assert_eq!(wait(Duration::from_secs(47)), "40 s");
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(count(1, "node", "nodes"), "1 node");
        assert_eq!(percent(Permille(1_000)), "100 %");
        assert_eq!(percent(Permille(987)), "98.7 %");
        assert_eq!(percent(Permille(5)), "0.5 %");
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(999), "999 bytes");
        assert_eq!(size(1_500), "1.5 kB");
        assert_eq!(size(269_060_552), "269 MB");
        assert_eq!(size(u64::MAX), "18446744 TB");
        assert_eq!(milliseconds(940), "940 ms");
        assert_eq!(milliseconds(1_450), "1.4 s");
        assert_eq!(tenths(123), "12.3");
        assert_eq!(tenths(26_666), "2,667");
    }

    #[test]
    fn reasons_are_sentences() {
        let said = |r| reason(&r, NOW).0;
        let since = Some(NOW.before(Duration::from_mins(16)));
        let silent = |silent, since| Reason::Silent {
            silent,
            expected: 3,
            since,
        };
        assert_eq!(
            said(silent(1, since)),
            "1 of 3 nodes is silent since 14:42 UTC"
        );
        assert_eq!(
            said(silent(2, since)),
            "2 of 3 nodes are silent, the first since 14:42 UTC"
        );
        assert_eq!(said(silent(2, None)), "2 of 3 nodes are silent");
        let none = |expected| Reason::NoneConnected { expected, since };
        assert_eq!(said(none(1)), "the only node is silent since 14:42 UTC");
        assert_eq!(said(none(3)), "all 3 nodes are silent since 14:42 UTC");
        let sub_models = vec!["owm-geo".parse().unwrap()];
        let unheld = Reason::Unheld {
            sub_models,
            default: true,
        };
        assert_eq!(said(unheld), "no node holds owm-geo");
        let longest = Duration::from_secs(95);
        let waiting = Reason::Waiting { queued: 1, longest };
        assert_eq!(
            said(waiting),
            "1 question waits for a free node, the longest for 1 min"
        );
        assert_eq!(
            said(Reason::Answering { connected: 1 }),
            "1 node is ready to answer"
        );
    }
}
