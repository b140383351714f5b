//! JSON to text that a model can learn from: GeoJSON features as lines of properties and places, and any
//! other JSON as headings and lines. Called by the readers. Pure; what the parser's own depth limit
//! (128) lets through is walked.

use serde_json::Value;

/// Most values of one list that are written: coordinates and tables say little after that.
const LIST_VALUES_MAX: usize = 64;
/// Most bytes of text for a byte of JSON: each line repeats the keys above it, so a few deep or long keys
/// could otherwise become gigabytes.
const TEXT_PER_BYTE_MAX: usize = 8;
/// A small file has so many bytes of text in any case.
const TEXT_BYTES_MIN: usize = 64 << 10;
/// Longest tag that is left out, in bytes; longer ones are text.
const TAG_BYTES_MAX: usize = 200;

/// The text of a JSON file; `None` if it is not JSON. Ends early, after a whole line, where it would be many
/// times as long as the file.
pub(crate) fn text(bytes: &str) -> Option<String> {
    let value: Value = serde_json::from_str(bytes).ok()?;
    let mut text = Text {
        text: String::new(),
        left: (bytes.len() * TEXT_PER_BYTE_MAX).max(TEXT_BYTES_MIN),
    };
    match value.get("type").and_then(Value::as_str) {
        Some("FeatureCollection") => {
            for feature in value.get("features")?.as_array()? {
                feature_lines(feature, &mut text);
                text.line("");
            }
        }
        Some("Feature") => feature_lines(&value, &mut text),
        _ => lines(&value, &mut Vec::new(), &mut text),
    }
    Some(text.text)
}

/// Lines, within a bound.
struct Text {
    text: String,
    left: usize,
}

impl Text {
    fn is_full(&self) -> bool {
        self.left == 0
    }

    /// The first line that does not fit is the last that was tried.
    fn line(&mut self, line: &str) {
        let bytes = line.len() + 1;
        if bytes > self.left {
            self.left = 0;
            return;
        }
        self.left -= bytes;
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// Properties as `key: value`, then what lies where.
fn feature_lines(feature: &Value, text: &mut Text) {
    if let Some(properties) = feature.get("properties") {
        lines(properties, &mut Vec::new(), text);
    }
    let Some(geometry) = feature.get("geometry") else {
        return;
    };
    let kind = geometry
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("geometry");
    let mut bounds = Bounds::default();
    bounds.add(geometry.get("coordinates").unwrap_or(&Value::Null));
    let line = match (bounds.west, bounds.south, bounds.east, bounds.north) {
        (Some(w), Some(s), Some(e), Some(n)) if w >= e && s >= n => {
            format!("{kind} at latitude {s:.4}, longitude {w:.4}")
        }
        (Some(w), Some(s), Some(e), Some(n)) => format!(
            "{kind} from latitude {s:.4}, longitude {w:.4} to latitude {n:.4}, longitude {e:.4}"
        ),
        _ => format!("{kind} without a place"),
    };
    text.line(&line);
}

/// The smallest box around all positions.
#[derive(Default)]
struct Bounds {
    west: Option<f64>,
    south: Option<f64>,
    east: Option<f64>,
    north: Option<f64>,
}

impl Bounds {
    fn add(&mut self, coordinates: &Value) {
        let Some(list) = coordinates.as_array() else {
            return;
        };
        if let [longitude, latitude, ..] = &list[..]
            && let (Some(longitude), Some(latitude)) = (longitude.as_f64(), latitude.as_f64())
        {
            let least =
                |old: &mut Option<f64>, new: f64| *old = Some(old.map_or(new, |old| old.min(new)));
            least(&mut self.west, longitude);
            least(&mut self.south, latitude);
            let most =
                |old: &mut Option<f64>, new: f64| *old = Some(old.map_or(new, |old| old.max(new)));
            most(&mut self.east, longitude);
            most(&mut self.north, latitude);
            return;
        }
        for inner in list {
            self.add(inner);
        }
    }
}

/// Nested keys as `a, b: value`. Keys named `text` add nothing and are left out.
fn lines<'v>(value: &'v Value, path: &mut Vec<&'v str>, text: &mut Text) {
    if text.is_full() {
        return;
    }
    let line = |value: &str, text: &mut Text| {
        let value = without_tags(value);
        if value.trim().is_empty() {
            return;
        }
        let keys: Vec<&str> = path.iter().copied().filter(|key| *key != "text").collect();
        if keys.is_empty() {
            text.line(value.trim());
        } else {
            text.line(&format!("{}: {}", keys.join(", "), value.trim()));
        }
    };
    match value {
        Value::Null => {}
        Value::Bool(value) => line(&value.to_string(), text),
        Value::Number(value) => line(&value.to_string(), text),
        Value::String(value) => line(value, text),
        Value::Array(values) => {
            for value in values.iter().take(LIST_VALUES_MAX) {
                lines(value, path, text);
            }
        }
        Value::Object(values) => {
            for (key, value) in values {
                path.push(key);
                lines(value, path, text);
                path.pop();
            }
        }
    }
}

/// Text without `<…>` and with `&amp;`, `&nbsp;` read.
fn without_tags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        plain.push_str(before);
        // A lone `<` is a sign, not a tag.
        let is_tag = tag[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
        let end = tag
            .bytes()
            .take(TAG_BYTES_MAX)
            .position(|byte| byte == b'>');
        let Some(end) = end.filter(|_| is_tag) else {
            plain.push('<');
            rest = &tag[1..];
            continue;
        };
        plain.push(' ');
        rest = &tag[end + 1..];
    }
    plain.push_str(rest);
    plain.replace("&nbsp;", " ").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_become_properties_and_places() {
        let geojson = r#"{"type": "FeatureCollection", "features": [
            {"type": "Feature", "properties": {"name": "Oslo", "country": "Norway"},
             "geometry": {"type": "Point", "coordinates": [10.75, 59.91]}},
            {"type": "Feature", "properties": {"name": "A lake"},
             "geometry": {"type": "Polygon", "coordinates": [[[1, 2], [3, 4.5], [1, 2]]]}}]}"#;
        assert_eq!(
            text(geojson).unwrap(),
            "country: Norway\nname: Oslo\nPoint at latitude 59.9100, longitude 10.7500\n\n\
             name: A lake\nPolygon from latitude 2.0000, longitude 1.0000 to latitude 4.5000, \
             longitude 3.0000\n\n"
        );
        assert_eq!(text("{not json"), None);
    }

    #[test]
    fn long_keys_over_many_values_do_not_become_gigabytes() {
        let key = "k".repeat(100_000);
        let values = (0..64).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        let lists = vec![format!("[{values}]"); 64].join(",");
        let json = format!(r#"{{"{key}": [{lists}]}}"#);
        let text = text(&json).unwrap();
        assert!(
            text.len() <= json.len() * TEXT_PER_BYTE_MAX,
            "{}",
            text.len()
        );
        assert!(text.ends_with('\n') && text.lines().count() > 1);
    }

    #[test]
    fn tags_are_left_out_and_what_is_none_stays() {
        assert_eq!(without_tags("a<b>c</b>d &amp; e < f"), "a c d & e < f");
        let long = format!("<a{}>", " ".repeat(TAG_BYTES_MAX));
        assert_eq!(without_tags(&long), long);
        let unclosed = "<a".repeat(30_000);
        assert_eq!(without_tags(&unclosed), unclosed);
    }

    #[test]
    fn profiles_become_headings_and_lines() {
        let profile = r#"{"Geography": {"Area": {"total": {"text": "5 < 6 sq km<br>about"}}}}"#;
        assert_eq!(
            text(profile).unwrap(),
            "Geography, Area, total: 5 < 6 sq km about\n"
        );
    }
}
