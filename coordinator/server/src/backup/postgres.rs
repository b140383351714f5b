//! Postgres's own client programs: which of them fit a server, and how they are run without a password on
//! their command line.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use owm_service::progress::Progress;
use tokio::process::Command;
use url::Url;
use zeroize::Zeroizing;

/// Where Debian puts them, by version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Where to look first, as the devnet does.
const BIN_ENV: &str = "OWM_PG_BIN";
/// Lines of a failed program's complaint that are shown.
const LINES_MAX: usize = 5;
/// Keys of a URL's query that libpq knows, with sqlx's other names for them; sqlx's own are left out.
const QUERY: [(&str, &str); 14] = [
    ("host", "host"),
    ("hostaddr", "hostaddr"),
    ("port", "port"),
    ("dbname", "dbname"),
    ("user", "user"),
    ("application_name", "application_name"),
    ("sslmode", "sslmode"),
    ("ssl-mode", "sslmode"),
    ("sslrootcert", "sslrootcert"),
    ("ssl-root-cert", "sslrootcert"),
    ("sslcert", "sslcert"),
    ("ssl-cert", "sslcert"),
    ("sslkey", "sslkey"),
    ("ssl-key", "sslkey"),
];

/// Why the database could not be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The URL is none.
    #[error(
        "the database's URL is malformed ({0}); write postgres://user:password@host:5432/database"
    )]
    Url(String),
    /// No program fits.
    #[error(
        "no {program} for Postgres {major} is installed{}: install the Debian package \
         postgresql-client-{major}, or name the programs' folder in {BIN_ENV}",
        there_is(found)
    )]
    Missing {
        /// `pg_dump`.
        program: &'static str,
        /// The server's version.
        major: u32,
        /// Versions that are there.
        found: Vec<u32>,
    },
    /// It can't be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It complained.
    #[error("{program} failed: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// Its last lines.
        said: String,
    },
}

fn there_is(versions: &[u32]) -> String {
    if versions.is_empty() {
        return String::new();
    }
    let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
    format!(" (there is one for {})", versions.join(", "))
}

/// How to reach a database: a URL that anyone may see, and a password that goes another way.
#[derive(Debug)]
pub struct Login {
    url: String,
    password: Option<Secret>,
}

type Secret = owm_service::secret::Secret<String>;

impl Login {
    /// Takes the password out of a URL.
    pub fn parse(url: &str) -> Result<Self, PostgresError> {
        let wrong = |why: &str| PostgresError::Url(why.to_owned());
        let mut url = Url::parse(url).map_err(|error| PostgresError::Url(error.to_string()))?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(wrong("it does not begin with postgres://"));
        }
        let decode = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(|text| Secret::new(text.into_owned()))
        };
        let mut password = url
            .password()
            .map(decode)
            .transpose()
            .map_err(|_| wrong("its password is no text"))?;
        if password.is_some() {
            url.set_password(None)
                .map_err(|()| wrong("it has a password and no host"))?;
        }
        let mut kept = Vec::new();
        for (name, value) in url.query_pairs() {
            if name == "password" {
                password = Some(Secret::new(value.into_owned()));
            } else if let Some((_, libpq)) = QUERY.iter().find(|(known, _)| *known == name) {
                kept.push((*libpq, Zeroizing::new(value.into_owned())));
            }
        }
        url.set_query(None);
        if !kept.is_empty() {
            // Not as a form: libpq takes no `+` for a blank.
            let pairs = kept.iter().map(|(name, value)| {
                let value = percent_encoding::utf8_percent_encode(
                    value,
                    percent_encoding::NON_ALPHANUMERIC,
                );
                format!("{name}={value}")
            });
            let query = pairs.collect::<Vec<_>>().join("&");
            url.set_query(Some(&query));
        }
        Ok(Self {
            url: url.into(),
            password,
        })
    }
}

/// `pg_dump` and `pg_restore` that fit a server.
#[derive(Debug)]
pub struct Programs {
    bin: PathBuf,
}

impl Programs {
    /// Of the server's major version, else the next newer; from `OWM_PG_BIN`, Debian's folders, the `PATH`.
    pub fn find(major: u32) -> Result<Self, PostgresError> {
        let debian = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
        let debian = debian.map(|entry| entry.path().join("bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = match env::var_os(BIN_ENV) {
            Some(bin) => vec![bin.into()],
            None => debian.chain(env::split_paths(&path)).collect(),
        };
        Self::among(&folders, major)
    }

    fn among(folders: &[PathBuf], major: u32) -> Result<Self, PostgresError> {
        let complete = |bin: &&PathBuf| bin.join("pg_restore").is_file();
        let mut found: Vec<(u32, &PathBuf)> = folders
            .iter()
            .filter(complete)
            .filter_map(|bin| Some((version(&bin.join("pg_dump"))?, bin)))
            .collect();
        // Stable: of the same version the first folder counts.
        found.sort_by_key(|(version, _)| *version);
        match found.iter().find(|(version, _)| *version >= major) {
            Some((_, bin)) => Ok(Self {
                bin: (*bin).clone(),
            }),
            None => Err(PostgresError::Missing {
                program: "pg_dump",
                major,
                found: found.into_iter().map(|(version, _)| version).collect(),
            }),
        }
    }

    /// Dumps the database as it is at this instant to the new file `to`.
    pub async fn dump(&self, login: &Login, to: &Path) -> Result<(), PostgresError> {
        let bar = Progress::spinner("dumping the database");
        let mut command = self.command("pg_dump", login);
        command
            .args(["--format=custom", "--no-owner", "--no-privileges"])
            .args(["--lock-wait-timeout=30s", "--file"])
            .arg(to);
        let done = run("pg_dump", command).await;
        bar.clear();
        done
    }

    /// Fills an empty database from a dump: all of it or nothing.
    pub async fn restore(&self, login: &Login, from: &Path) -> Result<(), PostgresError> {
        let bar = Progress::spinner("restoring the database");
        let mut command = self.command("pg_restore", login);
        command
            .args(["--single-transaction", "--exit-on-error"])
            .args(["--no-owner", "--no-privileges"])
            .arg(from);
        let done = run("pg_restore", command).await;
        bar.clear();
        done
    }

    fn command(&self, program: &str, login: &Login) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .args(["--no-password", "--dbname", &login.url])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(password) = &login.password {
            command.env("PGPASSWORD", password.expose());
        }
        command
    }
}

async fn run(program: &'static str, mut command: Command) -> Result<(), PostgresError> {
    let output = command
        .output()
        .await
        .map_err(|source| PostgresError::Start {
            program: command.as_std().get_program().into(),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.trim().lines().collect();
    let said = lines[lines.len().saturating_sub(LINES_MAX)..].join("; ");
    Err(PostgresError::Failed { program, said })
}

/// The major version that a program says it has.
fn version(program: &Path) -> Option<u32> {
    let output = std::process::Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = number.find(|c: char| !c.is_ascii_digit());
    number[..digits.unwrap_or(number.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn login(url: &str) -> (String, Option<String>) {
        let login = Login::parse(url).unwrap();
        (login.url, login.password.map(|p| p.expose().clone()))
    }

    #[test]
    fn the_password_goes_another_way_than_the_url() {
        let (url, password) = login("postgres://owm:p%40ss@db.example:5433/owm");
        assert_eq!(url, "postgres://owm@db.example:5433/owm");
        assert_eq!(password.as_deref(), Some("p@ss"));
        let (url, password) = login(
            "postgres:///owm?host=/run/postgresql&password=x&statement-cache-capacity=5&ssl-mode=require",
        );
        assert_eq!(
            url,
            "postgres:///owm?host=%2Frun%2Fpostgresql&sslmode=require"
        );
        assert_eq!(password.as_deref(), Some("x"));
        assert_eq!(
            login("postgres:///owm"),
            ("postgres:///owm".to_owned(), None)
        );
        assert!(Login::parse("mysql://x/y").is_err());
        assert!(Login::parse("owm").is_err());
    }

    /// A folder with programs that say they are of this version.
    fn installed(folder: &Path, major: u32) -> PathBuf {
        let bin = folder.join(major.to_string());
        fs::create_dir(&bin).unwrap();
        for program in ["pg_dump", "pg_restore"] {
            let path = bin.join(program);
            let script = format!("#!/bin/sh\necho '{program} (PostgreSQL) {major}.2 (Debian)'\n");
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        bin
    }

    #[test]
    fn programs_of_the_server_s_version_are_taken_or_the_next_newer() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [17, 15, 16].map(|major| installed(folder.path(), major));
        for (server, taken) in [(15, "15"), (16, "16"), (14, "15")] {
            let programs = Programs::among(&folders, server).unwrap();
            assert_eq!(programs.bin, folder.path().join(taken));
        }
        let error = Programs::among(&folders, 18).unwrap_err().to_string();
        assert!(error.contains("there is one for 15, 16, 17"), "{error}");
        assert!(error.contains("postgresql-client-18"), "{error}");
        let error = Programs::among(&[], 15).unwrap_err().to_string();
        assert!(
            error.contains("the Debian package postgresql-client-15"),
            "{error}"
        );
    }
}
