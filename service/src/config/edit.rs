//! Changes single keys of a configuration and leaves everything else, comments too, as it is.
//!
//! `restore` calls it: a configuration that moves to another folder names other paths. Must stay true: what
//! comes out reads back with the new values, or nothing comes out.

use toml::{Table, Value, de::DeTable};

use super::ConfigError;

/// Sets texts: section, key, value.
pub fn set(text: &str, changes: &[(&str, &str, &str)]) -> Result<String, ConfigError> {
    let mut text = text.to_owned();
    for (section, key, to) in changes {
        text = set_one(&text, section, key, &Value::String((*to).to_owned()))?;
    }
    let read: Table = toml::from_str(&text).map_err(wrong)?;
    for (section, key, to) in changes {
        let found = read.get(*section).and_then(|keys| keys.get(key));
        if found.and_then(Value::as_str) != Some(to) {
            let message =
                format!("[{section}] {key} cannot be set: write the section as [{section}]");
            return Err(ConfigError::Toml { message });
        }
    }
    Ok(text)
}

fn set_one(text: &str, section: &str, key: &str, to: &Value) -> Result<String, ConfigError> {
    let table = DeTable::parse(text).map_err(wrong)?.into_inner();
    let found = table.iter().find(|(name, _)| name.get_ref() == section);
    let Some((name, keys)) = found else {
        return Ok(format!("{text}\n[{section}]\n{key} = {to}\n"));
    };
    let keys = keys.get_ref().as_table();
    let value = keys.and_then(|keys| keys.iter().find(|(name, _)| name.get_ref() == key));
    let (before, new, after) = if let Some((_, value)) = value {
        let place = value.span();
        (&text[..place.start], to.to_string(), &text[place.end..])
    } else {
        let line = name.span().end;
        let end = text[line..].find('\n').map_or(text.len(), |end| line + end);
        (&text[..end], format!("\n{key} = {to}"), &text[end..])
    };
    Ok(format!("{before}{new}{after}"))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn wrong(error: toml::de::Error) -> ConfigError {
    ConfigError::Toml {
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_keys_change_and_comments_stay() {
        let text = "# mine\n[node]\n# where\ndata = \"/old\" # here\n\n[log]\nfilter = \"info\"\n";
        let changed = set(
            text,
            &[
                ("node", "data", "data"),
                ("log", "format", "json"),
                ("new", "key", "x\"y"),
            ],
        )
        .unwrap();
        assert!(
            changed.starts_with("# mine\n[node]\n# where\ndata = \"data\""),
            "{changed}"
        );
        let read: toml::Table = toml::from_str(&changed).unwrap();
        assert_eq!(read["log"]["filter"].as_str(), Some("info"));
        assert_eq!(read["log"]["format"].as_str(), Some("json"));
        assert_eq!(read["new"]["key"].as_str(), Some("x\"y"));
        // Never something else than was asked for.
        for text in ["a = 1\n", "[a.b.c]\nd = 1\n", "a = {}\n", "a"] {
            assert!(set(text, &[("a", "b", "c")]).is_err(), "{text}");
        }
    }
}
