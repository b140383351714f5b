//! Configuration: unknown keys and variables, overrides, and the sample.

use super::*;

crate::config! {
    /// A configuration
    /// of the tests.
    struct Tested {
        /// The public API.
        api: Api,
        /// Where things are kept.
        store: Store,
    }

    /// The public API.
    struct Api {
        /// Where it listens.
        listen: std::net::SocketAddr = "127.0.0.1:8080".parse().expect("a literal"),
        /// Time for one request.
        ///
        /// Longer ones are cut off.
        timeout: HumanDuration = HumanDuration::from_secs(30),
        /// Largest body.
        body_max: HumanBytes = HumanBytes::from_mib(4),
        /// Who may call.
        origins: Vec<String> = vec!["http://localhost".to_owned()],
    }

    /// Where things are kept.
    struct Store {
        /// Its folder.
        folder: Option<std::path::PathBuf> = None,
        /// Its name.
        name: String = "main \"store\"".to_owned(),
        /// How many at a time.
        batch: u32 = 50,
    }
}

fn read(text: &str, env: &[(&str, &str)]) -> Result<Tested, ConfigError> {
    parse(
        text,
        "OWM",
        env.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn error(text: &str, env: &[(&str, &str)]) -> String {
    read(text, env).unwrap_err().to_string()
}

fn shown(config: &Tested) -> String {
    format!("{config:?}")
}

#[test]
fn a_file_sets_what_it_names_and_leaves_the_rest() {
    let config = read("[api]\ntimeout = \"5m\"\n[store]\nfolder = \"data\"\n", &[]).unwrap();
    assert_eq!(config.api.timeout.get().as_secs(), 300);
    assert_eq!(
        config.store.folder.as_deref(),
        Some(std::path::Path::new("data"))
    );
    assert_eq!(config.store.batch, 50);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    assert_eq!(
        error("[api]\n# a comment\ntimeuot = \"5m\"\n", &[]),
        "line 3: section `api` has no key `timeuot`; did you mean `timeout`?"
    );
    assert_eq!(
        error("\n[aip]\ntimeout = \"5m\"\n", &[]),
        "line 2: there is no section `aip`; did you mean `api`?"
    );
    assert_eq!(
        error("[api]\nxyzzy = 1\n", &[]),
        "line 2: section `api` has no key `xyzzy`"
    );
}

#[test]
fn a_value_that_does_not_fit_is_shown_with_its_line() {
    let text = error("[api]\ntimeout = \"soon\"\n", &[]);
    assert!(
        text.contains("line 2") && text.contains("`soon` is no duration"),
        "{text}"
    );
    let text = error("[store]\nbatch = -1\n", &[]);
    assert!(text.contains("line 2"), "{text}");
    assert!(error("[api\n", &[]).contains("line 1"));
    assert!(error("api = 3\n", &[]).contains("line 1"));
}

#[test]
fn the_environment_overrides_the_file() {
    let env = [
        ("OWM_API__TIMEOUT", "2s"),
        ("owm_store__Batch", "7"),
        ("OWM_STORE__NAME", "123"),
        ("OWM_API__ORIGINS", "[\"a\", \"b\"]"),
        ("OWM_LOG", "debug"),
        ("HOME__X", "/"),
    ];
    let config = read("[api]\ntimeout = \"5m\"\n", &env).unwrap();
    assert_eq!(config.api.timeout.get().as_secs(), 2);
    assert_eq!((config.store.batch, config.store.name.as_str()), (7, "123"));
    assert_eq!(config.api.origins, ["a", "b"]);
}

#[test]
fn an_unknown_variable_is_an_error() {
    assert_eq!(
        error("", &[("OWM_API__TIMEUOT", "2s")]),
        "the environment variable OWM_API__TIMEUOT overrides no key; did you mean \
         `OWM_API__TIMEOUT`?"
    );
    assert!(error("", &[("OWM_NOTHING__AT_ALL", "2s")]).ends_with("overrides no key"));
}

#[test]
fn a_variable_that_does_not_fit_is_named() {
    let text = error("", &[("OWM_STORE__BATCH", "many")]);
    assert!(text.contains("OWM_STORE__BATCH does not fit"), "{text}");
    let text = error("", &[("OWM_API__TIMEOUT", "soon")]);
    assert!(text.contains("`soon` is no duration"), "{text}");
}

#[test]
fn the_sample_reads_back_as_the_defaults() {
    let text = sample::<Tested>();
    let defaults = shown(&Tested::default());
    assert_eq!(shown(&read(&text, &[]).unwrap()), defaults);
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_alphabetic()) => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(uncommented.contains("\nbatch = 50\n"), "{uncommented}");
    assert_eq!(shown(&read(&uncommented, &[]).unwrap()), defaults);
}

#[test]
fn the_sample_shows_every_key_with_its_doc() {
    let text = sample::<Tested>();
    assert!(
        text.starts_with("# A configuration\n# of the tests.\n"),
        "{text}"
    );
    let key = "# Time for one request.\n#\n# Longer ones are cut off.\n#timeout = \"30s\"\n";
    assert!(text.contains(key), "{text}");
    assert!(
        text.contains("# Its folder.\n# (folder is not set by default)\n"),
        "{text}"
    );
    assert!(
        text.contains("\n# Where things are kept.\n[store]\n"),
        "{text}"
    );
}

#[test]
fn a_file_is_bounded_and_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("owm.toml");
    let error = load::<Tested>(Some(&path), "OWM_TEST_NOTHING").unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error}");
    std::fs::write(&path, "#".repeat(CONFIG_BYTES_MAX as usize + 1)).unwrap();
    let error = load::<Tested>(Some(&path), "OWM_TEST_NOTHING").unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");
    std::fs::write(&path, "[store]\nbatch = 1\n").unwrap();
    let config = load::<Tested>(Some(&path), "OWM_TEST_NOTHING").unwrap();
    assert_eq!(config.store.batch, 1);
}
