//! A private Postgres: its own cluster, loopback only, a password of its own, an unprivileged account.
//!
//! The devnet's database and the throw-away one of `pg-run` (tests, `.sqlx`). Must stay true: no other
//! cluster of the machine is touched; what a killed predecessor left is cleared before a start; a
//! folder without a finished `initdb` is never taken for a cluster.

mod install;
mod leftover;

use std::{
    fs,
    io::Read,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::process::Command;

pub use self::install::Install;
use crate::{
    ports::Port,
    process::{Process, RunAs, Spawn},
};

/// The superuser and the database made for OWM.
const USER: &str = "owm";
/// Connections it takes: tests open a pool of ten or so each, two or three at a time.
const CONNECTIONS_MAX: u32 = 200;
/// Crash recovery of a large database takes a while.
const READY_LIMIT: Duration = Duration::from_mins(3);
/// A fast shutdown writes a checkpoint.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// How a cluster is kept.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Where the cluster lives; made if it does not exist. Moved aside when the unprivileged account
    /// can't get there, see [`Postgres::dir`].
    pub dir: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
    /// The port, or any free one.
    pub port: Option<u16>,
    /// Whether commits survive a power cut (`fsync`). Tests do without.
    pub durable: bool,
}

/// A running private cluster with an empty or kept database `owm`.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    install: Install,
    server: Spawn,
    dir: PathBuf,
    url: String,
    port: Port,
    // Dropped after the process.
    _throwaway: Option<TempDir>,
}

impl Postgres {
    /// Starts the cluster, making it first if need be.
    pub async fn start(options: &PostgresOptions) -> Result<Self> {
        let install = Install::find()?;
        let account = install::account()?;
        let home = reachable_home(&options.dir, account)?;
        Self::start_at(&install, account, home, options, None).await
    }

    /// Starts a fresh cluster that vanishes with the value.
    pub async fn throwaway() -> Result<Self> {
        let install = Install::find()?;
        let account = install::account()?;
        let folder = tempfile::Builder::new()
            .prefix("owm-pg-")
            .tempdir()
            .context("cannot make a temporary folder for Postgres")?;
        let options = PostgresOptions {
            dir: folder.path().join("cluster"),
            log: folder.path().join("postgres.log"),
            port: None,
            durable: false,
        };
        // The temporary folder is ours alone; the account has to pass through.
        give_to(folder.path(), account)?;
        let home = reachable_home(&options.dir, account)?;
        Self::start_at(&install, account, home, &options, Some(folder)).await
    }

    async fn start_at(
        install: &Install,
        account: Option<RunAs>,
        dir: PathBuf,
        options: &PostgresOptions,
        throwaway: Option<TempDir>,
    ) -> Result<Self> {
        let data = dir.join("data");
        make_cluster(install, account, &dir, &options.log).await?;
        leftover::clear(&data).await?;
        let port = Port::take(options.port)?;
        let mut spawn = Spawn::new("Postgres", install.program("postgres"), &options.log)
            .args(["-D".as_ref(), data.as_os_str()])
            .args(["-p", &port.number().to_string()])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .args(["-c", &format!("max_connections={CONNECTIONS_MAX}")])
            .args(["-c", "log_min_messages=warning", "-c", "timezone=UTC"])
            .run_as(account)
            // Fast shutdown for a stop; immediate shutdown when there is no time.
            .signals(Signal::SIGINT, Signal::SIGQUIT);
        if !options.durable {
            for setting in [
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
            ] {
                spawn = spawn.args(["-c", setting]);
            }
        }
        let password = read_password(&dir)?;
        let url = format!(
            "postgres://{USER}:{password}@127.0.0.1:{}/{USER}",
            port.number()
        );
        let process = spawn.clone().start()?;
        let mut postgres = Self {
            process,
            install: install.clone(),
            server: spawn,
            dir,
            url,
            port,
            _throwaway: throwaway,
        };
        postgres.wait_ready(install).await?;
        postgres.create_database(install, &password).await?;
        Ok(postgres)
    }

    /// Ends the server and keeps everything else: [`Self::start_again`] goes on with it.
    pub async fn stop_server(&mut self) -> Result<()> {
        self.process.stop(STOP_GRACE).await?;
        Ok(())
    }

    /// Ends it as a crash would: what was not on the disk is lost.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await?;
        // Its children have process groups of their own, and a crash spares none of them.
        leftover::end_orphans(&self.dir.join("data")).await
    }

    /// Starts the server on the same port after [`Self::stop_server`] or [`Self::kill`], and waits until
    /// it answers.
    pub async fn start_again(&mut self) -> Result<()> {
        leftover::clear(&self.dir.join("data")).await?;
        self.process = self.server.clone().start()?;
        let install = self.install.clone();
        self.wait_ready(&install).await
    }

    /// Stops all its processes where they stand (`SIGSTOP`): connections stay open, nothing answers.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal_all(Signal::SIGSTOP)
    }

    /// Lets them go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    /// To the server and its children, each of which has a process group of its own.
    fn signal_all(&mut self, signal: Signal) -> Result<()> {
        let server = self.process.pid();
        kill(Pid::from_raw(server), signal).context("cannot signal Postgres")?;
        let list = format!("/proc/{server}/task/{server}/children");
        let children = fs::read_to_string(&list).with_context(|| format!("cannot read {list}"))?;
        for child in children.split_whitespace() {
            let pid = child.parse().context("a process id is a number")?;
            // One that has ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        Ok(())
    }

    /// What `psql` prints for `sql`, unaligned, without headers.
    pub async fn query(&self, sql: &str) -> Result<String> {
        self.client("psql", &["-X", "-A", "-t", "-q", "-c", sql])
            .await
    }

    /// All rows of all tables as SQL; binary columns as hexadecimal digits.
    pub async fn dump(&self) -> Result<String> {
        self.client("pg_dump", &["--data-only", "--inserts"]).await
    }

    async fn client(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = Command::new(self.install.program(program))
            .args(args)
            .args(["-d", &self.url])
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("cannot start {program}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{program} failed: {}", said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// `postgres://…` with the password in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where the cluster really lives.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops it: connections are cut, everything committed is on disk.
    pub async fn stop(mut self) -> Result<()> {
        self.process.stop(STOP_GRACE).await?;
        Ok(())
    }

    async fn wait_ready(&mut self, install: &Install) -> Result<()> {
        let program = install.program("pg_isready");
        let port = self.port.number().to_string();
        self.process
            .wait_until("the first connection", READY_LIMIT, async || {
                let asked = Command::new(&program)
                    .args(["-q", "-h", "127.0.0.1", "-p", &port])
                    .stdin(Stdio::null())
                    .status()
                    .await;
                asked.is_ok_and(|status| status.success())
            })
            .await
    }

    /// `CREATE DATABASE owm`, once.
    async fn create_database(&self, install: &Install, password: &str) -> Result<()> {
        let psql = async |sql: &str| -> Result<String> {
            let port = self.port.number().to_string();
            let output = Command::new(install.program("psql"))
                .args([
                    "-X",
                    "-q",
                    "-A",
                    "-t",
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &port,
                    "-U",
                    USER,
                ])
                .args(["-d", "postgres", "-c", sql])
                .env("PGPASSWORD", password)
                .stdin(Stdio::null())
                .output()
                .await
                .context("cannot start psql")?;
            if !output.status.success() {
                bail!(
                    "psql failed: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        if psql("select 1 from pg_database where datname = 'owm'").await? != "1" {
            psql("create database owm").await?;
        }
        Ok(())
    }
}

/// `dir`, or a folder under `/var/lib` when `account` cannot pass through to `dir` (a data directory
/// below `/root`); made and given to the account.
fn reachable_home(dir: &Path, account: Option<RunAs>) -> Result<PathBuf> {
    let dir = std::path::absolute(dir).context("cannot make the data folder's path absolute")?;
    let home = match account {
        Some(account) if !install::can_pass(&dir, account) => substitute(&dir),
        _ => dir,
    };
    if let Some(parent) = home.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    if !home.exists() {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&home)
            .with_context(|| format!("cannot make the cluster's folder {}", home.display()))?;
    }
    give_to(&home, account)?;
    Ok(home)
}

/// Where the cluster of `dir` lives when it cannot live there: one folder for each `dir`.
pub fn substitute(dir: &Path) -> PathBuf {
    // FNV-1a: a name, not a secret.
    let hash = dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    PathBuf::from(format!("/var/lib/owm-devnet-{hash:016x}"))
}

/// Deletes the cluster of `dir`, wherever it lives. It must not be running.
pub fn delete_cluster(dir: &Path) -> Result<()> {
    let dir = std::path::absolute(dir).context("cannot make the data folder's path absolute")?;
    for folder in [substitute(&dir), dir] {
        match fs::remove_dir_all(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot delete {}", folder.display()));
            }
        }
    }
    Ok(())
}

fn give_to(path: &Path, account: Option<RunAs>) -> Result<()> {
    let Some(RunAs { uid, gid }) = account else {
        return Ok(());
    };
    nix::unistd::chown(path, Some(uid), Some(gid))
        .with_context(|| format!("cannot give {} to user {uid}", path.display()))
}

/// Makes password and cluster if they are missing. The cluster is made beside its final place and
/// renamed, so that an interrupted `initdb` leaves nothing that looks like one.
async fn make_cluster(
    install: &Install,
    account: Option<RunAs>,
    dir: &Path,
    log: &Path,
) -> Result<()> {
    let data = dir.join("data");
    if let Ok(found) = fs::read_to_string(data.join("PG_VERSION")) {
        let (found, ours) = (found.trim(), install.major().to_string());
        if found != ours {
            bail!(
                "the cluster in {} was made by Postgres {found}, this machine has {ours}: \
                 `make reset` starts afresh, or install Postgres {found}",
                data.display()
            );
        }
        return Ok(());
    }
    write_password(dir, account)?;
    let unfinished = dir.join("data.unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).context("cannot delete an unfinished cluster")?;
    }
    let mut initdb = Spawn::new("initdb", install.program("initdb"), log)
        .args(["-D".as_ref(), unfinished.as_os_str()])
        .args([
            "-U",
            USER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ])
        .args(["--no-sync", "--no-instructions"])
        .arg(format!("--pwfile={}", dir.join("password").display()))
        .run_as(account)
        .start()?;
    let ended = initdb.died().await;
    if !matches!(initdb.exit_status()?, Some(status) if status.success()) {
        return Err(ended.context("cannot make a Postgres cluster"));
    }
    fs::rename(&unfinished, &data).context("cannot put the new cluster in place")
}

fn write_password(dir: &Path, account: Option<RunAs>) -> Result<()> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("the system gives no randomness")?;
    let password = format!("{:032x}", u128::from_be_bytes(bytes));
    let path = dir.join("password");
    if path.exists() {
        fs::remove_file(&path).context("cannot replace the database password")?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    std::io::Write::write_all(&mut file, password.as_bytes())
        .context("cannot write the password")?;
    give_to(&path, account)
}

fn read_password(dir: &Path) -> Result<String> {
    let path = dir.join("password");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read the database password {}: `make reset` starts afresh",
            path.display()
        )
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
