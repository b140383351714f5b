//! The limit of open files: every connection is one. Called by daemons that accept connections, before
//! they listen.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises this process's soft limit to its hard one; returns what is allowed now. Where it can't be
/// raised, what was allowed before still is.
pub fn raise_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return hard;
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let allowed = raise_limit();
        assert_eq!(
            getrlimit(Resource::RLIMIT_NOFILE).unwrap(),
            (allowed, allowed)
        );
    }
}
