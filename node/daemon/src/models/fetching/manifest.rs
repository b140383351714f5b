//! Which version is fetched: the coordinator's word; without it what peers have told or what lies on the disk.
//! Must stay true: the newest never goes back below what this node has had; a version that is named may.

use std::time::Duration;

use owm_proto::{
    UnixMillis, VersionId,
    wire::coordinator::{GetModelVersionRequest, GetModelVersionResponse},
};
use owm_service::report::Chain;
use tokio::sync::watch;

use super::{
    CallError, FetchPicture, GetError, Getter, NetworkError, Origin, SEQUENCE, SignedManifest,
    in_order,
};
use crate::{
    daemon::{JoinError, fetch_network},
    models::ManifestRefused,
    network::Known,
};

/// Time for peers to tell of the network, and of its newest version.
const PEERS_TELL: Duration = Duration::from_secs(20);
/// The same, where the disk knows a version.
const PEERS_TELL_MORE: Duration = Duration::from_secs(5);

/// Why no version is fetched.
#[derive(Debug, thiserror::Error)]
pub enum NoManifest {
    /// Nobody has told of the network.
    #[error("the network is not known yet: {}, and {away}", asked_peers(*.peers))]
    NoNetwork {
        /// Whether peers were asked.
        peers: bool,
        /// In what way the coordinator is away.
        away: &'static str,
        /// What the coordinator said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The coordinator is away, and nobody else knows.
    #[error(
        "{away}, no peer has told of a version{}, and none lies here",
        named.as_ref().map(|named| format!(" {named}")).unwrap_or_default()
    )]
    Unknown {
        /// In what way.
        away: &'static str,
        /// Which was wanted.
        named: Option<VersionId>,
        /// What the coordinator said, or what its key is.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The coordinator says no.
    #[error(transparent)]
    Call(CallError),
    /// The coordinator's key does not hold.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// It does not hold.
    #[error(transparent)]
    Refused(ManifestRefused),
}

fn asked_peers(peers: bool) -> &'static str {
    if peers {
        "no peer has told of it"
    } else {
        "no peer is named in the invite or the configuration"
    }
}

/// Why the coordinator is not asked for more.
pub(super) enum Away {
    /// It does not answer.
    Call(CallError),
    /// It may answer; its key was taken back or has run out.
    Key(NetworkError),
}

impl Away {
    const fn words(&self) -> &'static str {
        match self {
            Self::Call(_) => "the coordinator does not answer",
            Self::Key(_) => {
                "the coordinator's key is not delegated by the network's root key, so it is not asked"
            }
        }
    }

    fn into_source(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Self::Call(error) => Box::new(error),
            Self::Key(error) => Box::new(error),
        }
    }
}

impl Getter {
    /// Learns what the coordinator says of the network, or waits for a peer's word; the web seeds, the likeliest
    /// first, and why the coordinator is not asked for more.
    pub(super) async fn learn_network(
        &self,
        shown: &watch::Sender<FetchPicture>,
    ) -> Result<(Vec<String>, Option<Away>), NoManifest> {
        let away = match self.ask_network().await {
            Ok(web_seed) => Ok(web_seed),
            Err(JoinError::Call(error)) => Err(Away::Call(error)),
            // Others may know the network and its newest version as well.
            Err(JoinError::Network(error @ NetworkError::NotDelegated)) => Err(Away::Key(error)),
            Err(JoinError::Network(error)) => return Err(error.into()),
        };
        let (said, away) = match away {
            Ok(web_seed) => (Some(web_seed), None),
            Err(away) => (None, Some(self.wait_for_network(away, shown).await?)),
        };
        let known = self.known();
        let of_network = known.as_ref().map(|known| known.network.web_seed.clone());
        let of_network = of_network.unwrap_or_default();
        let is_coordinators = known.is_some_and(|known| known.from == Origin::Coordinator);
        let invited = self.invite.web_seed.as_deref();
        let mut urls = in_order(&of_network, invited, is_coordinators);
        // What it says now comes first.
        if let Some(said) = said.filter(|said| !said.is_empty()) {
            urls.retain(|url| *url != said);
            urls.insert(0, said);
        }
        Ok((urls, away))
    }

    fn known(&self) -> Option<std::sync::Arc<Known>> {
        self.book.known()
    }

    /// At whichever of the invite's addresses answers; the web seed that it names.
    async fn ask_network(&self) -> Result<String, JoinError> {
        let mut asked = 0;
        loop {
            asked += 1;
            match fetch_network(&self.coordinator, &self.invite, &self.clock).await {
                Ok(network) => {
                    let web_seed = network.web_seed.clone();
                    let (book, now) = (self.book.clone(), UnixMillis(self.clock.now_ms()));
                    let learn = move || book.learn(network, Origin::Coordinator, now);
                    if let Ok(learnt) = tokio::task::spawn_blocking(learn).await {
                        // Which may take the coordinator's key back.
                        learnt?.network.check_instance(&self.invite, now)?;
                    }
                    return Ok(web_seed);
                }
                // The next call goes to the next address.
                Err(JoinError::Call(_)) if asked < self.invite.addresses.len() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn wait_for_network(
        &self,
        away: Away,
        shown: &watch::Sender<FetchPicture>,
    ) -> Result<Away, NoManifest> {
        let mut following = self.book.follow();
        if following.borrow().is_some() {
            return Ok(away);
        }
        if self.has_peers {
            say(shown, &format!("{}; asking peers", away.words()));
            let told = following.wait_for(Option::is_some);
            if let Ok(Ok(_)) = tokio::time::timeout(PEERS_TELL, told).await {
                return Ok(away);
            }
        }
        Err(NoManifest::NoNetwork {
            peers: self.has_peers,
            away: away.words(),
            source: away.into_source(),
        })
    }

    /// The manifest of `version`, or of the newest.
    pub(super) async fn manifest(
        &self,
        version: Option<&VersionId>,
        away: Option<Away>,
        shown: &watch::Sender<FetchPicture>,
    ) -> Result<SignedManifest, GetError> {
        // Who names a version may go back; the newest never does.
        let known = match version {
            None => self.log.run(|log| log.number(SEQUENCE)).await?,
            Some(_) => None,
        };
        let said = match away {
            Some(Away::Call(error)) => Err(NoManifest::Call(error)),
            Some(Away::Key(error)) => Err(NoManifest::Network(error)),
            None => self.ask_manifest(version, known).await,
        };
        let said = match said {
            // It is away, or can't say (its database is): peers or this disk may.
            Err(NoManifest::Call(error)) if !is_final(&error) => {
                self.without_coordinator(version, known, Away::Call(error), shown)
                    .await?
            }
            Err(NoManifest::Network(error @ NetworkError::NotDelegated)) => {
                self.without_coordinator(version, known, Away::Key(error), shown)
                    .await?
            }
            // It is behind the swarm, or behind what this node has had.
            Err(NoManifest::Refused(older @ ManifestRefused::Older { .. })) => {
                let ours = self.heard(known).or_else(|| self.newest_here(known));
                ours.ok_or(NoManifest::Refused(older))?
            }
            said => said?,
        };
        let newer = self
            .heard(known)
            .filter(|heard| version.is_none() && heard.manifest.sequence > said.manifest.sequence);
        Ok(newer.unwrap_or(said))
    }

    async fn ask_manifest(
        &self,
        version: Option<&VersionId>,
        known: Option<u64>,
    ) -> Result<SignedManifest, NoManifest> {
        if let Some(network) = self.known() {
            let now = UnixMillis(self.clock.now_ms());
            network.network.check_instance(&self.invite, now)?;
        }
        let request = GetModelVersionRequest {
            version: version.map(ToString::to_string).unwrap_or_default(),
        };
        let answer = self.coordinator.get_model_version(request).await;
        self.verified(answer.map_err(NoManifest::Call)?, known)
    }

    fn verified(
        &self,
        wire: GetModelVersionResponse,
        known: Option<u64>,
    ) -> Result<SignedManifest, NoManifest> {
        let now = UnixMillis(self.clock.now_ms());
        // Learnt before anything else is asked.
        let network = self.known().ok_or_else(|| NetworkError::Missing {
            folder: String::from("this node's folder"),
        })?;
        let trust = &network.network.trust;
        SignedManifest::verify(wire, trust, now, known).map_err(NoManifest::Refused)
    }

    /// What peers know, if it holds.
    fn heard(&self, known: Option<u64>) -> Option<SignedManifest> {
        let heard = self.heard.borrow().clone()?;
        let wire = GetModelVersionResponse {
            manifest: Some((&heard.manifest_envelope).into()),
            note: String::new(),
        };
        self.verified(wire, known).ok()
    }

    fn newest_here(&self, known: Option<u64>) -> Option<SignedManifest> {
        let network = self.known()?;
        let path = self.fetcher.shelf.newest();
        let kept = SignedManifest::load(&path, &network.network.trust);
        let kept = kept.ok().flatten()?;
        (Some(kept.manifest.sequence) >= known).then_some(kept)
    }

    /// A version that was fetched once, or that peers call the newest.
    fn named(&self, version: &VersionId) -> Option<SignedManifest> {
        let network = self.known()?;
        let path = self.fetcher.shelf.manifest(version);
        let kept = SignedManifest::load(&path, &network.network.trust);
        let others = [self.heard(None), self.newest_here(None)];
        let all = [kept.ok().flatten()].into_iter().chain(others).flatten();
        all.into_iter()
            .find(|signed| signed.manifest.version == *version)
    }

    async fn without_coordinator(
        &self,
        version: Option<&VersionId>,
        known: Option<u64>,
        away: Away,
        shown: &watch::Sender<FetchPicture>,
    ) -> Result<SignedManifest, NoManifest> {
        match &away {
            Away::Call(error) => {
                tracing::info!(error = %Chain(error), "the coordinator does not answer");
            }
            Away::Key(error) => {
                tracing::warn!(error = %Chain(error), "the coordinator is not asked");
                let text = format!(
                    "{}: going by what peers and this disk know; {error}",
                    away.words()
                );
                shown.send_modify(|picture| picture.remarks.push(text));
            }
        }
        let find = || match version {
            Some(version) => self.named(version),
            None => self.heard(known),
        };
        let mut heard = self.heard.clone();
        let here = self.newest_here(known).filter(|_| version.is_none());
        let patience = match here {
            Some(_) => PEERS_TELL_MORE,
            None => PEERS_TELL,
        };
        if find().is_none() && self.has_peers {
            let text = format!("{}; asking peers which version is the newest", away.words());
            say(shown, &text);
            let told = async { while find().is_none() && heard.changed().await.is_ok() {} };
            // In time or not: the disk may know.
            drop(tokio::time::timeout(patience, told).await);
        }
        let newest =
            |a: &SignedManifest, b: &SignedManifest| a.manifest.sequence.cmp(&b.manifest.sequence);
        let found = find().into_iter().chain(here).max_by(newest);
        found.ok_or(NoManifest::Unknown {
            away: away.words(),
            named: version.cloned(),
            source: away.into_source(),
        })
    }
}

fn say(shown: &watch::Sender<FetchPicture>, text: &str) {
    shown.send_modify(|picture| text.clone_into(&mut picture.doing));
}

/// Whether what the coordinator says is its last word: there is no such version.
fn is_final(error: &CallError) -> bool {
    use tonic::Code;
    let CallError::Refused { code, .. } = error else {
        return false;
    };
    matches!(code, Code::NotFound | Code::InvalidArgument)
}
