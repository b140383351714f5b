//! Reading a configuration as far as it can be read: every mistake, and what is left without them.
//!
//! `doctor` and `config check` call it; a daemon's start uses [`load`](super::load()), which takes no
//! mistake at all. Must stay true: no mistake is passed over; `load` succeeds exactly if nothing is
//! found here.

use std::{collections::BTreeMap, path::Path};

use serde::de::DeserializeOwned;
use toml::{Table, Value, de::DeTable};

use super::{
    ConfigError, Documented, SectionDoc,
    load::{environment, key_of, nearest, override_key, read},
};

/// A configuration with everything that is wrong about it.
#[derive(Debug)]
pub struct Examined<T> {
    /// What holds; keys with a mistake have their defaults.
    pub config: T,
    /// Every mistake.
    pub errors: Vec<ConfigError>,
    /// Whether the file could be read and parsed at all; if not, `config` is made of defaults.
    pub parsed: bool,
}

/// As [`load`](super::load()), but goes on after a mistake.
pub fn examine<T>(path: &Path, env_prefix: &str) -> Examined<T>
where
    T: DeserializeOwned + Documented + Default,
{
    match read(path) {
        Ok(text) => examine_text(&text, env_prefix, environment()),
        Err(error) => {
            let mut examined = examine_text("", env_prefix, environment());
            examined.errors.insert(0, error);
            examined.parsed = false;
            examined
        }
    }
}

/// As [`examine`], from a text and an environment given.
pub fn examine_text<T>(
    text: &str,
    env_prefix: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Examined<T>
where
    T: DeserializeOwned + Documented + Default,
{
    let sections = T::sections();
    let mut errors = Vec::new();
    let (mut table, parsed) = match toml::from_str::<Table>(text) {
        Ok(table) => (table, true),
        Err(error) => {
            let message = error.to_string();
            errors.push(ConfigError::Toml { message });
            (Table::new(), false)
        }
    };
    if parsed {
        errors.extend(unknown_names(text, &sections, &mut table));
        errors.extend(wrong_values::<T>(text, &mut table));
    }
    for (variable, value) in env.into_iter().collect::<BTreeMap<_, _>>() {
        match key_of(&variable, env_prefix, &sections) {
            Ok(Some((section, key))) => {
                let mut tried = table.clone();
                match override_key::<T>(&mut tried, section, key, &variable, &value) {
                    Ok(_) => table = tried,
                    Err(error) => errors.push(error),
                }
            }
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    let config = T::deserialize(table).unwrap_or_else(|error| {
        let message = error.to_string();
        errors.push(ConfigError::Toml { message });
        T::default()
    });
    Examined {
        config,
        errors,
        parsed,
    }
}

/// Takes names that nobody knows out of `table`.
fn unknown_names(text: &str, sections: &[SectionDoc], table: &mut Table) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (section_name, key, line) in names(text) {
        let Some(section) = sections.iter().find(|s| s.name == section_name) else {
            if table.remove(&section_name).is_some() {
                let nearest = nearest(&section_name, sections.iter().map(|s| s.name));
                errors.push(ConfigError::UnknownSection {
                    line,
                    section: section_name,
                    nearest,
                });
            }
            continue;
        };
        let Some(key) = key else { continue };
        if section.keys.iter().any(|known| known.name == key) {
            continue;
        }
        if let Some(Value::Table(keys)) = table.get_mut(&section_name) {
            keys.remove(&key);
        }
        let nearest = nearest(&key, section.keys.iter().map(|known| known.name));
        errors.push(ConfigError::UnknownKey {
            line,
            section: section_name,
            key,
            nearest,
        });
    }
    errors
}

/// Takes values that do not fit their keys out of `table`.
fn wrong_values<T: DeserializeOwned>(text: &str, table: &mut Table) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (section, key, line) in names(text) {
        let alone = match (table.get(&section), &key) {
            (Some(Value::Table(keys)), Some(key)) => keys
                .get(key)
                .map(|value| Value::Table(Table::from_iter([(key.clone(), value.clone())]))),
            (Some(Value::Table(_)) | None, _) => None,
            (Some(value), _) => Some(value.clone()),
        };
        let Some(alone) = alone else { continue };
        let Err(error) = T::deserialize(Table::from_iter([(section.clone(), alone)])) else {
            continue;
        };
        match (table.get_mut(&section), &key) {
            (Some(Value::Table(keys)), Some(key)) => drop(keys.remove(key)),
            _ => drop(table.remove(&section)),
        }
        errors.push(ConfigError::Value {
            line,
            section,
            key: key.unwrap_or_default(),
            message: error.message().to_owned(),
        });
    }
    errors
}

/// Every section (its key is `None`) and every key in the text with its line.
fn names(text: &str) -> Vec<(String, Option<String>, usize)> {
    let Ok(root) = DeTable::parse(text) else {
        return Vec::new();
    };
    let line_of = |start: usize| 1 + text[..start].matches('\n').count();
    let mut names = Vec::new();
    for (section, value) in &root.into_inner() {
        let name = section.get_ref().to_string();
        names.push((name.clone(), None, line_of(section.span().start)));
        for key in value
            .get_ref()
            .as_table()
            .into_iter()
            .flat_map(|t| t.keys())
        {
            let key_name = Some(key.get_ref().to_string());
            names.push((name.clone(), key_name, line_of(key.span().start)));
        }
    }
    names
}
