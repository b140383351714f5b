//! Whether this machine's clock is right: against a server's `Date`, and what its time service says.

use std::{process::Stdio, time::Duration};

use super::Finding;

const AREA: &str = "clock";
/// From here on somebody should look.
const OFFSET_WARN_MS: u64 = 60_000;
/// Time for `timedatectl`: it waits for a bus that may not be there.
const TOOL_TIME: Duration = Duration::from_secs(3);
/// What puts a clock right.
const FIX: &str = "timedatectl set-ntp true (or set the time by hand: date -s …)";

/// One comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Our time in the middle of the call, Unix milliseconds.
    pub ours_ms: u64,
    /// The server's, Unix milliseconds; a `Date` header counts whole seconds.
    pub theirs_ms: u64,
}

impl Compared {
    /// From a call's begin and end on our clock and the server's `Date` header.
    pub fn from_date(begin_ms: u64, end_ms: u64, date: &str) -> Option<Self> {
        let said = httpdate::parse_http_date(date).ok()?;
        let said = said.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Self {
            ours_ms: begin_ms / 2 + end_ms / 2,
            // The header cuts the second off: in the middle of it is the best guess.
            theirs_ms: said.as_millis() as u64 + 500,
        })
    }
}

/// Whether the machine's time service keeps the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It says so.
    Yes,
    /// It says no.
    No,
    /// There is nobody to ask.
    Unknown,
}

/// Above `tolerance` messages are refused for their time.
pub fn judge_offset(compared: Option<Compared>, tolerance: Duration) -> Finding {
    let Some(Compared { ours_ms, theirs_ms }) = compared else {
        return Finding::warning(
            AREA,
            "not compared: no server could be asked for the time",
            "put right what keeps this machine from the coordinator, then run doctor again",
        );
    };
    let off_ms = ours_ms.abs_diff(theirs_ms);
    let side = if ours_ms > theirs_ms {
        "ahead of"
    } else {
        "behind"
    };
    if off_ms <= OFFSET_WARN_MS {
        return Finding::ok(AREA, "agrees with the coordinator's");
    }
    let what = format!("{} s {side} the coordinator's", off_ms / 1_000);
    if off_ms > tolerance.as_millis() as u64 {
        let limit = tolerance.as_secs();
        let what = format!("{what}: above {limit} s signed messages are refused");
        return Finding::problem(AREA, what, FIX);
    }
    Finding::warning(AREA, what, FIX)
}

/// What the time service says.
pub fn judge_kept(kept: Kept) -> Finding {
    const AREA: &str = "clock.service";
    match kept {
        Kept::Yes => Finding::ok(AREA, "a time service keeps the clock"),
        Kept::No => Finding::warning(
            AREA,
            "no time service keeps this machine's clock: it drifts away",
            "timedatectl set-ntp true",
        ),
        Kept::Unknown => Finding::ok(AREA, "this system does not tell whether its clock is kept"),
    }
}

/// Asks `timedatectl`.
pub async fn probe_kept() -> Kept {
    let asked = tokio::process::Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Ok(Ok(output)) = tokio::time::timeout(TOOL_TIME, asked).await else {
        return Kept::Unknown;
    };
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" if output.status.success() => Kept::Yes,
        "no" if output.status.success() => Kept::No,
        _ => Kept::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_clock_is_right_within_a_minute_and_a_problem_above_the_tolerance() {
        let judge = |ours_ms, theirs_ms| {
            let compared = Some(Compared { ours_ms, theirs_ms });
            judge_offset(compared, Duration::from_mins(2))
        };
        assert_eq!(judge(1_000_000, 1_060_000).level, Level::Ok);
        assert_eq!(judge(1_000_000, 1_060_001).level, Level::Warning);
        assert_eq!(judge(1_120_000, 1_000_000).level, Level::Warning);
        let wrong = judge(4_600_000, 1_000_000);
        assert_eq!(wrong.level, Level::Problem);
        assert!(wrong.what.starts_with("3600 s ahead of"), "{}", wrong.what);
        assert!(judge(1, 400_000).what.contains("behind"));
        let unknown = judge_offset(None, Duration::from_mins(2));
        assert_eq!(unknown.level, Level::Warning);
    }

    #[test]
    fn a_date_header_is_a_time() {
        let read = Compared::from_date(10, 30, "Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!((read.ours_ms, read.theirs_ms), (20, 784_111_777_000 + 500));
        assert_eq!(Compared::from_date(0, 0, "yesterday"), None);
    }

    #[test]
    fn an_unkept_clock_is_a_warning_and_an_unknown_one_is_not() {
        assert_eq!(judge_kept(Kept::No).level, Level::Warning);
        assert_eq!(judge_kept(Kept::Yes).level, Level::Ok);
        assert_eq!(judge_kept(Kept::Unknown).level, Level::Ok);
    }
}
