//! Peers of former runs: with them a node finds its way back in when nobody else answers. Pure but for
//! [`Remembered::load`]; `runner` writes what [`Remembered::take_changed`] gives.
//! Must stay true: bounded; a damaged file is an empty one; only peers that were connected are remembered,
//! at addresses that they announce (where one came in from says nothing).

use std::{collections::BTreeMap, path::Path};

use owm_p2p::{Multiaddr, SwarmView, multiaddr::Protocol, peer::identity::peer_id};
use owm_proto::{PublicKey, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::home::read_small;

/// Peers remembered: any one is enough, and most will have moved.
const PEERS_MAX: usize = 64;
/// Addresses of each.
const ADDRESSES_MAX: usize = 4;
/// Announcements that are kept until their node is seen connected.
const HEARD_MAX: usize = 4_096;
/// The file: 64 peers with four addresses of at most 256 bytes stay below.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Between two changes of the time at which a connected peer was seen.
const SEEN_EVERY_MS: u64 = 10 * 60 * 1_000;

/// The remembered peers.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    peers: BTreeMap<PublicKey, Peer>,
    heard: BTreeMap<PublicKey, Vec<Multiaddr>>,
    changed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Peer {
    addresses: Vec<Multiaddr>,
    seen_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    peers: BTreeMap<PublicKey, Peer>,
}

/// What the file is; another number is another format.
const FORMAT: u32 = 1;

impl Remembered {
    /// Reads the file; without one, or with a damaged one, nobody is remembered.
    pub(super) fn load(path: &Path) -> Self {
        let bytes = match read_small(path, FILE_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Self::default(),
            Err(error) => {
                tracing::warn!(%error, "remembered peers are not used; the file is written anew");
                return Self::default();
            }
        };
        Self::read(&bytes).unwrap_or_else(|| {
            tracing::warn!(file = %path.display(), "remembered peers are damaged; the file is written anew");
            Self::default()
        })
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(bytes).ok()?;
        if file.format != FORMAT || file.peers.len() > PEERS_MAX {
            return None;
        }
        Some(Self {
            peers: file.peers,
            ..Self::default()
        })
    }

    /// Where they were, each address with its `/p2p`; those seen last first.
    pub(super) fn addresses(&self) -> Vec<Multiaddr> {
        let mut peers: Vec<_> = self.peers.iter().collect();
        peers.sort_by_key(|(_, peer)| std::cmp::Reverse(peer.seen_at_ms));
        let named = peers.into_iter().filter_map(|(key, peer)| {
            let id = peer_id(key)?;
            let addresses = peer.addresses.iter().take(ADDRESSES_MAX);
            Some(addresses.map(move |address| address.clone().with(Protocol::P2p(id))))
        });
        named.flatten().collect()
    }

    /// A node announces where it can be reached.
    pub(super) fn heard(&mut self, node: &PublicKey, addresses: &[Vec<u8>]) {
        let parse = |bytes: &Vec<u8>| Multiaddr::try_from(bytes.clone()).ok();
        let addresses: Vec<_> = addresses
            .iter()
            .filter_map(parse)
            .take(ADDRESSES_MAX)
            .collect();
        if self.heard.len() < HEARD_MAX || self.heard.contains_key(node) {
            self.heard.insert(*node, addresses);
        }
    }

    /// These are connected now.
    pub(super) fn saw(&mut self, view: &SwarmView, now: UnixMillis) {
        for peer in &view.peers {
            let Some(addresses) = self.heard.get(&peer.key).filter(|a| !a.is_empty()) else {
                continue;
            };
            let is_fresh = self.peers.get(&peer.key).is_some_and(|known| {
                known.addresses == *addresses && now.0 < known.seen_at_ms + SEEN_EVERY_MS
            });
            if !is_fresh {
                let known = Peer {
                    addresses: addresses.clone(),
                    seen_at_ms: now.0,
                };
                self.peers.insert(peer.key, known);
                self.changed = true;
            }
        }
        while self.peers.len() > PEERS_MAX {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.seen_at_ms);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.peers.remove(&oldest);
        }
        // Whoever is not connected is heard again.
        self.heard
            .retain(|key, _| view.nodes.iter().any(|node| node.key == *key));
    }

    /// What to write, if anything has changed since.
    pub(super) fn take_changed(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let file = File {
            format: FORMAT,
            peers: self.peers.clone(),
        };
        Some(serde_json::to_vec(&file).expect("remembered peers are plain JSON"))
    }
}

#[cfg(test)]
mod tests {
    use owm_p2p::view::{NodeView, PeerView, Reachability};
    use owm_proto::{NodeKey, gossip::Bootstrap};

    use super::*;

    fn key(n: u8) -> PublicKey {
        NodeKey::from_seed(&[n; 32]).public()
    }

    fn view(connected: impl IntoIterator<Item = u8>) -> SwarmView {
        let peer = |n| PeerView {
            key: key(n),
            address: "/ip4/203.0.113.9/tcp/50123".parse().unwrap(),
            relayed: false,
            round_trip: None,
            score: 0.0,
            member: true,
        };
        let peers: Vec<_> = connected.into_iter().map(peer).collect();
        let node = |peer: &PeerView| NodeView {
            key: peer.key,
            tier: None,
            heard_at_ms: UnixMillis(0),
            running_tasks: 0,
            holds: vec![],
            roles: vec![],
            software_version: String::new(),
            checkpoint_sequence: 0,
            connected: true,
        };
        SwarmView {
            peer: peer_id(&key(250)).unwrap(),
            listening: vec![],
            external: vec![],
            reachability: Reachability::Unknown,
            nodes: peers.iter().map(node).collect(),
            peers,
            checkpoint: None,
            parameters: Bootstrap::before_any(),
            sources: vec![],
            warnings: vec![],
        }
    }

    fn announced(n: u8) -> Vec<Vec<u8>> {
        let address: Multiaddr = format!("/ip4/203.0.113.{n}/tcp/4001").parse().unwrap();
        vec![address.to_vec(), b"no address".to_vec()]
    }

    #[test]
    fn connected_peers_are_remembered_where_they_say_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.json");
        let mut remembered = Remembered::load(&path);
        remembered.heard(&key(1), &announced(1));
        remembered.heard(&key(2), &announced(2));
        remembered.saw(&view([1, 3]), UnixMillis(5));
        let bytes = remembered.take_changed().unwrap();
        remembered.saw(&view([1]), UnixMillis(6));
        assert_eq!(remembered.take_changed(), None, "nothing worth a write");
        std::fs::write(&path, bytes).unwrap();
        let id = peer_id(&key(1)).unwrap();
        let expected = format!("/ip4/203.0.113.1/tcp/4001/p2p/{id}");
        let again = Remembered::load(&path).addresses();
        assert_eq!(again, [expected.parse().unwrap()]);
    }

    #[test]
    fn who_was_seen_longest_ago_gives_way() {
        let mut remembered = Remembered::default();
        for n in 0..=u8::try_from(PEERS_MAX).unwrap() {
            remembered.heard(&key(n), &announced(n));
            remembered.saw(&view([n]), UnixMillis(u64::from(n) + 1));
        }
        assert_eq!(remembered.peers.len(), PEERS_MAX);
        assert!(!remembered.peers.contains_key(&key(0)));
    }

    #[test]
    fn a_damaged_file_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.json");
        for damaged in [
            &b"{\"format\":1,"[..],
            b"",
            b"\xff",
            b"{\"format\":9,\"peers\":{}}",
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Remembered::load(&path).addresses(), []);
        }
        std::fs::write(&path, vec![b' '; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(Remembered::load(&path).addresses(), []);
    }
}
