//! What `owm-node top` shows: facts of a running node to a terminal's cells. Pure: `cli::top` asks, reads
//! keys and draws with [`draw`]; without a terminal it prints [`text`].
//! Must stay true: every size draws something; nothing here asks, waits or keeps anything.

mod view;
mod words;

use ratatui::{Frame, Terminal, backend::TestBackend};

use crate::facts::Facts;

/// The smallest terminal that shows everything, in columns and rows.
pub const SIZE_MIN: (u16, u16) = (80, 24);
/// The size of a printed snapshot: all finished tasks and warnings have room.
const TEXT_SIZE: (u16, u16) = (120, 64);

/// What there is to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Screen {
    /// The last facts; absent: none came yet.
    pub facts: Option<Facts>,
    /// Why there are no new ones: the node does not run (any more).
    pub away: Option<String>,
}

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    view::draw(frame, screen);
}

/// The same as lines of text, without colours and without the line of keys.
pub fn text(facts: &Facts) -> Vec<String> {
    let (width, height) = TEXT_SIZE;
    let mut terminal =
        Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory cannot fail");
    let screen = Screen {
        facts: Some(facts.clone()),
        away: None,
    };
    terminal
        .draw(|frame| view::draw_facts(frame, frame.area(), &screen))
        .expect("a terminal in memory cannot fail");
    let buffer = terminal.backend().buffer();
    let row = |y| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
    let mut lines: Vec<String> = (0..height).map(|y| row(y).trim_end().to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

#[cfg(test)]
mod tests;
