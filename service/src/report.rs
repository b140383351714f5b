//! How errors are shown: one line with the whole chain of causes.
//!
//! Lifecycle, reconcilers and `run` call it where an error is handled, that is, logged once.

use std::{error::Error, fmt};

/// Longest chain of causes shown; longer ones are a loop or a mistake.
const CAUSES_MAX: usize = 16;

/// Shows `error: cause: cause of the cause`. A cause whose text the line already ends with is not
/// repeated (many wrappers print their source themselves).
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        let mut source = self.0.source();
        for _ in 0..CAUSES_MAX {
            let Some(cause) = source else { break };
            let text = cause.to_string();
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            source = cause.source();
        }
        f.write_str(&line)
    }
}

/// The first error of type `E` among `error` and its causes; looks inside `io::Error` wrappers too.
pub fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    for _ in 0..CAUSES_MAX {
        let current = next?;
        if let Some(found) = current.downcast_ref::<E>() {
            return Some(found);
        }
        next = match current
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("the disk is full")]
    struct Inner;

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = Outer(io::Error::other(Inner));
        assert_eq!(
            Chain(&error).to_string(),
            "cannot open the store: the disk is full"
        );
        assert!(find::<Inner>(&error).is_some());
        assert!(find::<std::num::ParseIntError>(&error).is_none());
    }
}
