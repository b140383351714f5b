//! Which web seed is asked for files, and what follows when it fails. `bring` asks.
//! Must stay true: what a peer has named is not asked before what the operator's invite or the coordinator named;
//! every file is checked against its manifest, so a wrong seed costs time only.

use owm_proto::manifest::ManifestFile;
use owm_service::report::Chain;

use super::{DownloadError, Fetcher};

/// Base URLs, the likeliest first, each once. `named`: of the network, which a peer may have said unless
/// `is_coordinators`; empty: none.
pub(super) fn in_order(named: &str, invited: Option<&str>, is_coordinators: bool) -> Vec<String> {
    let invited = invited.unwrap_or_default();
    let both = if is_coordinators {
        [named, invited]
    } else {
        [invited, named]
    };
    let mut urls: Vec<String> = Vec::new();
    for url in both {
        if !url.is_empty() && urls.iter().all(|other| other != url) {
            urls.push(url.to_owned());
        }
    }
    urls
}

/// Fetches from the first; one that fails is left out from then on while there is another.
pub(super) async fn fetch_from_any(
    fetchers: &mut Vec<Fetcher>,
    file: &ManifestFile,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), DownloadError> {
    while fetchers.len() > 1 {
        match fetchers[0].fetch(file, progress).await {
            done @ (Ok(()) | Err(DownloadError::GivesWay)) => return done,
            Err(error) => {
                let url = fetchers.remove(0).web_seed;
                tracing::warn!(error = %Chain(&error), %url, "trying the other web seed");
            }
        }
    }
    match fetchers.first() {
        Some(last) => last.fetch(file, progress).await,
        // The caller has one at least.
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_word_comes_after_the_invites_and_the_coordinators_before_it() {
        let order = |named, invited, is_coordinators| in_order(named, invited, is_coordinators);
        assert_eq!(order("n", Some("i"), false), ["i", "n"]);
        assert_eq!(order("n", Some("i"), true), ["n", "i"]);
        assert_eq!(order("n", None, false), ["n"]);
        assert_eq!(order("", Some("i"), true), ["i"]);
        assert_eq!(order("i", Some("i"), true), ["i"]);
        assert!(order("", None, true).is_empty());
    }
}
