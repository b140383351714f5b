//! `config check`: everything that is wrong with a configuration at once, and what is in effect.
//!
//! The daemons' `config check` calls it. Must stay true: no secret is shown; what is in effect is what
//! [`super::load()`] would give, where it gives anything.

use std::{collections::BTreeMap, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::{
    ConfigError, Documented,
    examine::{Examined, examine_text},
    load::{environment, key_of, read},
};

/// Shown instead of a secret.
const HIDDEN: &str = "***";
/// A key whose name holds one of these is shown hidden unless it names a file.
const SECRET_NAMES: [&str; 3] = ["password", "secret", "token"];

/// A configuration looked at as a whole.
#[derive(Debug)]
pub struct Checked<T> {
    /// The configuration; keys with a mistake have their defaults.
    pub config: T,
    /// All that is wrong with it.
    pub problems: Vec<ConfigError>,
    /// What is in effect, in the order of the documentation.
    pub values: Vec<Effective>,
}

/// One key as it is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// Its section.
    pub section: &'static str,
    /// Its name.
    pub key: &'static str,
    /// Its value as TOML, secrets hidden; `None` when it is not set.
    pub value: Option<String>,
    /// `default`, `file`, or the variable that overrides it.
    pub origin: String,
}

/// Checks the file at `path` with this process's environment, as [`super::load()`] reads them.
pub fn check<T>(path: &Path, env_prefix: &str) -> Checked<T>
where
    T: DeserializeOwned + Serialize + Documented + Default,
{
    match read(path) {
        Ok(text) => check_text(&text, env_prefix, environment()),
        Err(error) => Checked {
            config: T::default(),
            problems: vec![error],
            values: Vec::new(),
        },
    }
}

/// As [`check`], from a text and an environment given.
pub fn check_text<T>(
    text: &str,
    env_prefix: &str,
    env: impl IntoIterator<Item = (String, String)>,
) -> Checked<T>
where
    T: DeserializeOwned + Serialize + Documented + Default,
{
    let env: BTreeMap<_, _> = env.into_iter().collect();
    let Examined { config, errors, .. } = examine_text::<T>(text, env_prefix, env.clone());
    let sections = T::sections();
    let in_file: Table = toml::from_str(text).unwrap_or_default();
    let mut origins = BTreeMap::new();
    for variable in env.keys() {
        if let Ok(Some(names)) = key_of(variable, env_prefix, &sections) {
            origins.insert(names, variable.clone());
        }
    }
    for error in &errors {
        if let ConfigError::Variable { variable, .. } = error {
            origins.retain(|_, overriding| overriding != variable);
        }
    }
    let is_wrong = |section: &str, key: &str| {
        errors.iter().any(|error| {
            matches!(error, ConfigError::Value { section: s, key: k, .. }
                if s == section && (k == key || k.is_empty()))
        })
    };
    let shown = Table::try_from(&config).unwrap_or_default();
    let mut values = Vec::new();
    for section in &sections {
        for key in &section.keys {
            let at = |table: &Table| table.get(section.name)?.get(key.name).cloned();
            let origin = match origins.remove(&(section.name, key.name)) {
                Some(variable) => variable,
                None if at(&in_file).is_some() && !is_wrong(section.name, key.name) => {
                    "file".to_owned()
                }
                None => "default".to_owned(),
            };
            values.push(Effective {
                section: section.name,
                key: key.name,
                value: at(&shown).map(|value| hide(key.name, &value).to_string()),
                origin,
            });
        }
    }
    Checked {
        config,
        problems: errors,
        values,
    }
}

impl Effective {
    /// `rpc.listen = "127.0.0.1:9000"  (default)`
    pub fn line(&self) -> String {
        let value = self.value.as_deref().unwrap_or("not set");
        format!("{}.{} = {value}  ({})", self.section, self.key, self.origin)
    }
}

/// The value without what nobody may read over a shoulder.
fn hide(key: &str, value: &Value) -> Value {
    let secret = SECRET_NAMES.iter().any(|name| key.contains(name));
    match value {
        Value::String(text) if secret && !key.ends_with("_file") && !text.is_empty() => {
            Value::String(HIDDEN.to_owned())
        }
        Value::String(text) => Value::String(hide_password(text)),
        Value::Array(values) => Value::Array(values.iter().map(|value| hide(key, value)).collect()),
        Value::Table(table) => Value::Table(
            table
                .iter()
                .map(|(name, value)| (name.clone(), hide(name, value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// `scheme://user:***@host/?password=***` of a URL with passwords; other text as it is.
pub fn hide_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (before, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    // The last @ before the path: passwords may hold one.
    let before = match before.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
            None => before.to_owned(),
        },
        None => before.to_owned(),
    };
    let query = query.map(|query| {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.to_ascii_lowercase().contains("password") => {
                format!("{name}={HIDDEN}")
            }
            _ => pair.to_owned(),
        });
        format!("?{}", pairs.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}://{before}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::config! {
        /// A configuration.
        struct Tested {
            /// The API.
            api: Api,
            /// The database.
            database: Database,
        }

        /// The API.
        struct Api {
            /// Where it listens.
            listen: std::net::SocketAddr = ([127, 0, 0, 1], 8080).into(),
            /// Time for one request.
            timeout: crate::config::HumanDuration = crate::config::HumanDuration::from_secs(30),
        }

        /// The database.
        struct Database {
            /// Where it is.
            url: String = "postgres:///owm".to_owned(),
            /// A file with the URL.
            url_file: Option<std::path::PathBuf> = None,
            /// How many at once.
            connections_max: u32 = 16,
        }
    }

    fn checked(text: &str, env: &[(&str, &str)]) -> Checked<Tested> {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        check_text(text, "OWM", env)
    }

    fn problems(text: &str, env: &[(&str, &str)]) -> Vec<String> {
        let problems = checked(text, env).problems;
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = "[api]\nlisten = \"nowhere\"\ntimeuot = \"5s\"\ntimeout = 7\n[databse]\nurl = 1\n[database]\nconnections_max = -1\n";
        let env = [
            ("OWM_API__LISTNE", "x"),
            ("OWM_DATABASE__CONNECTIONS_MAX", "many"),
        ];
        let found = problems(text, &env);
        let expected = [
            "line 3: section `api` has no key `timeuot`; did you mean `timeout`?",
            "line 5: there is no section `databse`; did you mean `database`?",
            "line 2: [api] listen: ",
            "line 4: [api] timeout: ",
            "line 8: [database] connections_max: ",
            "the environment variable OWM_API__LISTNE overrides no key; did you mean `OWM_API__LISTEN`?",
            "the environment variable OWM_DATABASE__CONNECTIONS_MAX does not fit: ",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for expected in expected {
            let told = found.iter().any(|problem| problem.starts_with(expected));
            assert!(told, "{expected} is not in {found:#?}");
        }
        // What is wrong has its default, and says so.
        let lines: Vec<String> = checked(text, &env)
            .values
            .iter()
            .map(Effective::line)
            .collect();
        assert_eq!(lines[0], "api.listen = \"127.0.0.1:8080\"  (default)");
        assert_eq!(lines[4], "database.connections_max = 16  (default)");
    }

    #[test]
    fn a_file_that_is_no_toml_and_a_section_that_is_none_are_told() {
        assert_eq!(problems("[api\n", &[]).len(), 1);
        let found = problems("api = 3\n", &[]);
        assert!(found[0].starts_with("line 1: [api] "), "{found:?}");
    }

    #[test]
    fn what_is_in_effect_is_shown_with_where_it_comes_from() {
        let env = [("OWM_DATABASE__CONNECTIONS_MAX", "4"), ("OWM_LOG", "info")];
        let checked = checked("[api]\ntimeout = \"5m\"\n", &env);
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
        let lines: Vec<String> = checked.values.iter().map(Effective::line).collect();
        assert_eq!(
            lines,
            [
                "api.listen = \"127.0.0.1:8080\"  (default)",
                "api.timeout = \"5m\"  (file)",
                "database.url = \"postgres:///owm\"  (default)",
                "database.url_file = not set  (default)",
                "database.connections_max = 4  (OWM_DATABASE__CONNECTIONS_MAX)",
            ]
        );
    }

    #[test]
    fn no_password_is_shown() {
        let url = "postgres://owm:p@ss:word@db.example/owm?sslmode=require&password=hunter2";
        let checked = checked(&format!("[database]\nurl = \"{url}\"\n"), &[]);
        let shown = checked.values[2].line();
        assert_eq!(
            shown,
            "database.url = \"postgres://owm:***@db.example/owm?sslmode=require&password=***\"  (file)"
        );
        let text = Value::String("abc".to_owned());
        assert_eq!(hide("api_token", &text), Value::String(HIDDEN.to_owned()));
        assert_eq!(hide("token_file", &text), text);
        assert_eq!(
            hide_password("http://127.0.0.1:8080"),
            "http://127.0.0.1:8080"
        );
        assert_eq!(
            hide_password("postgres://owm@db/owm"),
            "postgres://owm@db/owm"
        );
    }
}
