//! How far a fetch is, as it goes over the control socket and to the command that shows it.

use owm_proto::VersionId;
use serde::{Deserialize, Serialize};

use crate::{models::bring::Came, swarm::Gave};

/// How far a fetch is, and who gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchPicture {
    /// The version, once it is known.
    pub version: Option<VersionId>,
    /// What it does, if that is not fetching.
    pub doing: String,
    /// Bytes of its files that are here.
    pub bytes: u64,
    /// All of them.
    pub total: u64,
    /// Who has given something.
    pub sources: Vec<SourcePicture>,
    /// What people should know: damage, failures that are tried again.
    pub remarks: Vec<String>,
    /// How it ended.
    pub ended: Option<Result<Fetched, String>>,
}

/// One who gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePicture {
    /// Its name in the swarm; `None`: the web seed.
    pub peer: Option<String>,
    /// Bytes that it has given.
    pub bytes: u64,
    /// Bytes a second of late.
    pub bytes_per_s: u64,
}

/// A version that is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Which.
    pub version: VersionId,
    /// Its manifest's sequence.
    pub sequence: u64,
    /// What has to be said wherever it is shown.
    pub note: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// What was damaged before.
    pub damaged: Vec<String>,
}

impl FetchPicture {
    pub(super) fn take(&mut self, came: &Came) {
        self.doing.clear();
        self.bytes = came.here;
        for source in &mut self.sources {
            source.bytes_per_s = 0;
        }
        for Gave {
            peer,
            bytes,
            bytes_per_s,
        } in came.gave.iter().copied()
        {
            let peer = peer.map(|peer| peer.to_string());
            match self.sources.iter_mut().find(|s| s.peer == peer) {
                Some(source) => {
                    source.bytes += bytes;
                    source.bytes_per_s = bytes_per_s;
                }
                None if bytes > 0 => self.sources.push(SourcePicture {
                    peer,
                    bytes,
                    bytes_per_s,
                }),
                None => {}
            }
        }
    }

    /// Bytes that peers have given, how many of them, and bytes of the web seed.
    pub fn given(&self) -> (u64, usize, u64) {
        let peers = self.sources.iter().filter(|source| source.peer.is_some());
        let web = self.sources.iter().filter(|source| source.peer.is_none());
        let web = web.map(|source| source.bytes).sum();
        let bytes = peers.clone().map(|source| source.bytes).sum();
        (bytes, peers.count(), web)
    }
}
