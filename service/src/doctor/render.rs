//! The report as text: what is fine first, problems last, where the eye is; fix lines indented.

use std::{fmt::Write as _, time::Duration};

use super::{Finding, Level, Report, Verdict};

const RESET: &str = "\x1b[0m";

/// Mark and colour of a level. Marks are ASCII-safe beside the word, for screens without colours.
fn style(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::Ok => ("✓", "\x1b[32m"),
        Level::Warning => ("!", "\x1b[33m"),
        Level::Problem => ("✗", "\x1b[31m"),
    }
}

pub(super) fn text(report: &Report<'_>, took: Option<Duration>, colour: bool) -> String {
    let mut text = format!(
        "{} {} doctor, {}\n\n",
        report.program, report.version, report.config
    );
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| finding.level);
    let width = findings.iter().map(|f| f.area.len()).max().unwrap_or(0);
    for finding in &findings {
        one(&mut text, finding, width, colour);
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let worst = match report.verdict {
        Verdict::Healthy => Level::Ok,
        Verdict::Warnings => Level::Warning,
        Verdict::Broken => Level::Problem,
    };
    let (on, off) = colours(worst, colour);
    let took = took.map_or(String::new(), |took| {
        format!(", {:.1} s", took.as_secs_f64())
    });
    writeln!(
        text,
        "\n{on}{}{off}: {}, {}, {} ok{took}",
        report.verdict.words(),
        plural(count(Level::Problem), "problem"),
        plural(count(Level::Warning), "warning"),
        count(Level::Ok),
    )
    .expect("writing to a String cannot fail");
    text
}

fn one(text: &mut String, finding: &Finding, width: usize, colour: bool) {
    let (mark, _) = style(finding.level);
    let (on, off) = colours(finding.level, colour);
    let indent = " ".repeat(13 + width);
    let mut lines = finding.what.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default();
    let mut push = |line: std::fmt::Arguments<'_>| {
        writeln!(text, "{line}").expect("writing to a String cannot fail");
    };
    push(format_args!(
        "{on}{mark} {:<7}{off}  {:<width$}  {first}",
        finding.level.as_str(),
        finding.area
    ));
    for line in lines {
        push(format_args!("{indent}{line}"));
    }
    for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
        push(format_args!("{indent}fix: {line}"));
    }
}

fn colours(level: Level, colour: bool) -> (&'static str, &'static str) {
    if colour {
        (style(level).1, RESET)
    } else {
        ("", "")
    }
}

fn plural(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}
