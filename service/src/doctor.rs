//! `doctor`: looks at everything an operator can get wrong, says what it found and what to do.
//!
//! The daemons' `doctor` commands call [`run`] with their checks. A check is a thin probe that gathers
//! facts and a pure judgement from facts to a [`Finding`]; what both daemons need is in the rooms below.
//! Must stay true: every check has a time limit and doctor never hangs; nothing is changed on the
//! machine (the one file written, to measure fsync, has no name); a problem comes with a fix line;
//! `--json` keeps its schema ([`SCHEMA`]).

pub mod backup;
pub mod clock;
pub mod config;
pub mod disk;
pub mod files;
pub mod hash;
pub mod ports;
mod render;

use std::{
    fmt, io,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use serde::Serialize;

use crate::{
    lifecycle::panic_text,
    run::{Exit, RunError},
};

/// The version of what `--json` prints: fields are added without a new number, never taken away.
pub const SCHEMA: u32 = 1;

/// Time for one check that neither reads large files nor waits for other machines.
pub const CHECK_TIME: Duration = Duration::from_secs(15);

/// How a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but somebody should look.
    Warning,
    /// Something does not work until this is put right.
    Problem,
}

impl Level {
    /// The word in the output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a stable dotted word, `address.tcp`.
    pub area: &'static str,
    /// How it weighs.
    pub level: Level,
    /// What was found, for people.
    pub what: String,
    /// What to do about it: a command, or the line to change.
    pub fix: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(area: &'static str, what: impl Into<String>) -> Self {
        Self {
            area,
            level: Level::Ok,
            what: what.into(),
            fix: None,
        }
    }

    /// Somebody should look.
    pub fn warning(area: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            area,
            level: Level::Warning,
            what: what.into(),
            fix: Some(fix.into()),
        }
    }

    /// Does not work until it is put right.
    pub fn problem(area: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            area,
            level: Level::Problem,
            what: what.into(),
            fix: Some(fix.into()),
        }
    }
}

/// The whole in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Healthy,
    /// It works; there are warnings.
    Warnings,
    /// At least one problem.
    Broken,
}

impl Verdict {
    /// The worst finding decides.
    pub fn of(findings: &[Finding]) -> Self {
        match findings.iter().map(|finding| finding.level).max() {
            None | Some(Level::Ok) => Self::Healthy,
            Some(Level::Warning) => Self::Warnings,
            Some(Level::Problem) => Self::Broken,
        }
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warnings => "works, with warnings",
            Self::Broken => "broken",
        }
    }

    /// 0 unless it is broken, then 1.
    pub const fn exit(self) -> Exit {
        match self {
            Self::Healthy | Self::Warnings => Exit::Ok,
            Self::Broken => Exit::Failed,
        }
    }
}

/// Whom doctor looks at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The program: `owm-node`.
    pub program: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its configuration, as named on the command line.
    pub config: String,
}

/// Everything found, as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The program.
    pub program: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its configuration file.
    pub config: &'a str,
    /// The whole in one word.
    pub verdict: Verdict,
    /// All findings, in the order of the checks.
    pub findings: &'a [Finding],
}

/// One check: work of at most so long.
pub struct Check<'a> {
    area: &'static str,
    limit: Duration,
    work: BoxFuture<'a, Vec<Finding>>,
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Check({})", self.area)
    }
}

impl<'a> Check<'a> {
    /// A check that waits without blocking.
    pub fn new(
        area: &'static str,
        limit: Duration,
        work: impl Future<Output = Vec<Finding>> + Send + 'a,
    ) -> Self {
        Self {
            area,
            limit,
            work: work.boxed(),
        }
    }

    /// A check that reads files, on a thread of its own.
    pub fn blocking(
        area: &'static str,
        limit: Duration,
        work: impl FnOnce() -> Vec<Finding> + Send + 'static,
    ) -> Self {
        Self::new(area, limit, async move {
            match tokio::task::spawn_blocking(work).await {
                Ok(findings) => findings,
                Err(error) => {
                    let said = error
                        .try_into_panic()
                        .map_or("was cancelled".to_owned(), |panic| {
                            panic_text(&*panic).to_owned()
                        });
                    vec![Finding::problem(
                        area,
                        format!("the check itself broke: {said}"),
                        "report this; the other findings hold",
                    )]
                }
            }
        })
    }
}

/// Runs checks at the same time; findings come in the order of the checks.
pub async fn together(checks: Vec<Check<'_>>) -> Vec<Finding> {
    let running = checks.into_iter().map(|check| async move {
        match tokio::time::timeout(check.limit, check.work).await {
            Ok(findings) => findings,
            Err(_) => vec![Finding::problem(
                check.area,
                format!(
                    "no answer within {} s: a disk, a driver or another program hangs",
                    check.limit.as_secs()
                ),
                "look at `dmesg` and `df`, then run doctor again",
            )],
        }
    });
    futures::future::join_all(running).await.concat()
}

/// Runs `examine`, prints what it found (text or JSON) and gives the exit code: 1 if it is broken.
pub fn run<F>(subject: &Subject, json: bool, examine: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = Vec<Finding>>,
{
    // Fails only when a provider is installed already, which is then the process's choice.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = format!("cannot start any check: {error}");
            let fix = "free processes and file descriptors, then run doctor again";
            return print(
                subject,
                json,
                &[Finding::problem("system", what, fix)],
                None,
            );
        }
    };
    let started = Instant::now();
    let findings = runtime.block_on(examine());
    // A check that hangs in the system must not keep doctor.
    runtime.shutdown_background();
    print(subject, json, &findings, Some(started.elapsed()))
}

fn print(subject: &Subject, json: bool, findings: &[Finding], took: Option<Duration>) -> ExitCode {
    use io::{IsTerminal as _, Write as _};
    let report = Report {
        schema: SCHEMA,
        program: subject.program,
        version: subject.version,
        config: &subject.config,
        verdict: Verdict::of(findings),
        findings,
    };
    let mut out = io::stdout().lock();
    let text = if json {
        let text = serde_json::to_string_pretty(&report);
        text.expect("findings are plain strings") + "\n"
    } else {
        let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        render::text(&report, took, colour)
    };
    // A closed pipe is nobody's loss.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    report.verdict.exit().into()
}

/// Adds to an error at a start how to find out more. `command` is the doctor's command line.
pub fn hint(error: &RunError, command: &str) -> RunError {
    let text = crate::report::Chain(&*error.source).to_string();
    RunError {
        code: error.code,
        source: format!("{text}; to see everything that is wrong, run: {command}").into(),
    }
}

/// A path as one can paste it into a shell.
pub fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@~%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
