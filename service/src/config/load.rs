//! Reading a configuration: file, then environment, each mistake named where it is.
//!
//! Called by daemons through [`load`] and by tests through [`parse`], which takes its environment as a
//! parameter. Must stay true: nothing unknown is passed over in silence.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use serde::de::DeserializeOwned;
use toml::{Table, Value, de::DeTable};

use super::{ConfigError, Documented, SectionDoc};

/// Largest configuration file read, in bytes: samples of all sections have some 20 KiB.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// What separates section and key in a variable; variables without it are none of ours.
const SEPARATOR: &str = "__";

/// Reads the file at `path` (none: defaults) and overrides from the process's environment:
/// `<PREFIX>_<SECTION>__<KEY>`, in any case, its value a TOML scalar or array, else a string.
pub fn load<T>(path: Option<&Path>, env_prefix: &str) -> Result<T, ConfigError>
where
    T: DeserializeOwned + Documented,
{
    let text = path.map(read).transpose()?.unwrap_or_default();
    parse(&text, env_prefix, environment())
}

/// The process's environment. Names that are no Unicode cannot be ours; a value that is none is refused
/// by its key.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        Some((
            name.into_string().ok()?,
            value.to_string_lossy().into_owned(),
        ))
    })
}

/// As [`load`], from a text and an environment given.
pub fn parse<T>(
    text: &str,
    env_prefix: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError>
where
    T: DeserializeOwned + Documented,
{
    let sections = T::sections();
    check_keys(text, &sections)?;
    let wrong = |error: toml::de::Error| ConfigError::Toml {
        message: error.to_string(),
    };
    let mut config: T = toml::from_str(text).map_err(wrong)?;
    let mut table: Table = toml::from_str(text).map_err(wrong)?;
    // Sorted, so that the same environment gives the same first error.
    for (variable, value) in env.into_iter().collect::<BTreeMap<_, _>>() {
        let Some((section, key)) = key_of(&variable, env_prefix, &sections)? else {
            continue;
        };
        config = override_key(&mut table, section, key, &variable, &value)?;
    }
    Ok(config)
}

pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(text)
}

/// serde would refuse unknown keys too, but without line and without the nearest known one.
fn check_keys(text: &str, sections: &[SectionDoc]) -> Result<(), ConfigError> {
    let root = DeTable::parse(text)
        .map_err(|error| ConfigError::Toml {
            message: error.to_string(),
        })?
        .into_inner();
    let line_of = |start: usize| 1 + text[..start].matches('\n').count();
    for (name, value) in &root {
        let section_name: &str = name.get_ref();
        let Some(section) = sections.iter().find(|section| section.name == section_name) else {
            return Err(ConfigError::UnknownSection {
                line: line_of(name.span().start),
                section: section_name.to_owned(),
                nearest: nearest(section_name, sections.iter().map(|section| section.name)),
            });
        };
        let Some(keys) = value.get_ref().as_table() else {
            continue;
        };
        for key in keys.keys() {
            let key_name: &str = key.get_ref();
            if !section.keys.iter().any(|known| known.name == key_name) {
                return Err(ConfigError::UnknownKey {
                    line: line_of(key.span().start),
                    section: section_name.to_owned(),
                    key: key_name.to_owned(),
                    nearest: nearest(key_name, section.keys.iter().map(|known| known.name)),
                });
            }
        }
    }
    Ok(())
}

/// Which key a variable overrides; `None` when it is none of ours.
pub(super) fn key_of(
    variable: &str,
    prefix: &str,
    sections: &[SectionDoc],
) -> Result<Option<(&'static str, &'static str)>, ConfigError> {
    let lower = variable.to_ascii_lowercase();
    let prefix = prefix.to_ascii_lowercase();
    let Some(rest) = lower
        .strip_prefix(&prefix)
        .and_then(|rest| rest.strip_prefix('_'))
    else {
        return Ok(None);
    };
    if !rest.contains(SEPARATOR) {
        return Ok(None);
    }
    let known = || {
        sections
            .iter()
            .flat_map(|section| section.keys.iter().map(move |key| (section.name, key.name)))
    };
    let written = |(section, key): (&str, &str)| format!("{section}{SEPARATOR}{key}");
    if let Some(found) = known().find(|names| written(*names) == rest) {
        return Ok(Some(found));
    }
    let all: Vec<String> = known().map(written).collect();
    let nearest = nearest(rest, all.iter().map(String::as_str))
        .map(|name| format!("{prefix}_{name}").to_ascii_uppercase());
    Err(ConfigError::UnknownVariable {
        variable: variable.to_owned(),
        nearest,
    })
}

/// Sets a key from a variable; a value that does not fit as TOML is tried as a string.
pub(super) fn override_key<T: DeserializeOwned>(
    table: &mut Table,
    section: &str,
    key: &str,
    variable: &str,
    value: &str,
) -> Result<T, ConfigError> {
    let text = Value::String(value.to_owned());
    let candidates = scalar(value).into_iter().chain([text]);
    let mut message = String::new();
    for candidate in candidates {
        let entry = table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        // `check_keys` and the typed parse let only tables through here.
        if let Value::Table(keys) = entry {
            keys.insert(key.to_owned(), candidate);
        }
        match T::deserialize(table.clone()) {
            Ok(config) => return Ok(config),
            Err(error) if message.is_empty() => error.message().clone_into(&mut message),
            Err(_) => {}
        }
    }
    Err(ConfigError::Variable {
        variable: variable.to_owned(),
        message,
    })
}

fn scalar(value: &str) -> Option<Value> {
    let table: Table = toml::from_str(&format!("v = {value}\n")).ok()?;
    let only = (table.len() == 1).then_some(table)?;
    only.into_iter()
        .next()
        .map(|(_, value)| value)
        .filter(|value| !value.is_table())
}

/// The candidate with the smallest edit distance, if it is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let allowed = (word.chars().count() / 3).max(2);
    candidates
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein's distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a_char) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b_char) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(a_char != *b_char);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
