//! The signed sign of life (spec §5, class state; §6). `daemon` sends it on the link or by a call, `swarm`
//! by gossip: one purpose, one sequence.
//! Must stay true: the sequence is stored before the envelope leaves, so it never repeats.

use std::time::Duration;

use owm_p2p::OwnMessage;
use owm_proto::{
    NodeKey, Purpose, SessionId, UnixMillis, genesis::NetworkId, wire::coordinator::HeartbeatBody,
};
use prost::Message as _;

use crate::tasklog::{TaskLog, TaskLogError};

/// How long it may be under way; by gossip three periods, if that is longer.
pub const TIME: Duration = Duration::from_mins(5);
/// The sequence's name in the log.
const SEQUENCE: &str = "sequence owm/heartbeat/v1";

/// What it says.
#[derive(Clone, Debug)]
pub struct Beat {
    /// This process.
    pub session: SessionId,
    /// Tasks under way.
    pub running: u32,
    /// Weights loaded, hex.
    pub loaded: Vec<String>,
}

impl Beat {
    /// Takes the next sequence and signs. Blocks on the log.
    pub fn sign(
        self,
        key: &NodeKey,
        network: &NetworkId,
        log: &TaskLog,
        now: UnixMillis,
        time: Duration,
    ) -> Result<OwnMessage, TaskLogError> {
        let issued_at = now.rounded_for_state();
        let sequence = log.take_sequence(SEQUENCE, issued_at)?;
        let body = HeartbeatBody {
            issued_at_ms: issued_at.0,
            expires_at_ms: issued_at.after(time).0,
            sequence,
            session_id: self.session.0.to_vec(),
            running_tasks: self.running,
            loaded_sha256: self.loaded,
        };
        Ok(OwnMessage::sign(
            key,
            Purpose::Heartbeat,
            network,
            body.encode_to_vec(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::{Sha256, SignerRule};

    use super::*;

    #[test]
    fn sequences_rise_and_times_are_rounded() {
        let (key, log) = (NodeKey::from_seed(&[1; 32]), TaskLog::in_memory().unwrap());
        let network = NetworkId(Sha256::of(b"n"));
        let beat = Beat {
            session: SessionId([1; 16]),
            running: 0,
            loaded: vec![],
        };
        let body = |now| {
            let envelope = beat
                .clone()
                .sign(&key, &network, &log, UnixMillis(now), TIME)
                .unwrap()
                .into_envelope();
            let rule = SignerRule::Exactly(&key.public());
            let verified = envelope.verify(Purpose::Heartbeat, &network, rule).unwrap();
            verified.protobuf::<HeartbeatBody>().unwrap()
        };
        let (one, two) = (body(120_500), body(121_000));
        assert_eq!((one.issued_at_ms, one.expires_at_ms), (120_000, 420_000));
        assert_eq!((one.sequence, two.sequence), (120_000, 120_001));
    }
}
