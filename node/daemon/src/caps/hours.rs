//! Hours of the day in which work is taken: `22:00-06:00` spans midnight. Pure.

/// Minutes of a day.
const DAY_MIN: u64 = 24 * 60;
/// Largest offset from UTC that exists, in minutes.
const OFFSET_MIN_MAX: i64 = 14 * 60;
/// Spans of one list: more is a mistake.
const SPANS_MAX: usize = 24;

/// What is wrong with the hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoursError {
    /// Not a span.
    #[error("`{0}` in [caps] hours is no span of hours; write \"22:00-06:00\"")]
    Span(String),
    /// Not an offset.
    #[error("`{0}` in [caps] utc_offset is no offset from UTC; write \"+02:00\" or \"-03:30\"")]
    Offset(String),
    /// Too many.
    #[error("[caps] hours has more than {SPANS_MAX} spans")]
    TooMany,
}

/// Spans of a day, as the operator's clock shows them. None: always open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hours {
    /// Minutes of the day: from (in) to (out).
    spans: Vec<(u64, u64)>,
    offset_min: i64,
}

impl Hours {
    /// From the configuration's texts.
    pub fn parse(spans: &[String], utc_offset: &str) -> Result<Self, HoursError> {
        if spans.len() > SPANS_MAX {
            return Err(HoursError::TooMany);
        }
        let span = |text: &String| {
            let wrong = || HoursError::Span(text.clone());
            let (from, to) = text.split_once('-').ok_or_else(wrong)?;
            let (from, to) = (minutes(from.trim()), minutes(to.trim()));
            from.zip(to)
                .filter(|(from, to)| from != to)
                .ok_or_else(wrong)
        };
        let spans = spans.iter().map(span).collect::<Result<_, _>>()?;
        Ok(Self {
            spans,
            offset_min: offset(utc_offset)?,
        })
    }

    /// Whether work is taken at `now_ms` (Unix milliseconds).
    pub fn is_open(&self, now_ms: u64) -> bool {
        if self.spans.is_empty() {
            return true;
        }
        let utc = (now_ms / 60_000 % DAY_MIN) as i64;
        let minute = (utc + self.offset_min).rem_euclid(DAY_MIN as i64) as u64;
        self.spans.iter().any(|(from, to)| {
            if from < to {
                (*from..*to).contains(&minute)
            } else {
                minute >= *from || minute < *to
            }
        })
    }
}

/// `HH:MM`, 24:00 included.
fn minutes(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| -> Option<u64> {
        (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let total = number(hours)? * 60 + number(minutes).filter(|m| *m < 60)?;
    (total <= DAY_MIN).then_some(total)
}

fn offset(text: &str) -> Result<i64, HoursError> {
    let wrong = || HoursError::Offset(text.to_owned());
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(wrong()),
    };
    let total = sign * minutes(rest).ok_or_else(wrong)? as i64;
    (total.abs() <= OFFSET_MIN_MAX)
        .then_some(total)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(spans: &[&str], offset: &str) -> Result<Hours, HoursError> {
        let spans: Vec<String> = spans.iter().map(|s| (*s).to_owned()).collect();
        Hours::parse(&spans, offset)
    }

    fn at(hour: u64, minute: u64) -> u64 {
        // Some day's midnight in UTC, plus.
        20_000 * DAY_MIN * 60_000 + (hour * 60 + minute) * 60_000
    }

    #[test]
    fn a_span_over_midnight_is_open_on_both_sides_of_it() {
        let night = hours(&["22:00-06:00"], "+00:00").unwrap();
        for (hour, minute, open) in [
            (21, 59, false),
            (22, 0, true),
            (0, 0, true),
            (5, 59, true),
            (6, 0, false),
        ] {
            assert_eq!(night.is_open(at(hour, minute)), open, "{hour}:{minute}");
        }
    }

    #[test]
    fn the_offset_moves_the_span() {
        let office = hours(&["09:00-17:00"], "-05:30").unwrap();
        assert!(!office.is_open(at(14, 29)));
        assert!(office.is_open(at(14, 30)));
        let early = hours(&["00:00-01:00"], "+02:00").unwrap();
        assert!(early.is_open(at(22, 30)));
    }

    #[test]
    fn no_spans_mean_always_and_nonsense_is_named() {
        assert!(hours(&[], "+00:00").unwrap().is_open(at(3, 0)));
        assert!(
            hours(&["00:00-24:00"], "+00:00")
                .unwrap()
                .is_open(at(23, 59))
        );
        for wrong in [
            "22-6",
            "25:00-26:00",
            "10:60-11:00",
            "10:00",
            "10:00-10:00",
            "1:00-2:00",
        ] {
            assert!(
                matches!(hours(&[wrong], "+00:00"), Err(HoursError::Span(_))),
                "{wrong}"
            );
        }
        for wrong in ["", "02:00", "+15:00", "+2"] {
            assert!(
                matches!(hours(&[], wrong), Err(HoursError::Offset(_))),
                "{wrong}"
            );
        }
    }
}
