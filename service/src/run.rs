//! One way to start and end a process: `main` parses its command line and calls [`run`].
//!
//! Must stay true: every path ends here, with logs flushed and an [`Exit`] code; nothing calls
//! `process::exit`.

use std::{fmt, future::Future, panic::AssertUnwindSafe, process::ExitCode, time::Duration};

use futures::FutureExt;
use tracing::Instrument;

use crate::{
    clock::{SharedClock, SystemClock},
    failpoint,
    health::{HealthServer, Readiness},
    lifecycle::{Lifecycle, panic_text},
    metrics::{Family, Gauge, Registry},
    report::Chain,
    rng::Seed,
    supervisor,
    telemetry::{self, TelemetryError, TelemetryOptions},
};

/// Time for blocking work that is still running when everything else has ended.
const RUNTIME_WAIT: Duration = Duration::from_secs(5);

/// How a process ended, as its supervisor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or stopped as asked.
    Ok,
    /// 1: something failed; starting again may help.
    Failed,
    /// 2: the command line or configuration is wrong.
    Usage,
    /// 78: starting again cannot help (a fenced duplicate); units list it in
    /// `RestartPreventExitStatus=`.
    DoNotRestart,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::DoNotRestart => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a program ends with another code than 0. Any error turns into one with `?` ([`Exit::Failed`]).
/// Not an `Error` itself, as it is the end of the line.
pub struct RunError {
    /// The exit code.
    pub code: Exit,
    /// What happened.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl RunError {
    /// Something failed. Takes any error, `anyhow::Error` and strings included.
    pub fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            code: Exit::Failed,
            source: source.into(),
        }
    }

    /// The command line or configuration is wrong.
    pub fn usage(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            code: Exit::Usage,
            source: source.into(),
        }
    }

    /// Starting again cannot help.
    pub fn do_not_restart(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            code: Exit::DoNotRestart,
            source: source.into(),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for RunError {
    fn from(source: E) -> Self {
        Self::failed(source)
    }
}

impl fmt::Debug for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, Chain(&*self.source))
    }
}

/// What `main` knows about its program.
#[derive(Debug, Clone)]
pub struct Program {
    /// The binary's name: `owm-coordinator`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its logs.
    pub telemetry: TelemetryOptions,
}

/// What every program is given. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The time.
    pub clock: SharedClock,
    /// The root of this process's randomness.
    pub seed: Seed,
    /// Shutdown and tracked tasks.
    pub lifecycle: Lifecycle,
    /// Where metrics are registered.
    pub metrics: Registry,
    /// Changes the log filter.
    pub telemetry: telemetry::Handle,
}

impl Context {
    /// This process's health port, to be bound.
    pub fn health(&self, readiness: Readiness) -> HealthServer {
        HealthServer::new(self.metrics.clone(), readiness, self.lifecycle.soft())
    }
}

/// Runs a program to its end: logs, failpoints, TLS provider, runtime, signals, `f`, orderly
/// shutdown, exit code.
///
/// `f` should return soon after the lifecycle's soft token; it is dropped when the grace period is
/// over or at the hard token. The code is that of `f`'s error, else [`Exit::Failed`] if a tracked
/// task failed, else 0.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a program is written where it is run"
)]
pub fn run<F, Fut>(program: Program, f: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Result<(), RunError>>,
{
    let exit = match run_inner(&program, f) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            report_end(&program, &error);
            error.code
        }
    };
    telemetry::flush();
    exit.into()
}

fn run_inner<F, Fut>(program: &Program, f: F) -> Result<(), RunError>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Result<(), RunError>>,
{
    let telemetry = match telemetry::init(&program.telemetry) {
        Ok(handle) => handle,
        // A second `run` in one process (tests) keeps the first one's logs.
        Err(TelemetryError::AlreadySet) => telemetry::Handle::detached(),
        Err(error) => return Err(RunError::usage(error)),
    };
    failpoint::init_from_env().map_err(RunError::usage)?;
    // Fails only when a provider is installed already, which is then the process's choice.
    drop(rustls::crypto::ring::default_provider().install_default());
    let context = Context {
        clock: SystemClock::shared(),
        seed: Seed::from_os(),
        lifecycle: Lifecycle::default(),
        metrics: Registry::new(),
        telemetry,
    };
    register_build_info(program, &context.metrics);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(program.name)
        .build()
        .map_err(RunError::failed)?;
    let span = tracing::info_span!("run", program = program.name);
    let outcome = runtime.block_on(drive(context, f).instrument(span));
    runtime.shutdown_timeout(RUNTIME_WAIT);
    outcome
}

async fn drive<F, Fut>(context: Context, f: F) -> Result<(), RunError>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Result<(), RunError>>,
{
    let lifecycle = context.lifecycle.clone();
    lifecycle.watch_signals()?;
    let stop_told = supervisor::watch(&lifecycle);
    for name in failpoint::unknown() {
        tracing::warn!(
            failpoint = name,
            "configured, but no registered failpoint has this name"
        );
    }
    let main = AssertUnwindSafe(async { f(context).await }).catch_unwind();
    let outcome = tokio::select! {
        outcome = main => match outcome {
            Ok(outcome) => outcome,
            Err(panic) => Err(RunError::failed(format!("panicked: {}", panic_text(&*panic)))),
        },
        () = grace_over(&lifecycle) => {
            Err(RunError::failed(
                "the program was stopped before it had ended: a second signal came, or the grace period was over",
            ))
        }
    };
    let drained = lifecycle.finish().await;
    if let Some(stop_told) = stop_told {
        // It panics never; the runtime that ends next would drop it.
        drop(stop_told.await);
    }
    outcome?;
    if let Some(failure) = lifecycle.failures().first() {
        let text = format!("task `{}` failed: {}", failure.task, failure.reason);
        return Err(RunError::failed(text));
    }
    if !drained {
        return Err(RunError::failed("some tasks did not end"));
    }
    Ok(())
}

/// Resolves when the main future may be kept no longer.
async fn grace_over(lifecycle: &Lifecycle) {
    lifecycle.shutdown_requested().await;
    let hard = lifecycle.hard();
    drop(tokio::time::timeout(lifecycle.grace(), hard.cancelled()).await);
}

fn register_build_info(program: &Program, metrics: &Registry) {
    let info = Family::<Vec<(String, String)>, Gauge>::default();
    let labels = [("program", program.name), ("version", program.version)];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    info.get_or_create(&labels.to_vec()).set(1);
    metrics
        .scope("service")
        .register("build_info", "The program and its version", &info);
}

#[expect(
    clippy::print_stderr,
    reason = "without a log filter that parses there are no logs"
)]
fn report_end(program: &Program, error: &RunError) {
    let chain = Chain(&*error.source);
    if error.code == Exit::Usage || !tracing::event_enabled!(tracing::Level::ERROR) {
        eprintln!("{}: {chain}", program.name);
    } else {
        tracing::error!(exit.code = error.code.code(), error = %chain, "{} failed", program.name);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        io::{self, BufRead, BufReader, Write},
        process::{Command, Stdio},
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::*;
    use crate::lifecycle::TaskError;

    async fn panics<E>() -> Result<(), E> {
        tokio::task::yield_now().await;
        panic!("on purpose")
    }

    fn code_of<Fut: Future<Output = Result<(), RunError>>>(f: impl FnOnce(Context) -> Fut) -> Exit {
        let program = Program {
            name: "owm-test",
            version: "0",
            telemetry: TelemetryOptions::default(),
        };
        match run_inner(&program, f) {
            Ok(()) => Exit::Ok,
            Err(error) => error.code,
        }
    }

    #[test]
    fn the_exit_code_tells_how_it_ended() {
        assert_eq!(code_of(async |_| Ok(())), Exit::Ok);
        assert_eq!(
            code_of(async |_| Err(io::Error::other("x").into())),
            Exit::Failed
        );
        assert_eq!(code_of(async |_| Err(RunError::usage("x"))), Exit::Usage);
        assert_eq!(
            code_of(async |_| Err(RunError::do_not_restart("fenced"))),
            Exit::DoNotRestart
        );
        assert_eq!(Exit::DoNotRestart.code(), 78);
    }

    #[test]
    fn a_panicking_task_ends_the_process_with_a_failure() {
        let code = code_of(async |context| {
            context.lifecycle.spawn("doomed", panics::<TaskError>());
            context.lifecycle.shutdown_requested().await;
            Ok(())
        });
        assert_eq!(code, Exit::Failed);
    }

    #[test]
    fn a_panicking_main_is_a_failure() {
        assert_eq!(code_of(|_| panics::<RunError>()), Exit::Failed);
    }

    #[test]
    fn a_main_that_does_not_end_is_dropped_after_the_grace_period() {
        let code = code_of(async |context| {
            context.lifecycle.set_grace(Duration::from_millis(10));
            context.lifecycle.shutdown();
            pending().await
        });
        assert_eq!(code, Exit::Failed);
    }

    /// Not tests of their own: what the tests below run in a child process.
    #[test]
    #[ignore = "run in a child process by the tests of this file"]
    fn child_that_stops_when_asked() {
        let code = code_of(async |context| {
            say("up");
            context.lifecycle.shutdown_requested().await;
            Ok(())
        });
        assert_eq!(code, Exit::Ok);
    }

    #[test]
    #[ignore = "run in a child process by the tests of this file"]
    fn child_that_does_not_stop() {
        let code = code_of(async |context| {
            say("up");
            context.lifecycle.shutdown_requested().await;
            say("soft");
            pending().await
        });
        assert_eq!(code, Exit::Failed);
    }

    /// Writes a line past the test harness, which would hold it back.
    fn say(word: &str) {
        writeln!(io::stdout(), "{word}").unwrap();
        io::stdout().flush().unwrap();
    }

    /// Starts a child test, sends SIGTERM after each of `words`, and returns whether it passed.
    fn terminate_after(test: &str, words: &[&str]) -> bool {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                &format!("run::tests::{test}"),
                "--ignored",
                "--nocapture",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for word in words {
            // The harness may have begun the line.
            lines
                .find(|line| line.as_ref().unwrap().ends_with(word))
                .unwrap()
                .unwrap();
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        }
        lines.for_each(drop);
        child.wait().unwrap().success()
    }

    #[test]
    fn the_first_signal_stops_softly() {
        assert!(terminate_after("child_that_stops_when_asked", &["up"]));
    }

    #[test]
    fn the_second_signal_stops_at_once() {
        assert!(terminate_after("child_that_does_not_stop", &["up", "soft"]));
    }
}
