//! JSON to text that a model can learn from: GeoJSON features as lines of properties and places, and any
//! other JSON as headings and lines. Called by the readers. Pure; what the parser's own depth limit
//! (128) lets through is walked.

use std::fmt::Write as _;

use serde_json::Value;

/// Most values of one list that are written: coordinates and tables say little after that.
const LIST_VALUES_MAX: usize = 64;

/// The text of a JSON file; `None` if it is not JSON. `geojson` asks for a file that calls itself so.
pub(crate) fn text(bytes: &str) -> Option<String> {
    let value: Value = serde_json::from_str(bytes).ok()?;
    let mut text = String::new();
    match value.get("type").and_then(Value::as_str) {
        Some("FeatureCollection") => {
            for feature in value.get("features")?.as_array()? {
                feature_lines(feature, &mut text);
                text.push('\n');
            }
        }
        Some("Feature") => feature_lines(&value, &mut text),
        _ => lines(&value, &mut Vec::new(), &mut text),
    }
    Some(text)
}

/// Properties as `key: value`, then what lies where.
fn feature_lines(feature: &Value, text: &mut String) {
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
    // Writing to a String does not fail.
    let _ = match (bounds.west, bounds.south, bounds.east, bounds.north) {
        (Some(w), Some(s), Some(e), Some(n)) if w >= e && s >= n => {
            writeln!(text, "{kind} at latitude {s:.4}, longitude {w:.4}")
        }
        (Some(w), Some(s), Some(e), Some(n)) => writeln!(
            text,
            "{kind} from latitude {s:.4}, longitude {w:.4} to latitude {n:.4}, longitude {e:.4}"
        ),
        _ => writeln!(text, "{kind} without a place"),
    };
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
fn lines<'v>(value: &'v Value, path: &mut Vec<&'v str>, text: &mut String) {
    let line = |value: &str, text: &mut String| {
        let value = without_tags(value);
        if !value.trim().is_empty() {
            let keys: Vec<&str> = path.iter().copied().filter(|key| *key != "text").collect();
            let _ = if keys.is_empty() {
                writeln!(text, "{}", value.trim())
            } else {
                writeln!(text, "{}: {}", keys.join(", "), value.trim())
            };
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
        let Some(end) = tag.find('>').filter(|end| is_tag && *end < 200) else {
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
    fn profiles_become_headings_and_lines() {
        let profile = r#"{"Geography": {"Area": {"total": {"text": "5 < 6 sq km<br>about"}}}}"#;
        assert_eq!(
            text(profile).unwrap(),
            "Geography, Area, total: 5 < 6 sq km about\n"
        );
    }
}
