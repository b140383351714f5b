//! What `owm-node train` prints: a curve on a terminal, lines elsewhere, JSON lines with `--json`.

use std::{
    io::{IsTerminal as _, Stdout},
    time::{Duration, Instant},
};

use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend};
use serde_json::{Value, json};

use crate::{
    cli::{Output, output::raw},
    train::{
        TrainEvent, TrainOrder,
        view::{self, Curve},
    },
};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows a run.
pub(super) struct Show {
    output: Output,
    curve: Curve,
    /// The curve's place; none without a terminal.
    terminal: Option<Terminal<CrosstermBackend<Stdout>>>,
    last_line: Option<Instant>,
}

impl Show {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            curve: Curve::default(),
            terminal: None,
            last_line: None,
        }
    }

    /// What happens now.
    pub(super) fn now(&mut self, words: &str) {
        if self.terminal.is_some() {
            words.clone_into(&mut self.curve.now);
            self.draw();
        } else if self.output.json {
            line(&json!({"event": "now", "words": words}));
        } else {
            self.output.say(words);
        }
    }

    /// The run begins: a terminal gets its curve.
    pub(super) fn begin(&mut self, model: &str, parameters: u64, order: &TrainOrder) {
        let (train, held_out) = (order.text.train.len(), order.text.held_out.len());
        self.now(&format!(
            "{model}: {parameters} weights; {train} documents to train on, {held_out} held out"
        ));
        if !self.output.json && std::io::stdout().is_terminal() {
            let options = TerminalOptions {
                viewport: Viewport::Inline(view::ROWS),
            };
            let backend = CrosstermBackend::new(std::io::stdout());
            // A terminal that cannot do it gets lines.
            self.terminal = Terminal::with_options(backend, options).ok();
        }
    }

    pub(super) fn event(&mut self, event: TrainEvent<'_>) {
        match event {
            TrainEvent::Measuring(share) => {
                if self.terminal.is_some() {
                    self.now(&format!(
                        "measuring on held-out text: {:.0} %",
                        100.0 * share
                    ));
                }
            }
            TrainEvent::Before(measured) => {
                if let Some(held_out) = measured.held_out {
                    self.now(&format!(
                        "before: {:.4} bits per byte",
                        held_out.bits_per_byte
                    ));
                }
            }
            TrainEvent::Begins {
                trained_values,
                tokens,
                resumed_at,
            } => {
                let mut words = format!("training {trained_values} values on {tokens} tokens");
                if resumed_at > 0 {
                    words = format!("{words}, going on after step {resumed_at}");
                }
                self.now(&words);
                self.curve.now.clear();
            }
            TrainEvent::Step { progress, share } => {
                self.curve.now.clear();
                self.curve
                    .points
                    .push((f64::from(progress.step), f64::from(progress.loss)));
                self.curve.last = Some(progress);
                self.curve.share = share;
                if self.output.json {
                    line(&json!({
                        "event": "step", "step": progress.step, "steps": progress.steps,
                        "loss": progress.loss, "gradient_norm": progress.gradient_norm,
                        "learning_rate": progress.learning_rate, "tokens": progress.tokens,
                        "tokens_per_second": progress.tokens_per_second,
                        "seconds_left": progress.remaining.as_secs(), "share": share,
                    }));
                } else if self.terminal.is_some() {
                    self.draw();
                } else if self
                    .last_line
                    .is_none_or(|last| last.elapsed() >= LINE_EVERY)
                {
                    self.last_line = Some(Instant::now());
                    self.output.say(&view::step_line(&progress));
                }
            }
            TrainEvent::Saved => {
                if self.output.json {
                    line(&json!({"event": "saved"}));
                }
            }
        }
    }

    /// The curve stays where it is; what follows is below it.
    pub(super) fn end(&mut self) {
        if let Some(mut terminal) = self.terminal.take() {
            drop(terminal.draw(|frame| view::draw(frame, &self.curve)));
            drop(terminal.show_cursor());
            raw(b"\n");
        }
    }

    /// The last word.
    pub(super) fn result(&self, value: &Value, lines: &[String]) {
        if self.output.json {
            line(value);
        } else {
            self.output.answer(value, lines);
        }
    }

    fn draw(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            // A terminal that is gone takes nothing from the run.
            drop(terminal.draw(|frame| view::draw(frame, &self.curve)));
        }
    }
}

fn line(value: &Value) {
    raw(format!("{value}\n").as_bytes());
}
