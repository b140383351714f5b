//! Named places where a test makes a process die, fail or wait.
//!
//! Code calls [`hit`], [`hit_async`], [`check`] or [`check_async`] at every place where a crash would
//! be interesting; the variable [`FAILPOINT_ENV`] says which of them do something:
//!
//! ```text
//! OWM_FAILPOINT="coordinator.result.before_commit=kill9@3;node.work.after_lease=delay:200ms"
//! ```
//!
//! Actions: `kill9` (SIGKILL to the own process), `panic`, `err` (an [`Injected`] error where the
//! place can return one), `delay:<n>ms|s`, `off`. `@n` acts on the n-th hit only (from 1); without it
//! every hit acts. Every hit of a configured name is logged. Must stay true: an unconfigured process
//! pays one relaxed atomic load per hit.

mod plan;

use std::sync::{
    OnceLock, PoisonError, RwLock,
    atomic::{AtomicU8, Ordering},
};

pub use plan::{Action, Plan, PlanError};

/// The variable that configures failpoints.
pub const FAILPOINT_ENV: &str = "OWM_FAILPOINT";

const UNREAD: u8 = 0;
const NOTHING: u8 = 1;
const ARMED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNREAD);
static PLAN: OnceLock<Plan> = OnceLock::new();
static KNOWN: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

/// The error that `err` injects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failpoint `{name}` injected this error ({FAILPOINT_ENV} asks for it)")]
pub struct Injected {
    /// The failpoint's name.
    pub name: String,
}

/// Declares a crate's failpoints: one constant per name, and `FAILPOINTS`, the list of all (with the
/// visibility of the first), for [`register`] and for harnesses that try each.
///
/// ```
/// owm_service::failpoints! {
///     /// The result is checked, nothing is written yet.
///     pub const RESULT_BEFORE_COMMIT = "doc.result.before_commit";
/// }
/// owm_service::failpoint::register(FAILPOINTS);
/// assert!(owm_service::failpoint::known().contains(&RESULT_BEFORE_COMMIT));
/// ```
#[macro_export]
macro_rules! failpoints {
    (
        $(#[$meta:meta])* $vis:vis const $name:ident = $value:literal;
        $($(#[$metas:meta])* $viss:vis const $names:ident = $values:literal;)*
    ) => {
        $(#[$meta])* $vis const $name: &str = $value;
        $($(#[$metas])* $viss const $names: &str = $values;)*
        /// Every failpoint of this crate.
        $vis const FAILPOINTS: &[&str] = &[$value $(, $values)*];
    };
}

/// Makes a crate's failpoints [`known`]. A daemon's `main` calls it once per crate before `run`.
pub fn register(names: &[&'static str]) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    known.extend(names);
    known.sort_unstable();
    known.dedup();
}

/// Every registered failpoint, sorted.
pub fn known() -> Vec<&'static str> {
    KNOWN.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Configured names that nobody registered: most likely a typing mistake.
pub fn unknown() -> Vec<String> {
    let known = known();
    let plan = PLAN.get().map(Plan::names).unwrap_or_default();
    plan.into_iter()
        .filter(|name| !known.contains(&name.as_str()))
        .collect()
}

/// Reads [`FAILPOINT_ENV`]; `run` calls it first, so that a mistake in it is a usage error. Without
/// this call the first hit reads it.
pub fn init_from_env() -> Result<(), PlanError> {
    let spec = std::env::var(FAILPOINT_ENV).unwrap_or_default();
    let plan = Plan::parse(&spec)?;
    let state = if plan.is_empty() { NOTHING } else { ARMED };
    PLAN.get_or_init(|| plan);
    STATE.store(state, Ordering::Release);
    Ok(())
}

/// A place that cannot fail: dies, panics or waits (blocking the thread) if configured. `err` only
/// logs here.
pub fn hit(name: &str) {
    if idle() {
        return;
    }
    match act(name) {
        Some(Action::Delay(wait)) => std::thread::sleep(wait),
        Some(Action::Err) => warn_cannot_fail(name),
        _ => {}
    }
}

/// As [`hit`], waiting without blocking the thread.
pub async fn hit_async(name: &str) {
    if idle() {
        return;
    }
    match act(name) {
        Some(Action::Delay(wait)) => tokio::time::sleep(wait).await,
        Some(Action::Err) => warn_cannot_fail(name),
        _ => {}
    }
}

/// A place that can fail: as [`hit`], and `err` returns [`Injected`].
pub fn check(name: &str) -> Result<(), Injected> {
    if idle() {
        return Ok(());
    }
    match act(name) {
        Some(Action::Delay(wait)) => std::thread::sleep(wait),
        Some(Action::Err) => {
            return Err(Injected {
                name: name.to_owned(),
            });
        }
        _ => {}
    }
    Ok(())
}

/// As [`check`], waiting without blocking the thread.
pub async fn check_async(name: &str) -> Result<(), Injected> {
    if idle() {
        return Ok(());
    }
    match act(name) {
        Some(Action::Delay(wait)) => tokio::time::sleep(wait).await,
        Some(Action::Err) => {
            return Err(Injected {
                name: name.to_owned(),
            });
        }
        _ => {}
    }
    Ok(())
}

fn idle() -> bool {
    match STATE.load(Ordering::Relaxed) {
        NOTHING => true,
        ARMED => false,
        _ => {
            if let Err(error) = init_from_env() {
                tracing::error!(%error, "failpoints are ignored");
                STATE.store(NOTHING, Ordering::Release);
            }
            STATE.load(Ordering::Acquire) == NOTHING
        }
    }
}

/// Counts and logs the hit; does not return from `kill9` and `panic`.
fn act(name: &str) -> Option<Action> {
    let hit = PLAN.get()?.decide(name)?;
    tracing::warn!(failpoint = name, hit = hit.count, action = ?hit.action, "failpoint hit");
    match hit.action? {
        Action::Kill9 => kill_self(),
        Action::Panic => panic!("failpoint `{name}` panics because {FAILPOINT_ENV} asks for it"),
        other => Some(other),
    }
}

fn kill_self() -> ! {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let sent = kill(Pid::this(), Signal::SIGKILL);
    // The signal arrives before or during this sleep; nothing below a killed failpoint may run.
    std::thread::sleep(std::time::Duration::from_mins(1));
    panic!("SIGKILL to the own process did not kill it ({sent:?})");
}

fn warn_cannot_fail(name: &str) {
    tracing::warn!(
        failpoint = name,
        "`err` has no effect: this place cannot return an error"
    );
}

#[cfg(test)]
mod tests;
