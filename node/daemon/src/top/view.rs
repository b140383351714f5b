//! The layout: a title, two rows of figures, running tasks, finished tasks, warnings, the keys.
//! Must stay true: finished tasks give way first, then warnings; the figures always have room.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Row, Table, Wrap},
};

use super::{SIZE_MIN, Screen, words};
use crate::{
    activity::RunningTask, facts::Facts, session::Phase, status::ModelStatus, tasklog::FinishedTask,
};

/// Rows of running tasks shown at most; more slots than this are rare.
const RUNNING_ROWS_MAX: u16 = 8;
/// Rows of warnings: few on a small terminal, more on a tall one.
const WARNING_ROWS: (u16, u16) = (2, 8);
/// From so many rows a terminal is tall.
const TALL: u16 = 36;
/// Characters of a task's id shown: enough to find it in a log.
const ID_CHARS: usize = 9;

/// Columns of a model's version.
const MODEL_CHARS: u16 = 14;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const GOOD: Style = Style::new().fg(Color::Green);
const CAREFUL: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    if area.width < SIZE_MIN.0 || area.height < SIZE_MIN.1 {
        let (width, height) = SIZE_MIN;
        let text = format!(
            "this terminal is {}×{}; owm-node top needs {width}×{height}. Enlarge it, or q to quit.",
            area.width, area.height
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let [body, keys] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
    draw_facts(frame, body, screen);
    let help = Line::styled(" q quit   refreshed every second", DIM);
    frame.render_widget(Paragraph::new(help), keys);
}

/// Everything but the keys.
pub(super) fn draw_facts(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let Some(facts) = &screen.facts else {
        let why = screen.away.as_deref().unwrap_or("asking the node …");
        return frame.render_widget(notice(why), area);
    };
    let running = facts.activity.running.len().max(1) as u16;
    let warnings = (facts.warnings.len().max(1) as u16).min(if area.height < TALL {
        WARNING_ROWS.0
    } else {
        WARNING_ROWS.1
    });
    let [title, first, second, tasks, finished, warned] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(7),
        Constraint::Length(4),
        Constraint::Length(2 + running.min(RUNNING_ROWS_MAX)),
        Constraint::Min(2),
        Constraint::Length(1 + warnings),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(title_line(facts, screen)), title);
    let halves = [Constraint::Percentage(50), Constraint::Percentage(50)];
    let [left, right] = Layout::horizontal(halves).spacing(1).areas(first);
    panel(frame, left, "Coordinator", coordinator_lines(facts));
    panel(frame, right, "Model", model_lines(facts));
    let [left, right] = Layout::horizontal(halves).spacing(1).areas(second);
    panel(frame, left, "Work", work_lines(facts));
    panel(frame, right, "Machine", machine_lines(facts));
    frame.render_widget(running_table(&facts.activity.running), tasks);
    frame.render_widget(finished_table(&facts.finished), finished);
    panel(frame, warned, "Warnings", warning_lines(facts));
}

fn notice(why: &str) -> Paragraph<'_> {
    let lines = vec![
        Line::default(),
        Line::styled(why, BAD),
        Line::default(),
        Line::styled("waiting for it; this goes on by itself", DIM),
    ];
    let paragraph = Paragraph::new(lines).alignment(Alignment::Center);
    paragraph.wrap(Wrap { trim: true })
}

fn section(title: &str) -> Block<'_> {
    let block = Block::new().borders(Borders::TOP).border_style(DIM);
    block.title(Span::styled(format!(" {title} "), BOLD))
}

fn panel(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'_>>) {
    frame.render_widget(Paragraph::new(lines).block(section(title)), area);
}

fn title_line<'a>(facts: &'a Facts, screen: &Screen) -> Line<'a> {
    let status = &facts.status;
    if screen.away.is_some() {
        let since = words::clock(facts.at_ms);
        let text = format!(" owm-node is not running: waiting for it; figures of {since} UTC");
        return Line::styled(text, BAD);
    }
    let (word, style) = match status.phase {
        Phase::Active if status.pause.is_some() => ("paused", CAREFUL),
        Phase::Active if !status.open => ("outside its hours", CAREFUL),
        Phase::Active => ("active", GOOD),
        Phase::Draining => ("draining", CAREFUL),
        Phase::Unregistered => ("not registered", BAD),
        Phase::Registered => ("connecting", CAREFUL),
        Phase::Over => ("over", BAD),
    };
    Line::from(vec![
        Span::styled(
            format!(" owm-node {} ", words::cut(&status.node_key, 9)),
            BOLD,
        ),
        Span::styled(word, style),
        Span::raw(format!(
            "  {}  up {}  {} UTC  v{}  pid {}",
            words::cut(&status.network, 16),
            words::time(facts.at_ms.saturating_sub(status.started_at_ms)),
            words::clock(facts.at_ms),
            status.software_version,
            status.pid
        )),
    ])
}

fn coordinator_lines(facts: &Facts) -> Vec<Line<'_>> {
    let status = &facts.status;
    let since = |at: Option<u64>| at.map(|at| words::time(facts.at_ms.saturating_sub(at)));
    let link = match (status.linked, &status.link_error) {
        (true, _) => {
            let time = words::known(since(status.linked_since_ms), |t| t);
            Line::styled(format!("linked for {time}"), GOOD)
        }
        (false, Some(error)) => Line::styled(format!("no link: {error}"), BAD),
        (false, None) => Line::styled("no link yet", CAREFUL),
    };
    let ping = match (status.ping_ms, since(status.pong_at_ms)) {
        (Some(ms), Some(ago)) => format!("ping {ms} ms, {ago} ago"),
        _ => "no ping yet".to_owned(),
    };
    let offset = words::known(status.clock_offset_ms, |ms| {
        format!("{:+.1} s", ms as f64 / 1_000.0)
    });
    let standing = status.node_status.as_deref().unwrap_or("unknown");
    let tier = status.standing.as_ref().map(|said| &said.effective_tier);
    let tier = tier.or(status.tier.as_ref()).map_or("?", String::as_str);
    let rates = match (&status.standing, status.reasons.first()) {
        (_, Some(reason)) => Line::styled(format!("pending: {reason}"), CAREFUL),
        (Some(said), None) => Line::raw(format!(
            "reliability {}  uptime {}",
            permille(said.reliability_permille),
            permille(said.uptime_permille)
        )),
        (None, None) => Line::styled("reliability ?  uptime ?", DIM),
    };
    vec![
        Line::raw(status.coordinator.as_str()),
        link,
        Line::raw(format!("{ping}  clock {offset}")),
        Line::raw(format!("status {standing}, tier {tier}")),
        rates,
        swarm_line(facts),
    ]
}

fn swarm_line(facts: &Facts) -> Line<'_> {
    match &facts.swarm {
        Some(swarm) if !swarm.running => {
            Line::styled(format!("swarm {}", swarm.summary()), CAREFUL)
        }
        Some(swarm) => {
            let (peers, nodes) = (swarm.peers_connected, swarm.nodes_known);
            let style = if peers == 0 { CAREFUL } else { Style::new() };
            Line::styled(format!("swarm {peers} peers, {nodes} nodes known"), style)
        }
        None => Line::styled("swarm ?", DIM),
    }
}

/// Thousandths as a percentage.
fn permille(value: u32) -> String {
    format!("{}.{} %", value / 10, value % 10)
}

fn model_lines(facts: &Facts) -> Vec<Line<'_>> {
    let status = &facts.status;
    let Some(model) = &status.model else {
        let state = status.model_state.as_deref().unwrap_or("none loaded yet");
        return vec![Line::styled(state, CAREFUL)];
    };
    let weights = words::known(facts.model_bytes, words::bytes);
    let engine = model.engine.as_ref().map_or_else(
        || "no engine".to_owned(),
        |engine| format!("{} on {}", engine.backend, engine.device),
    );
    let mut lines = vec![Line::raw(format!(
        "{}  {}",
        model.version,
        model.sub_models.join(", ")
    ))];
    lines.extend(sha256_lines(model));
    lines.push(note_line(model));
    lines.push(match status.model_state.as_deref() {
        Some(state) => Line::styled(state, CAREFUL),
        None => Line::raw(format!("{weights} in {engine}")),
    });
    lines
}

/// The whole of it, on two lines, so that it can be compared on the smallest terminal.
fn sha256_lines(model: &ModelStatus) -> Vec<Line<'_>> {
    let first = model.sha256.first().map_or("", String::as_str);
    let (front, back) = first
        .split_at_checked(first.len() / 2)
        .unwrap_or((first, ""));
    let more = match model.sha256.len() {
        0 | 1 => String::new(),
        n => format!(" +{} more", n - 1),
    };
    vec![
        Line::raw(format!("sha256 {front}")),
        Line::raw(format!("       {back}{more}")),
    ]
}

/// What has to be said of the model wherever it is shown.
fn note_line(model: &ModelStatus) -> Line<'_> {
    if model.note.is_empty() {
        Line::styled(model.timestamps.as_str(), DIM)
    } else if model.note.starts_with("a tiny stand-in") {
        Line::styled("TINY STAND-IN: random, no quality", CAREFUL)
    } else {
        Line::styled(model.note.as_str(), CAREFUL)
    }
}

fn work_lines(facts: &Facts) -> Vec<Line<'_>> {
    let (status, activity) = (&facts.status, &facts.activity);
    let free = status.slots.saturating_sub(status.running);
    let waiting = match status.unacknowledged {
        0 => String::new(),
        n => format!(", {n} unacknowledged"),
    };
    let owed = words::known(facts.earnings.as_ref(), |sums| words::sats(sums.owed_msat));
    let today = words::known(facts.earned_today_msat, words::sats);
    vec![
        Line::raw(format!(
            "tokens/s {:.1} out, {:.1} in (last min)",
            activity.rates.output_per_s, activity.rates.prompt_per_s
        )),
        Line::raw(format!(
            "slots {} used, {free} free{waiting}",
            status.running
        )),
        Line::raw(format!("owed {owed}, today {today}")),
    ]
}

fn machine_lines(facts: &Facts) -> Vec<Line<'_>> {
    let (machine, totals) = (&facts.machine, &facts.activity.totals);
    let cores = words::known(machine.cpu_cores_used, |used| format!("{used:.1}"));
    let of = words::known(machine.cpu_cores, |cores| cores.to_string());
    vec![
        Line::raw(format!(
            "memory {}  CPU {cores} of {of} cores",
            words::known(machine.rss_bytes, words::bytes)
        )),
        Line::raw(format!(
            "models {} on disk, {} free",
            words::known(machine.shelf_bytes, words::bytes),
            words::known(machine.disk_free_bytes, words::bytes)
        )),
        Line::raw(format!(
            "total {} tokens out, {} in",
            words::grouped(totals.output_tokens),
            words::grouped(totals.prompt_tokens)
        )),
    ]
}

fn running_table(tasks: &[RunningTask]) -> Table<'_> {
    let rows = tasks.iter().map(|task| {
        Row::new([
            words::cut(&task.task_id, ID_CHARS),
            task.model_version.clone(),
            words::known(task.prompt_tokens, |n| n.to_string()),
            task.progress.as_ref().map_or_else(
                || task.tokens.to_string(),
                |progress| progress.done.to_string(),
            ),
            format!("{:.1}", task.tokens_per_s),
            words::time(task.elapsed_ms),
            task.about(),
        ])
    });
    let widths = [
        Constraint::Length(ID_CHARS as u16),
        Constraint::Length(MODEL_CHARS),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(12),
        Constraint::Fill(1),
    ];
    let header = [
        "task", "model", "prompt", "tokens", "tok/s", "elapsed", "what",
    ];
    Table::new(rows, widths)
        .header(Row::new(header).style(DIM))
        .block(section("Running"))
}

fn finished_table(tasks: &[FinishedTask]) -> Table<'_> {
    let rows = tasks.iter().map(|task| {
        let (verdict, style) = match task.verdict.as_deref() {
            Some(verdict @ ("accepted" | "duplicate")) => (verdict, Style::new()),
            Some(verdict) => (verdict, CAREFUL),
            None => ("waiting", DIM),
        };
        let number = |value: Option<u32>| words::known(value, |n| n.to_string());
        Row::new([
            words::clock(task.finished_at_ms),
            words::cut(&task.task_id, ID_CHARS),
            task.model_version.clone(),
            number(task.prompt_tokens),
            number(task.output_tokens),
            words::known(task.exec_ms, words::grouped),
            verdict.to_owned(),
            words::grouped(task.reward_msat),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Length(ID_CHARS as u16),
        Constraint::Length(MODEL_CHARS),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(11),
        Constraint::Fill(1),
    ];
    let header = [
        "UTC", "task", "model", "prompt", "tokens", "ms", "verdict", "msat",
    ];
    Table::new(rows, widths)
        .header(Row::new(header).style(DIM))
        .block(section("Finished"))
}

fn warning_lines(facts: &Facts) -> Vec<Line<'_>> {
    if facts.warnings.is_empty() {
        return vec![Line::styled("none", DIM)];
    }
    let line = |warning: &owm_service::telemetry::Warning| {
        let style = if warning.level == "error" {
            BAD
        } else {
            CAREFUL
        };
        let at = words::clock(warning.at_ms);
        Line::styled(format!("{at} {}", warning.text), style)
    };
    facts.warnings.iter().map(line).collect()
}
