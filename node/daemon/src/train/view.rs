//! What `owm-node train` shows: a line per step, or a curve on a terminal. Pure: `cli::train` draws it.

use std::time::Duration;

use owm_model::Progress;
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Style},
    symbols::Marker,
    text::Line,
    widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType},
};

/// Rows of the terminal that are drawn into.
pub const ROWS: u16 = 16;

/// What there is to show.
#[derive(Debug, Clone, Default)]
pub struct Curve {
    /// Step and loss, in nats per token.
    pub points: Vec<(f64, f64)>,
    /// The last step.
    pub last: Option<Progress>,
    /// Share of the run that is done.
    pub share: f64,
    /// What happens now, if it is no step.
    pub now: String,
}

/// A step in words.
pub fn step_line(progress: &Progress) -> String {
    format!(
        "step {}/{}  loss {:.4}  {:.0} tokens/s  {} left",
        progress.step,
        progress.steps,
        progress.loss,
        progress.tokens_per_second,
        time(progress.remaining)
    )
}

/// A time to the precision that a human waits with.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Draws the curve and how far the run is.
pub fn draw(frame: &mut Frame<'_>, curve: &Curve) {
    let [chart, gauge, line] = Layout::vertical([
        Constraint::Min(3),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let steps = curve.last.map_or(1.0, |last| f64::from(last.step.max(2)));
    let losses = || curve.points.iter().map(|(_, loss)| *loss);
    let low = losses().fold(f64::INFINITY, f64::min).min(1e9);
    let high = losses().fold(0.0, f64::max);
    let (low, high) = if low < high {
        (low, high)
    } else {
        (0.0, high.max(1.0))
    };
    let data = Dataset::default()
        .marker(Marker::Braille)
        .graph_type(GraphType::Line)
        .style(Style::new().fg(Color::Cyan))
        .data(&curve.points);
    let labels = [low, f64::midpoint(low, high), high].map(|loss| Line::from(format!("{loss:.2}")));
    let ends = [Line::from("1"), Line::from(format!("{steps:.0}"))];
    let widget = Chart::new(vec![data])
        .block(Block::bordered().title(" loss, nats per token "))
        .x_axis(Axis::default().bounds([1.0, steps]).labels(ends))
        .y_axis(Axis::default().bounds([low, high]).labels(labels));
    frame.render_widget(widget, chart);
    let bar = Gauge::default().ratio(curve.share.clamp(0.0, 1.0));
    frame.render_widget(bar, gauge);
    let words = match &curve.last {
        Some(last) if curve.now.is_empty() => step_line(last),
        _ => curve.now.clone(),
    };
    frame.render_widget(Line::from(words), line);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn progress(step: u32, loss: f32) -> Progress {
        Progress {
            step,
            steps: 40,
            loss,
            gradient_norm: 1.0,
            learning_rate: 1e-3,
            tokens: 512,
            tokens_per_second: 1234.4,
            remaining: Duration::from_secs(125),
        }
    }

    #[test]
    fn every_size_draws_and_the_curve_shows_its_ends() {
        let mut curve = Curve {
            now: "measuring".to_owned(),
            ..Curve::default()
        };
        for (width, height) in [(1, 1), (10, 3), (80, ROWS), (200, 50)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &curve)).unwrap();
        }
        curve.points = vec![(1.0, 5.5), (2.0, 4.25), (3.0, 3.0)];
        curve.last = Some(progress(3, 3.0));
        curve.share = 0.62;
        curve.now.clear();
        let mut terminal = Terminal::new(TestBackend::new(80, ROWS)).unwrap();
        terminal.draw(|frame| draw(frame, &curve)).unwrap();
        let buffer = terminal.backend().buffer();
        let shown: String = buffer
            .content()
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        for word in [
            "5.50",
            "3.00",
            "62%",
            "step 3/40  loss 3.0000  1234 tokens/s  2 min 5 s left",
        ] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
    }
}
