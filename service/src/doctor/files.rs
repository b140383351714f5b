//! File descriptors: how many a daemon may have, and has.

use super::Finding;

const AREA: &str = "files";

/// How many file descriptors there may be and are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The soft limit.
    pub limit: u64,
    /// Open now; `None`: of a process that is not ours to look at, or none runs.
    pub open: Option<u64>,
}

/// Of process `pid`, else of this process (whose limit a daemon started here would have).
pub fn probe(pid: Option<u32>) -> Option<Descriptors> {
    if let Some(pid) = pid
        && let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/limits"))
        && let Some(limit) = parse_limit(&text)
    {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let open = open.map(|entries| entries.count() as u64);
        return Some(Descriptors { limit, open });
    }
    let (limit, _) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).ok()?;
    Some(Descriptors { limit, open: None })
}

/// The soft limit in `/proc/PID/limits`.
fn parse_limit(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Fewer than `needed` (for `what`) are a warning; nearly all used up is a problem.
pub fn judge(found: Option<Descriptors>, needed: u64, what: &str) -> Finding {
    let fix = format!(
        "LimitNOFILE={needed} in the service's unit, or `ulimit -n {needed}` before the start"
    );
    match found {
        None => Finding::ok(AREA, "this system does not tell the limit"),
        Some(Descriptors {
            limit,
            open: Some(open),
        }) if open.saturating_mul(10) > limit.saturating_mul(9) => {
            let what = format!("{open} of {limit} file descriptors are in use");
            Finding::problem(AREA, what, fix)
        }
        Some(Descriptors { limit, .. }) if limit < needed => {
            let what = format!("at most {limit} file descriptors; {what} needs {needed}");
            Finding::warning(AREA, what, fix)
        }
        Some(Descriptors { limit, open }) => {
            let used = open.map_or(String::new(), |open| format!(", {open} in use"));
            Finding::ok(AREA, format!("up to {limit} file descriptors{used}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn too_few_are_a_warning_and_none_left_a_problem() {
        let level = |limit, open| judge(Some(Descriptors { limit, open }), 1024, "a node").level;
        assert_eq!(level(1024, None), Level::Ok);
        assert_eq!(level(256, Some(9)), Level::Warning);
        assert_eq!(level(1024, Some(1000)), Level::Problem);
        assert_eq!(judge(None, 1024, "a node").level, Level::Ok);
    }

    #[test]
    fn the_limit_is_found_in_the_systems_table() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             95846                95846                processes \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(parse_limit(text), Some(1024));
        assert_eq!(
            parse_limit("Max open files unlimited unlimited files"),
            Some(u64::MAX)
        );
        assert!(probe(Some(std::process::id())).unwrap().open.is_some());
        assert!(probe(None).unwrap().limit > 0);
    }
}
