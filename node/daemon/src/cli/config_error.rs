//! What is wrong with a configuration, with the file it is in and what is allowed there. Every command
//! that loads one asks here.

use std::path::Path;

use owm_service::{
    RunError,
    config::{ConfigError, Documented as _, SectionDoc},
};

use crate::config::NodeConfig;

/// The error with the file's name and the keys or sections that exist.
pub(super) fn with_file(path: &Path, error: ConfigError) -> RunError {
    let sections = NodeConfig::sections();
    let allowed = match &error {
        ConfigError::UnknownSection { .. } => {
            let names: Vec<_> = sections.iter().map(|section| section.name).collect();
            format!("; sections are {}", names.join(", "))
        }
        ConfigError::UnknownKey { section, .. } => keys_of(&sections, section),
        ConfigError::Toml { .. } => String::new(),
        // These name their file or variable.
        _ => return RunError::usage(error),
    };
    RunError::usage(format!("{}: {error}{allowed}", path.display()))
}

fn keys_of(sections: &[SectionDoc], name: &str) -> String {
    let section = sections.iter().find(|section| section.name == name);
    let keys = section.into_iter().flat_map(|section| &section.keys);
    let names: Vec<_> = keys.map(|key| key.name).collect();
    format!("; [{name}] takes {}", names.join(", "))
}
