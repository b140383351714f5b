//! One child process: started with a log file, watched, stopped, never left behind.
//!
//! Postgres, the coordinator and the nodes are all a [`Process`]. Must stay true: a child gets a
//! process group of its own (a terminal's Ctrl-C reaches us alone, we stop the rest in order), a
//! signal from the kernel should we be killed, and the end of its group when the value is dropped.
//!
//! The kernel's signal hangs on the *thread* that spawned the child, so spawn from the main thread or
//! a runtime's worker, never from `spawn_blocking`.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    future::Future,
    io::{Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Gid, Pid, Uid},
};
use tokio::process::{Child, Command};

/// How often a condition is looked at again.
pub const POLL: Duration = Duration::from_millis(40);
/// Lines of a dead child's log shown in the error.
const TAIL_LINES: usize = 20;
/// Bytes read from the log's end to find them.
const TAIL_BYTES: u64 = 16 * 1024;
/// A log that was longer than this at start is set aside as `.1`.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long a drop waits for the child's own clean-up before it kills it.
const DROP_WAIT: Duration = Duration::from_secs(3);
/// Kills the child when the spawning thread dies, whatever the cause; part of util-linux.
const SETPRIV: &str = "/usr/bin/setpriv";

/// The unprivileged account that a child runs under when we are root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Spawn {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    log: PathBuf,
    run_as: Option<RunAs>,
    stop_signal: Signal,
    drop_signal: Signal,
}

impl Spawn {
    /// `program`, called `name` in messages, its output appended to `log`.
    pub fn new(
        name: impl Into<String>,
        program: impl Into<PathBuf>,
        log: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            log: log.into(),
            run_as: None,
            stop_signal: Signal::SIGTERM,
            drop_signal: Signal::SIGKILL,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the child's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets several.
    #[must_use]
    pub fn envs(mut self, variables: &[(String, String)]) -> Self {
        for (name, value) in variables {
            self = self.env(name, value);
        }
        self
    }

    /// What an OWM program logs, if given.
    #[must_use]
    pub fn logging(self, filter: Option<&str>) -> Self {
        match filter {
            Some(filter) => self.env("OWM_LOG", filter),
            None => self,
        }
    }

    /// The account to run under.
    #[must_use]
    pub fn run_as(mut self, account: Option<RunAs>) -> Self {
        self.run_as = account;
        self
    }

    /// The signals for an orderly stop and for a drop.
    #[must_use]
    pub fn signals(mut self, stop: Signal, drop: Signal) -> Self {
        self.stop_signal = stop;
        self.drop_signal = drop;
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Process> {
        let (log, log_start) = open_log(&self.log)?;
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(false);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))?;
        let pid = child
            .id()
            .context("a child that was just started has a process id")?;
        Ok(Process {
            name: self.name,
            pid: Pid::from_raw(pid.try_into().context("process ids fit 31 bits")?),
            child,
            log: self.log,
            log_start,
            stop_signal: self.stop_signal,
            drop_signal: self.drop_signal,
            ended: None,
        })
    }

    /// Through setpriv where it exists: it changes the account, asks the kernel for the signal at our
    /// death, and becomes the program (the process id stays).
    fn command(&self) -> Command {
        let mut command;
        if Path::new(SETPRIV).exists() {
            command = Command::new(SETPRIV);
            // "SIGINT" is called "INT" there.
            let signal = self.stop_signal.as_str().trim_start_matches("SIG");
            command.args(["--pdeathsig", signal]);
            if let Some(RunAs { uid, gid }) = self.run_as {
                command
                    .arg(format!("--reuid={uid}"))
                    .arg(format!("--regid={gid}"));
                command.arg("--clear-groups");
            }
            command.arg("--").arg(&self.program);
        } else {
            command = Command::new(&self.program);
            if let Some(RunAs { uid, gid }) = self.run_as {
                command.uid(uid.as_raw()).gid(gid.as_raw());
            }
        }
        command
            .args(&self.args)
            .envs(self.envs.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Owned copies of names and values.
pub(crate) fn variables(given: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    given.iter().map(owned).collect()
}

/// Opens a log for appending; the second is where this run's part begins.
fn open_log(path: &Path) -> Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the log folder {}", folder.display()))?;
    }
    if fs::metadata(path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        fs::rename(path, aside)
            .with_context(|| format!("cannot set the log {} aside", path.display()))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the log {}", path.display()))?;
    let start = file.metadata().map_or(0, |found| found.len());
    Ok((file, start))
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Child,
    log: PathBuf,
    log_start: u64,
    stop_signal: Signal,
    drop_signal: Signal,
    ended: Option<ExitStatus>,
}

impl Process {
    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .with_context(|| format!("cannot ask the system about {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Fails, with the end of its log, if it is no longer running.
    pub fn check_running(&mut self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => bail!(self.obituary(status)),
        }
    }

    /// Resolves when the child ends, with the error that tells how.
    pub async fn died(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => {
                self.ended = Some(status);
                anyhow::anyhow!(self.obituary(status))
            }
            Err(error) => {
                anyhow::Error::new(error).context(format!("cannot wait for {}", self.name))
            }
        }
    }

    fn obituary(&self, status: ExitStatus) -> String {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        let tail = self.log_tail();
        format!(
            "{} {how}; the end of its log {}:\n{tail}",
            self.name,
            self.log.display()
        )
    }

    /// The last lines that this run wrote.
    pub fn log_tail(&self) -> String {
        tail(&self.log, self.log_start)
    }

    /// Asks `probe` until it says yes. Fails when the child ends first or time runs out; `what`
    /// completes "waited for …".
    pub async fn wait_until<F, Fut>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: F,
    ) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = bool>,
    {
        let start = Instant::now();
        loop {
            self.check_running()?;
            if probe().await {
                return Ok(());
            }
            if start.elapsed() > limit {
                bail!(
                    "waited {} s for {what} of {}; the end of its log {}:\n{}",
                    limit.as_secs(),
                    self.name,
                    self.log.display(),
                    self.log_tail()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a signal to the child's process group; a child that is gone is fine.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = killpg(self.pid, signal);
        }
    }

    /// Ends it in order: the stop signal, `grace`, then a kill.
    pub async fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        self.signal(self.stop_signal);
        let waited = tokio::time::timeout(grace, self.child.wait()).await;
        let status = if let Ok(status) = waited {
            status
        } else {
            self.signal(Signal::SIGKILL);
            self.child.wait().await
        }
        .with_context(|| format!("cannot wait for {}", self.name))?;
        // Grandchildren, if the child left any.
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.ended = Some(status);
        Ok(status)
    }

    /// Kills it at once, as a crash would.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL);
        let status = self
            .child
            .wait()
            .await
            .with_context(|| format!("cannot wait for {}", self.name))?;
        self.ended = Some(status);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.exit_status(), Ok(None)) {
            return;
        }
        self.signal(self.drop_signal);
        let start = Instant::now();
        while matches!(self.exit_status(), Ok(None)) {
            if start.elapsed() > DROP_WAIT {
                self.signal(Signal::SIGKILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = killpg(self.pid, Signal::SIGKILL);
    }
}

/// Runs a command to its end; its standard output, or an error with what it said.
pub async fn output(name: &str, program: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot start {name} ({})", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.trim().lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ");
        // Arguments may hold an invite; the subcommand tells enough.
        let subcommand = args.first().copied().unwrap_or_default();
        bail!(
            "`{name} {subcommand}` failed ({}):\n    {tail}",
            output.status
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} printed no Unicode"))
}

/// The last lines of the log at `path` from byte `start` on, indented; what is wrong with it if it
/// can't be read.
pub(crate) fn tail(path: &Path, start: u64) -> String {
    let text = read_tail(path, start).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .flat_map(|line| ["    ", line, "\n"])
        .collect()
}

/// The text from `start` on, at most its last [`TAIL_BYTES`].
fn read_tail(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(
        start.max(length.saturating_sub(TAIL_BYTES)).min(length),
    ))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
