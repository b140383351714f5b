//! `owm-node top`: a dashboard of the running node. The shell around `top`: asks every second, draws, reads
//! keys. Must stay true: the terminal is put back whatever ends it; it outlives restarts of the node.

use std::{
    io::IsTerminal as _,
    path::Path,
    time::{Duration, Instant},
};

use clap::Args;
use futures::FutureExt as _;
use owm_service::RunError;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigArg, Output, block_on};
use crate::{
    control::{self, ControlError},
    home::Home,
    top::{self, Screen},
};

/// Between questions.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a key press or a signal may wait.
const SLICE: Duration = Duration::from_millis(100);
/// A node that does not answer in this time is busy or hung; keys must not wait longer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node top\n  owm-node top --once\n  owm-node top --json | jq .activity.rates\n\n\
    Keys: q, Esc or Ctrl-C quit. Without a terminal, and with --json, it prints one snapshot and ends.\n\
    Exit code 1: no node runs here (a dashboard on a terminal waits for one instead)."
)]
pub(super) struct TopArgs {
    /// Print one snapshot and end.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &TopArgs, output: Output) -> Result<(), RunError> {
    let (path, config) = arguments.config.load()?;
    let socket = Home::open(&config.data_folder(&path))?.control();
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if arguments.once || output.json || !is_terminal {
        let facts = block_on(control::facts(&socket))?.map_err(RunError::failed)?;
        output.answer(&json!(facts), &top::text(&facts));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut stop = {
        let _inside = runtime.enter();
        Stop {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        }
    };
    // From here on a panic puts the terminal back, too: ratatui's hook does.
    let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
    let outcome = watch(&runtime, terminal, &socket, &mut stop);
    ratatui::try_restore()?;
    outcome
}

/// Signals that end the dashboard.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn watch(
    runtime: &tokio::runtime::Runtime,
    mut terminal: DefaultTerminal,
    socket: &Path,
    stop: &mut Stop,
) -> Result<(), RunError> {
    let mut screen = Screen {
        facts: None,
        away: None,
    };
    loop {
        let stopped = runtime.block_on(async {
            tokio::select! {
                () = stop.asked() => true,
                () = refresh(&mut screen, socket) => false,
            }
        });
        if stopped {
            return Ok(());
        }
        terminal.draw(|frame| top::draw(frame, &screen))?;
        // From the drawing on: keys get their turn however long the node took to answer.
        let drawn = Instant::now();
        while drawn.elapsed() < REFRESH {
            // The runtime has to run for the signal to be seen.
            let stopped = runtime.block_on(async {
                tokio::task::yield_now().await;
                stop.asked().now_or_never().is_some()
            });
            if stopped {
                return Ok(());
            }
            if !event::poll(SLICE)? {
                continue;
            }
            let event = event::read()?;
            if is_end(&event) {
                return Ok(());
            }
            if matches!(event, Event::Resize(..)) {
                terminal.draw(|frame| top::draw(frame, &screen))?;
            }
        }
    }
}

/// Whether it asks for the end: q, Esc, or Ctrl-C.
fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else {
        return false;
    };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => control,
            _ => false,
        }
}

/// The newest facts, or why there are none; the last ones stay on the screen.
async fn refresh(screen: &mut Screen, socket: &Path) {
    let program = "owm-node";
    let asked = tokio::time::timeout(PATIENCE, control::facts(socket)).await;
    match asked.unwrap_or(Err(ControlError::Broken { program })) {
        Ok(facts) => {
            screen.facts = Some(facts);
            screen.away = None;
        }
        Err(error) => screen.away = Some(error.to_string()),
    }
}
