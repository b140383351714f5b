//! Which bytes of a file a request wants (RFC 9110 §13, §14): pure.

use std::ops::Range;

use http::{HeaderMap, HeaderName, header};

/// Which bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All.
    Everything,
    /// Some; never empty.
    Part(Range<u64>),
    /// None that the file has.
    Nothing,
}

/// Whether a header lists `etag`, or is `*`. Weak tags compare as strong ones: the tag is a hash.
pub(super) fn matches(headers: &HeaderMap, name: &HeaderName, etag: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
        })
}

/// What `Range` and `If-Range` ask for. Several ranges, other units and what does not parse are
/// ignored, as the RFC allows: everything is sent.
pub(super) fn wanted(headers: &HeaderMap, size: u64, etag: &str) -> Wanted {
    let Some(text) = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
    else {
        return Wanted::Everything;
    };
    // A part is of use only to one who has the rest of the same file.
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition.to_str().ok() != Some(etag)
    {
        return Wanted::Everything;
    }
    parse(text, size).unwrap_or(Wanted::Everything)
}

fn parse(text: &str, size: u64) -> Option<Wanted> {
    let (unit, spec) = text.split_once('=')?;
    let (first, last) = spec.trim().split_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !unit.trim().eq_ignore_ascii_case("bytes") || !digits(first) || !digits(last) {
        return None;
    }
    Some(match (number(first), number(last)) {
        (None, None) => return None,
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), _) if first >= size => Wanted::Nothing,
        (Some(first), last) => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            Wanted::Part(first..end)
        }
        (None, Some(suffix)) if suffix == 0 || size == 0 => Wanted::Nothing,
        (None, Some(suffix)) => Wanted::Part(size.saturating_sub(suffix)..size),
    })
}

/// The number that digits make; more of them than any file has bytes go as far as it goes.
fn number(digits: &str) -> Option<u64> {
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_range_is_served_and_nonsense_is_ignored() {
        use Wanted::{Everything, Nothing, Part};
        for (text, expected) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=2-5", Part(2..6)),
            ("bytes=2-", Part(2..10)),
            ("bytes=2-999", Part(2..10)),
            ("bytes=0-18446744073709551615", Part(0..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-99", Part(0..10)),
            ("Bytes= 9-9", Part(9..10)),
            ("bytes=10-", Nothing),
            ("bytes=10-11", Nothing),
            ("bytes=99999999999999999999-", Nothing),
            ("bytes=-0", Nothing),
            ("bytes=5-2", Everything),
            ("bytes=-", Everything),
            ("bytes=a-b", Everything),
            ("bytes=+1-2", Everything),
            ("bytes=1-2,4-5", Everything),
            ("bytes=1-2-3", Everything),
            ("lines=1-2", Everything),
            ("1-2", Everything),
        ] {
            assert_eq!(parse(text, 10).unwrap_or(Everything), expected, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Some(Nothing));
        assert_eq!(parse("bytes=-1", 0), Some(Nothing));
    }

    #[test]
    fn a_range_of_another_file_becomes_the_whole_file() {
        let headers = |condition: &'static str| {
            HeaderMap::from_iter([
                (header::RANGE, HeaderValue::from_static("bytes=1-2")),
                (header::IF_RANGE, HeaderValue::from_static(condition)),
            ])
        };
        assert_eq!(wanted(&headers("\"a\""), 10, "\"a\""), Wanted::Part(1..3));
        assert_eq!(wanted(&headers("\"b\""), 10, "\"a\""), Wanted::Everything);
        assert_eq!(wanted(&headers("W/\"a\""), 10, "\"a\""), Wanted::Everything);
    }

    #[test]
    fn a_list_of_tags_matches_any_of_them() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))])
        };
        let matches = |value| matches(&headers(value), &header::IF_NONE_MATCH, "\"a\"");
        assert!(matches("\"x\", W/\"a\""));
        assert!(matches("*"));
        assert!(!matches("\"x\""));
        assert!(!matches("a"));
    }
}
