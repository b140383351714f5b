//! Mistakes in a configuration as findings, each with the line to change.

use std::path::Path;

use super::{Finding, shell};
use crate::{
    config::{ConfigError, Examined},
    report::Chain,
};

const AREA: &str = "config";

/// What [`crate::config::examine()`] found in `path`. `make` is the command that makes a configuration,
/// `sample` one that shows all keys or where they are shown.
pub fn judge<T>(examined: &Examined<T>, path: &Path, make: &str, sample: &str) -> Vec<Finding> {
    if examined.errors.is_empty() {
        return vec![Finding::ok(AREA, "every key is known and fits")];
    }
    let errors = examined.errors.iter();
    errors.map(|error| one(error, path, make, sample)).collect()
}

fn one(error: &ConfigError, path: &Path, make: &str, sample: &str) -> Finding {
    let file = shell(path);
    let what = match error {
        ConfigError::Toml { message } => {
            format!(
                "cannot be read:\n{}\nchecked with the defaults",
                message.trim()
            )
        }
        other => Chain(other).to_string(),
    };
    let fix = match error {
        ConfigError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            make.to_owned()
        }
        ConfigError::Read { .. } => format!("make {file} readable for this user: ls -l {file}"),
        ConfigError::TooLarge { .. } => format!("name the right file, or make it anew: {make}"),
        ConfigError::Toml { message } => match first_line_number(message) {
            Some(line) => format!("correct line {line} of {file}"),
            None => format!("correct {file}"),
        },
        ConfigError::UnknownSection {
            line,
            section,
            nearest,
        } => rename(*line, &file, section, nearest.as_deref(), sample),
        ConfigError::UnknownKey {
            line, key, nearest, ..
        } => rename(*line, &file, key, nearest.as_deref(), sample),
        ConfigError::Value { line, .. } => {
            format!("correct line {line} of {file} ({sample} shows what fits)")
        }
        ConfigError::UnknownVariable { variable, nearest } => match nearest {
            Some(nearest) => format!("set {nearest} instead, and: unset {variable}"),
            None => format!("unset {variable}"),
        },
        ConfigError::Variable { variable, .. } => {
            format!("correct or unset {variable} ({sample} shows what fits)")
        }
    };
    Finding::problem(AREA, what, fix)
}

fn rename(line: usize, file: &str, word: &str, nearest: Option<&str>, sample: &str) -> String {
    match nearest {
        Some(nearest) => format!("in line {line} of {file} write `{nearest}` for `{word}`"),
        None => format!("take line {line} (`{word}`) out of {file}; {sample} shows all keys"),
    }
}

/// "TOML parse error at line 3, column 5"
fn first_line_number(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once("line ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::examine_text, doctor::Level};

    crate::config! {
        /// A configuration.
        struct Tested {
            /// Caps.
            caps: Caps,
        }

        /// Caps.
        struct Caps {
            /// Memory.
            ram: u32 = 1,
            /// Disk.
            disk: u32 = 2,
        }
    }

    fn found(text: &str, env: &[(&str, &str)]) -> (Vec<Finding>, Tested) {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let examined = examine_text::<Tested>(text, "OWM", env);
        let findings = judge(&examined, Path::new("x.toml"), "x init", "x sample");
        (findings, examined.config)
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_the_rest_holds() {
        let text = "[caps]\nrm = 5\ndisk = \"much\"\nram = 7\n[cups]\na = 1\n[blah]\n";
        let (findings, config) = found(text, &[("OWM_CAPS__DSK", "1"), ("OWM_CAPS__DISK", "9")]);
        let fixes: Vec<_> = findings.iter().filter_map(|f| f.fix.as_deref()).collect();
        let expected = [
            "in line 5 of x.toml write `caps` for `cups`",
            "in line 2 of x.toml write `ram` for `rm`",
            "take line 7 (`blah`) out of x.toml; x sample shows all keys",
            "correct line 3 of x.toml (x sample shows what fits)",
            "set OWM_CAPS__DISK instead, and: unset OWM_CAPS__DSK",
        ];
        let mut sorted = (fixes.clone(), expected.to_vec());
        sorted.0.sort_unstable();
        sorted.1.sort_unstable();
        assert_eq!(sorted.0, sorted.1);
        assert!(findings.iter().all(|f| f.level == Level::Problem));
        assert_eq!((config.caps.ram, config.caps.disk), (7, 9));
    }

    #[test]
    fn what_is_no_toml_names_the_line_and_leaves_the_defaults() {
        let (findings, config) = found("[caps]\nram = = 3\n", &[]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].fix.as_deref(), Some("correct line 2 of x.toml"));
        assert_eq!(config.caps.ram, 1);
        assert_eq!(found("", &[]).0[0].level, Level::Ok);
    }

    #[test]
    fn doctor_finds_nothing_exactly_where_a_start_finds_nothing() {
        for text in [
            "",
            "[caps]\nram = 3",
            "[caps]\nram = -3",
            "caps = 3",
            "a = 1",
            "[[caps]]",
        ] {
            let loads = crate::config::parse::<Tested>(text, "OWM", []).is_ok();
            let clean = examine_text::<Tested>(text, "OWM", []).errors.is_empty();
            assert_eq!(loads, clean, "{text}");
        }
    }

    #[test]
    fn a_missing_file_says_what_makes_one() {
        let path = Path::new("/nowhere/at/all.toml");
        let examined = crate::config::examine::<Tested>(path, "OWM_DOCTOR_TEST");
        let findings = judge(&examined, path, "x init", "x sample");
        assert_eq!(findings[0].fix.as_deref(), Some("x init"));
        assert!(!examined.parsed);
    }
}
