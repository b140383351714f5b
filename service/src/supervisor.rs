//! What a service manager is told (systemd's `sd_notify`): ready, stopping, still alive, a line of status.
//!
//! `run` calls [`watch`] for every program; daemons call [`ready`] once they do their work and
//! [`status`] while they wait for something. Without `NOTIFY_SOCKET` in the environment nothing happens.
//! Must stay true: telling never fails a program.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use crate::lifecycle::Lifecycle;

/// Signs of life within the watchdog's period: one may be lost.
const SIGNS: u32 = 3;
/// Between signs of life when the period is absurdly short.
const SIGN_PAUSE_MIN: Duration = Duration::from_millis(50);

/// The program does its work now; `text` is what people see in `systemctl status`.
pub fn ready(text: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// What it is doing, for people.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Tells of the stop, and of being alive as long as the runtime runs tasks, if a watchdog wants to know. What comes
/// back ends once the stop is told; whoever ends the runtime waits for it, or a quick end is never told.
pub(crate) fn watch(lifecycle: &Lifecycle) -> Option<JoinHandle<()>> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let soft = lifecycle.soft();
    // Neither is tracked: they must outlive every task and end with the runtime.
    let stop_told = tokio::spawn(async move {
        soft.cancelled().await;
        tell(&[NotifyState::Stopping]);
    });
    if let Some(period) = sd_notify::watchdog_enabled() {
        let pause = (period / SIGNS).max(SIGN_PAUSE_MIN);
        drop(tokio::spawn(async move {
            loop {
                tell(&[NotifyState::Watchdog]);
                tokio::time::sleep(pause).await;
            }
        }));
    }
    Some(stop_told)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixDatagram,
        path::Path,
        process::{Child, Command, Stdio},
        time::Duration,
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use crate::{Program, RunError, run, telemetry::TelemetryOptions};

    /// Not a test of its own: what the test below runs in a child process.
    #[test]
    #[ignore = "run in a child process by the test of this file"]
    fn child_that_tells() {
        let program = Program {
            name: "owm-test",
            version: "0",
            telemetry: TelemetryOptions::default(),
        };
        let code = run(program, async |context| {
            super::ready("hard at work");
            context.lifecycle.shutdown_requested().await;
            Ok::<(), RunError>(())
        });
        assert_eq!(
            format!("{code:?}"),
            format!("{:?}", std::process::ExitCode::SUCCESS)
        );
    }

    /// Not a test of its own either.
    #[test]
    #[ignore = "run in a child process by the test of this file"]
    fn child_that_ends_at_once() {
        let program = Program {
            name: "owm-test",
            version: "0",
            telemetry: TelemetryOptions::default(),
        };
        let _code = run(program, async |_| Ok::<(), RunError>(()));
    }

    fn child(name: &str, socket: &Path) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored"])
            .env("NOTIFY_SOCKET", socket)
            .env("WATCHDOG_USEC", "300000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn the_service_manager_hears_of_a_quick_end_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 512];
        for _ in 0..20 {
            let name = "supervisor::tests::child_that_ends_at_once";
            assert!(child(name, &path).wait().unwrap().success());
            // All is said: nothing is waited for.
            let mut said = std::iter::from_fn(|| {
                let length = socket.recv(&mut buffer).ok()?;
                Some(buffer[..length].to_vec())
            });
            assert!(said.any(|said| said == b"STOPPING=1\n"));
            said.for_each(drop);
        }
    }

    #[test]
    fn the_service_manager_hears_ready_signs_of_life_and_the_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        let mut child = child("supervisor::tests::child_that_tells", &path);
        let mut buffer = [0; 512];
        let mut heard = String::new();
        let mut until = |what: &str| {
            while !heard.contains(what) {
                let length = socket.recv(&mut buffer).unwrap();
                heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
                heard.push('\n');
            }
        };
        until("READY=1\nSTATUS=hard at work");
        until("WATCHDOG=1");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        until("STOPPING=1");
        assert!(child.wait().unwrap().success());
    }
}
