//! The key file, and whether somebody else uses the same key.

use std::{os::unix::fs::MetadataExt as _, sync::Arc, time::Duration};

use http::HeaderMap;
use owm_proto::{KeyError, NodeKey, PublicKey};
use owm_service::{
    dialer::{Dialer, HttpClient, NetworkPolicy},
    doctor::{Finding, ports::Daemon, shell},
};

use super::Ground;
use crate::home::Home;

/// Time for the public API's answer, connecting included: a hint is not worth more.
const ASK_TIME: Duration = Duration::from_secs(5);
/// A node's standing as the public API tells it, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The key file and its folder.
#[derive(Debug)]
pub(super) struct KeyFacts {
    pub(super) key: Result<NodeKey, KeyError>,
    /// Users that the folder and the key belong to.
    owners: Option<(u32, u32)>,
    folder: bool,
}

impl KeyFacts {
    pub(super) fn probe(home: &Home) -> Self {
        let owner = |path| Some(std::fs::metadata(path).ok()?.uid());
        Self {
            key: NodeKey::load(&home.key()),
            owners: owner(home.path().to_owned()).zip(owner(home.key())),
            folder: home.path().is_dir(),
        }
    }

    pub(super) fn public(&self) -> Option<PublicKey> {
        self.key.as_ref().ok().map(NodeKey::public)
    }
}

/// The key file.
pub(super) fn judge(ground: &Ground) -> Vec<Finding> {
    let facts = &ground.key;
    let data = shell(ground.home.path());
    if !facts.folder {
        let what = format!("there is no data folder {data}");
        let fix = format!(
            "owm-node init --join <invite> --dir {}, or correct [node] data in {}",
            shell(ground.path.parent().unwrap_or(&ground.path)),
            shell(&ground.path)
        );
        return vec![Finding::problem("key", what, fix)];
    }
    vec![judge_key(facts, &shell(&ground.home.key()), &data)]
}

fn judge_key(facts: &KeyFacts, path: &str, data: &str) -> Finding {
    const AREA: &str = "key";
    match (&facts.key, facts.owners) {
        (Ok(_), Some((folder, key))) if folder != key => Finding::problem(
            AREA,
            format!(
                "{path} belongs to user {key}, its folder to user {folder}: a daemon of that user can't read it"
            ),
            format!("chown {folder} {path}"),
        ),
        (Ok(key), _) => Finding::ok(
            AREA,
            format!("{}, readable by its owner only", key.public()),
        ),
        (Err(KeyError::Exposed { mode, .. }), _) => Finding::problem(
            AREA,
            format!(
                "{path} has mode {mode:04o}: others on this machine can read the node's identity"
            ),
            format!("chmod 600 {path}"),
        ),
        (Err(KeyError::Io { source, .. }), _) if source.kind() == std::io::ErrorKind::NotFound => {
            Finding::problem(
                AREA,
                format!("there is no key {path}"),
                format!(
                    "restore it from a backup to {data} (owm-node restore), or make a new node: owm-node init --join <invite> --dir <folder>"
                ),
            )
        }
        (Err(KeyError::Io { source, .. }), _) => Finding::problem(
            AREA,
            format!("{path} can't be read: {source}"),
            format!("run as the user it belongs to: ls -l {path}"),
        ),
        (Err(KeyError::Malformed { .. }), _) => Finding::problem(
            AREA,
            format!("{path} holds no Ed25519 private key in PKCS#8 PEM"),
            format!(
                "restore {path} from a backup (owm-node restore); without one, make a new node: owm-node init --join <invite> --dir <folder>"
            ),
        ),
    }
}

/// Asks the public API whether the coordinator sees this key while no node runs here.
pub(super) async fn elsewhere(ground: Arc<Ground>, web_seed: Option<String>) -> Vec<Finding> {
    let from_invite = || ground.invite.as_ref()?.web_seed.clone();
    let base = web_seed.filter(|url| !url.is_empty()).or_else(from_invite);
    let (Some(base), Some(key)) = (base, ground.key.public()) else {
        return Vec::new();
    };
    let connected = match ground.daemon() {
        Daemon::Runs(_) => false,
        Daemon::Stopped => is_connected(&base, &key).await.unwrap_or(false),
    };
    judge_elsewhere(connected).into_iter().collect()
}

fn judge_elsewhere(connected: bool) -> Option<Finding> {
    let warning = Finding::warning(
        "identity.elsewhere",
        "the coordinator sees a session with this node's key, but no node runs here: it was stopped \
         within the last minute, or another machine has a copy of the key",
        "run doctor again in a minute; if it stays, stop the other one: a key must run once only",
    );
    connected.then_some(warning)
}

/// `None`: nobody to ask, or no answer that tells.
async fn is_connected(base: &str, key: &PublicKey) -> Option<bool> {
    let asking = ask_connected(base, key);
    tokio::time::timeout(ASK_TIME, asking).await.ok()?
}

async fn ask_connected(base: &str, key: &PublicKey) -> Option<bool> {
    let url = format!("{}/v1/nodes/{key}/status", base.trim_end_matches('/'));
    let http = Dialer::new(NetworkPolicy::Clearnet).http();
    let answer = http.get(&url, HeaderMap::new()).await.ok()?;
    let body = HttpClient::read_body(&url, answer, ANSWER_BYTES_MAX).await;
    let said: serde_json::Value = serde_json::from_slice(&body.ok()?).ok()?;
    said.get("connected")?.as_bool()
}

#[cfg(test)]
mod tests {
    use std::io;

    use owm_service::doctor::Level;

    use super::*;

    fn judged(key: Result<NodeKey, KeyError>, owners: (u32, u32)) -> Finding {
        let facts = KeyFacts {
            key,
            owners: Some(owners),
            folder: true,
        };
        judge_key(&facts, "d/node.pem", "d")
    }

    #[test]
    fn a_key_is_right_or_the_finding_says_how_to_put_it_right() {
        let path = || std::path::PathBuf::from("d/node.pem");
        let key = || Ok(NodeKey::from_seed(&[1; 32]));
        assert_eq!(judged(key(), (5, 5)).level, Level::Ok);
        let fix = |finding: Finding| (finding.level, finding.fix.unwrap());
        let (level, chown) = fix(judged(key(), (5, 0)));
        assert_eq!((level, &*chown), (Level::Problem, "chown 5 d/node.pem"));
        let exposed = KeyError::Exposed {
            path: path(),
            mode: 0o644,
        };
        let (level, chmod) = fix(judged(Err(exposed), (5, 5)));
        assert_eq!((level, &*chmod), (Level::Problem, "chmod 600 d/node.pem"));
        let missing = KeyError::Io {
            path: path(),
            source: io::ErrorKind::NotFound.into(),
        };
        assert!(
            fix(judged(Err(missing), (5, 5)))
                .1
                .contains("owm-node init")
        );
        let malformed = KeyError::Malformed { path: path() };
        assert!(
            fix(judged(Err(malformed), (5, 5)))
                .1
                .contains("owm-node restore")
        );
    }

    #[test]
    fn a_session_of_a_key_that_does_not_run_here_is_a_warning() {
        assert_eq!(judge_elsewhere(true).unwrap().level, Level::Warning);
        assert_eq!(judge_elsewhere(false), None);
    }
}
