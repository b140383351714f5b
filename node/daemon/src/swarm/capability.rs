//! What this node is, signed for its peers (spec §5, class state; §7): what it has, does and holds.
//! `announce` sends it. Pure but for the sequence.
//! Must stay true: the sequence is stored before the envelope leaves, so it never repeats.

use std::time::Duration;

use owm_p2p::{Multiaddr, OwnMessage, multiaddr::Protocol, peer::group::is_for_everybody};
use owm_proto::{
    Envelope, NodeKey, Purpose, SessionId, Sha256, UnixMillis,
    genesis::NetworkId,
    limits::{ADDRESSES_MAX, HOLDS_MAX},
    wire::{coordinator::Capabilities, gossip::CapabilityBody},
};
use prost::Message as _;

use crate::tasklog::{TaskLog, TaskLogError};

/// The sequence's name in the log.
const SEQUENCE: &str = "sequence owm/capability/v1";
/// It is believed for at least so long, and for three periods.
const TIME_MIN: Duration = Duration::from_mins(5);

/// What is said of this node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Portrait {
    /// This process.
    pub session: SessionId,
    /// What the machine has, within the operator's caps.
    pub capabilities: Capabilities,
    /// `infer`, if it takes questions.
    pub roles: Vec<String>,
    /// Where it can be reached.
    pub addresses: Vec<Multiaddr>,
    /// Complete files.
    pub holds: Vec<Sha256>,
    /// Of the newest checkpoint it has verified, 0: none.
    pub checkpoint_sequence: u64,
    /// What the coordinator has signed for it.
    pub membership: Option<Envelope>,
    /// Whether it carries connections for peers behind NAT.
    pub relay: bool,
}

impl Portrait {
    /// Takes the next sequence and signs. Blocks on the log.
    pub(super) fn sign(
        self,
        key: &NodeKey,
        network: &NetworkId,
        log: &TaskLog,
        now: UnixMillis,
        period: Duration,
    ) -> Result<OwnMessage, TaskLogError> {
        let issued_at = now.rounded_for_state();
        let sequence = log.take_sequence(SEQUENCE, issued_at)?;
        let holds = self.holds.iter().take(HOLDS_MAX);
        let addresses = self.addresses.iter().take(ADDRESSES_MAX);
        let body = CapabilityBody {
            issued_at_ms: issued_at.0,
            expires_at_ms: issued_at.after((period * 3).max(TIME_MIN)).0,
            sequence,
            session_id: self.session.0.to_vec(),
            software_version: crate::VERSION.to_owned(),
            capabilities: Some(self.capabilities),
            roles: self.roles,
            addresses: addresses.map(Multiaddr::to_vec).collect(),
            holds: holds.map(|sha256| sha256.as_bytes().to_vec()).collect(),
            checkpoint_sequence: self.checkpoint_sequence,
            membership: self.membership.as_ref().map(Into::into),
            relay: self.relay,
        };
        let payload = body.encode_to_vec();
        Ok(OwnMessage::sign(key, Purpose::Capability, network, payload))
    }
}

/// Which addresses the network is told: those known to be reachable from outside, those the operator has named
/// (`external`), and public ones of this machine. A private address would tell the whole world about a home
/// network and help nobody outside of it: who wants it told puts it into `external`; neighbours find each other
/// by mDNS. On loopback, all.
pub(super) fn told(
    listening: &[Multiaddr],
    external: &[Multiaddr],
    is_loopback_net: bool,
) -> Vec<Multiaddr> {
    let mut told: Vec<Multiaddr> = Vec::new();
    let public = |address: &&Multiaddr| is_loopback_net || is_for_everybody(address);
    for address in external.iter().chain(listening.iter().filter(public)) {
        let bare = without_own_peer(address);
        if !told.contains(&bare) && told.len() < ADDRESSES_MAX {
            told.push(bare);
        }
    }
    told
}

/// Without the `/p2p/<us>` at its end; a relay's name inside stays.
fn without_own_peer(address: &Multiaddr) -> Multiaddr {
    let mut bare = address.clone();
    if matches!(bare.iter().last(), Some(Protocol::P2p(_))) {
        bare.pop();
    }
    bare
}

#[cfg(test)]
mod tests {
    use owm_proto::SignerRule;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_home_network_is_told_to_nobody_unless_the_operator_says_so() {
        let [public, lan, own, cgnat] = [
            "/ip4/9.9.9.7/tcp/4001",
            "/ip4/192.168.1.5/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/100.64.3.4/tcp/4001",
        ];
        let check = |listening: &[&str], external: &[&str], expected: &[&str]| {
            let told = told(&addresses(listening), &addresses(external), false);
            assert_eq!(told, addresses(expected));
        };
        check(&[own, lan, public], &[], &[public]);
        check(&[own, lan], &[public], &[public]);
        check(&[own, lan, cgnat, "/ip6/fd00::1/tcp/4001"], &[], &[]);
        check(
            &[
                "/ip6/::ffff:192.168.1.5/tcp/4001",
                "/ip4/203.0.113.7/tcp/4001",
            ],
            &[],
            &[],
        );
        check(&[own, lan], &[lan], &[lan]);
        let own = addresses(&[own]);
        assert_eq!(told(&own, &[], true), own);
    }

    #[test]
    fn the_own_name_is_left_out_of_an_address_and_a_relays_is_not() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let relayed = format!("/ip4/198.51.100.7/tcp/4001/p2p/{peer}/p2p-circuit");
        let texts = [
            format!("{relayed}/p2p/{peer}"),
            format!("/ip4/198.51.100.8/tcp/1/p2p/{peer}"),
        ];
        let external: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let told = told(&[], &external, false);
        assert_eq!(told, addresses(&[&relayed, "/ip4/198.51.100.8/tcp/1"]));
    }

    #[test]
    fn a_portrait_is_signed_under_rising_sequences_and_rounded_times() {
        let (key, log) = (NodeKey::from_seed(&[1; 32]), TaskLog::in_memory().unwrap());
        let network = NetworkId(Sha256::of(b"n"));
        let portrait = Portrait {
            session: SessionId([1; 16]),
            capabilities: Capabilities::default(),
            roles: vec!["infer".into()],
            addresses: addresses(&["/ip4/198.51.100.7/tcp/4001"]),
            holds: vec![Sha256::of(b"file")],
            checkpoint_sequence: 3,
            membership: None,
            relay: true,
        };
        let body = |now| {
            let period = Duration::from_mins(10);
            let portrait = portrait.clone();
            let signed = portrait.sign(&key, &network, &log, UnixMillis(now), period);
            let rule = SignerRule::Exactly(&key.public());
            let envelope = signed.unwrap().into_envelope();
            let verified = envelope
                .verify(Purpose::Capability, &network, rule)
                .unwrap();
            verified.protobuf::<CapabilityBody>().unwrap()
        };
        let (one, two) = (body(120_500), body(121_000));
        assert_eq!((one.issued_at_ms, one.expires_at_ms), (120_000, 1_920_000));
        assert_eq!((one.sequence, two.sequence), (120_000, 120_001));
        assert_eq!(one.holds, [Sha256::of(b"file").as_bytes().to_vec()]);
    }
}
