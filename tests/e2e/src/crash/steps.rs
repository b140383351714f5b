//! The failpoints, as the programs themselves list them, and on which occasion each is reached. A new
//! failpoint is tried under load without a word here; only special occasions are named.

use std::{
    fmt,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use owm_devnet::{
    Devnet, paths,
    process::{self, POLL, Process, Spawn},
};

/// A command that is to die at a failpoint; importing the stand-in takes a second.
const COMMAND_LIMIT: Duration = Duration::from_mins(3);

/// The program a failpoint is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `owm-coordinator`.
    Coordinator,
    /// `owm-node`.
    Node,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "owm-coordinator",
            Self::Node => "owm-node",
        }
    }
}

/// One failpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    name: String,
    program: Program,
    armed: String,
}

/// How a failpoint is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// A daemon gets there by itself under load.
    Load,
    /// A command that does one thing and ends; run again, it must succeed.
    Command,
    /// A node's first start.
    NewNode,
}

impl Step {
    /// Which program.
    pub fn program(&self) -> Program {
        self.program
    }

    /// The variable that makes the process kill itself there.
    pub(super) fn armed(&self) -> (&str, &str) {
        ("OWM_FAILPOINT", &self.armed)
    }

    pub(super) fn occasion(&self) -> Occasion {
        if self.name.contains(".init.") || self.name.contains(".publish.") {
            Occasion::Command
        } else if self.name.contains(".download.") {
            Occasion::NewNode
        } else {
            Occasion::Load
        }
    }

    /// Whether the coordinator must have been away for longer than a restart takes.
    pub(super) fn wants_an_outage(&self) -> bool {
        self.name.contains(".outage.")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Every failpoint of both programs.
pub async fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for program in [Program::Coordinator, Program::Node] {
        let path = paths::program(program.name())?;
        let printed = process::output(program.name(), &path, &["failpoints"]).await?;
        let known = printed
            .lines()
            .map(str::trim)
            // Rounds are no load; `tests/rounds.rs` tries theirs.
            .filter(|line| !line.is_empty() && !line.contains(".round."));
        steps.extend(known.map(|name| Step {
            name: name.to_owned(),
            program,
            armed: format!("{name}=kill9@1"),
        }));
    }
    Ok(steps)
}

/// The process killed itself, and at this step: a daemon logs it, a command has no log.
pub(super) fn ensure_killed(step: &Step, status: ExitStatus, log: &str) -> Result<()> {
    let said = step.occasion() == Occasion::Command || log.contains(&step.name);
    ensure!(
        status.signal() == Some(9) && said,
        "the process ended otherwise ({status}):\n{log}"
    );
    Ok(())
}

async fn die(step: &Step, mut process: Process) -> Result<()> {
    let ended = tokio::time::timeout(COMMAND_LIMIT, process.died()).await;
    let status = process.exit_status()?;
    ended.context("it does not end")?;
    ensure_killed(step, status.context("it has ended")?, &process.log_tail())
}

/// Runs the command that gets there, armed, then again as its operator would.
pub(super) async fn kill_command(net: &mut Devnet, step: &Step) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let fresh = folder.path().join("fresh").to_string_lossy().into_owned();
    let config = net.coordinator().config().to_string_lossy().into_owned();
    let invite = net.invite().to_owned();
    let version = next_version(net).await?;
    let publishes = step.name.contains(".publish.");
    let args: Vec<&str> = match step.program {
        Program::Coordinator if publishes => {
            let split = ["--sub-models", "owm-code,owm-geo", "--default", "owm-geo"];
            let import = ["model", "import", "tiny", "--version", &version];
            [&import[..], &split, &["--config", &config]].concat()
        }
        Program::Coordinator => vec!["init", "--dir", &fresh, "--name", "again"],
        Program::Node => vec!["init", "--join", &invite, "--dir", &fresh],
    };
    let (name, path) = (step.program.name(), paths::program(step.program.name())?);
    let (variable, value) = step.armed();
    let armed = Spawn::new(name, &path, folder.path().join("log"))
        .args(&args)
        .env(variable, value)
        .start()?;
    die(step, armed).await?;
    process::output(name, &path, &args).await?;
    if publishes {
        let start = Instant::now();
        while newest_version(net).await? != version {
            let waited = start.elapsed() > COMMAND_LIMIT;
            ensure!(!waited, "{version} was published and is not served");
            tokio::time::sleep(POLL).await;
        }
        let left = leftovers(net.coordinator().dir())?;
        ensure!(left.is_empty(), "an import left {left:?}");
    }
    Ok(())
}

async fn newest_version(net: &Devnet) -> Result<String> {
    let models = net.api().get("/v1/models").await?.ok()?;
    let version = models
        .pointer("/data/0/owm/model_version")
        .and_then(|v| v.as_str());
    Ok(version
        .with_context(|| format!("no version in {models:#}"))?
        .to_owned())
}

/// `owm-v0.1.3` after `owm-v0.1.2`.
async fn next_version(net: &Devnet) -> Result<String> {
    let now = newest_version(net).await?;
    let (head, last) = now.rsplit_once('.').context("a version has dots")?;
    let last: u64 = last.parse().context("a version ends in a number")?;
    Ok(format!("{head}.{}", last + 1))
}

/// Folders that an import works in, still there.
fn leftovers(dir: &Path) -> Result<Vec<String>> {
    let names = std::fs::read_dir(dir)?.map(|entry| {
        let entry = entry?;
        Ok(entry
            .path()
            .is_dir()
            .then(|| entry.file_name().to_string_lossy().into_owned()))
    });
    let names: Vec<Option<String>> = names.collect::<Result<_>>()?;
    Ok(names
        .into_iter()
        .flatten()
        .filter(|name| name.starts_with(".import-"))
        .collect())
}

/// A node's first start dies there; started again it becomes ready.
pub(super) async fn kill_new_node(net: &mut Devnet, step: &Step) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("new");
    let (dir_text, invite) = (dir.to_string_lossy().into_owned(), net.invite().to_owned());
    let path = paths::program("owm-node")?;
    let args = ["init", "--join", &invite, "--dir", &dir_text];
    process::output("owm-node", &path, &args).await?;
    let (variable, value) = step.armed();
    let start = || {
        Spawn::new("a new node", &path, folder.path().join("log"))
            .arg("start")
            .arg("--config")
            .arg(dir.join("owm.toml"))
            // Any free port: nobody asks it.
            .env("OWM_HEALTH__LISTEN", "127.0.0.1:0")
    };
    die(step, start().env(variable, value).start()?).await?;
    let mut again = start().start()?;
    let control = ["status", "--json", "--config"];
    let config = dir.join("owm.toml").to_string_lossy().into_owned();
    again
        .wait_until("its model", COMMAND_LIMIT, async || {
            let asked = [&control[..], &[&config]].concat();
            let said = process::output("owm-node", &path, &asked).await;
            said.is_ok_and(|said| {
                let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
                said.pointer("/status/model/version").is_some()
            })
        })
        .await?;
    again.stop(COMMAND_LIMIT).await?;
    Ok(())
}
