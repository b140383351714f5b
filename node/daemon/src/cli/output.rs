//! Where commands print: text or JSON on standard output, complaints on standard error.

use std::io::Write as _;

use serde_json::{Value, json};

/// How a command answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// JSON instead of text.
    pub(super) json: bool,
}

impl Output {
    /// The answer: `value` as JSON, or the lines.
    pub(super) fn answer(self, value: &Value, lines: &[String]) {
        if self.json {
            raw(format!("{value:#}\n").as_bytes());
        } else {
            let mut text = lines.join("\n");
            text.push('\n');
            raw(text.as_bytes());
        }
    }

    /// A remark for people; nothing with `--json`.
    pub(super) fn say(self, line: &str) {
        if !self.json {
            raw(format!("{line}\n").as_bytes());
        }
    }

    /// What went wrong.
    pub(super) fn error(self, text: &str) {
        if self.json {
            raw(format!("{}\n", json!({ "error": text })).as_bytes());
        }
        self.complain(text);
    }

    /// What went wrong, for people, after an answer that says it to programs.
    #[expect(clippy::unused_self, reason = "as its siblings")]
    pub(super) fn complain(self, text: &str) {
        let mut err = std::io::stderr().lock();
        drop(writeln!(err, "owm-node: {text}"));
    }
}

/// Bytes as they are. A closed pipe is nobody's loss.
pub(super) fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(bytes).and_then(|()| out.flush()));
}
