//! Feeds arbitrary bytes to the gossip rules, as a message and as the payload of a message whose signature
//! holds, and to what reads the first exchange between peers.
//!
//! Run with `deploy/fuzz.sh 60 gossip`. What must stay true: no panic, bounded
//! tables, nothing believed that nobody signed.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use owm_p2p::{
    Documents, Limits, Moment, Rules,
    gossip::{Topic, Verdict},
    meet,
};
use owm_proto::{
    Envelope, PublicKey, Purpose, Sha256, SignatureCheck, StrictEd25519, UnixMillis,
    genesis::NetworkId,
    limits::MEET_WANTED_MAX,
    wire::{
        coordinator::SignedEnvelope,
        gossip::{MeetRequest, MeetResponse},
    },
};
use prost::Message as _;

/// As if every message were signed.
struct Trusting;

impl SignatureCheck for Trusting {
    fn holds(&self, _: &PublicKey, _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
}

const PEER: PublicKey = PublicKey([2; 32]);
const AT: Moment = Moment {
    wall: UnixMillis(1_800_000_000_000),
    monotonic: Duration::from_secs(1_000),
};

fn rules() -> Rules {
    let network = NetworkId(Sha256([1; 32]));
    Rules::without_documents(network, PublicKey([3; 32]), Limits::default(), AT)
}

fn bounded(rules: &Rules) {
    let (members, strangers) = rules.directory().len();
    assert!(members <= 1 && strangers <= 1_024);
    assert!(rules.directory().bytes() <= Limits::default().capability_bytes_max);
    // What is shown and told on can be made of whatever was believed.
    let nodes = rules.directory().nodes(AT);
    let told = rules.introductions(AT, &[], 16, 1 << 20);
    assert!(told.len() <= nodes.len());
    for node in nodes {
        let _addresses = rules.directory().addresses(AT, &node.key);
    }
}

fn told(envelopes: impl IntoIterator<Item = SignedEnvelope>) {
    let mut rules = rules();
    for envelope in envelopes {
        if let Ok(envelope) = Envelope::try_from(envelope) {
            let _judged = rules.judge_told(AT, &PEER, envelope, &Trusting);
        }
    }
    bounded(&rules);
}

fn envelopes(wire: Vec<SignedEnvelope>) -> Vec<Envelope> {
    wire.into_iter().filter_map(|e| e.try_into().ok()).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    let (topic, purpose) = match choice % 3 {
        0 => (Topic::Heartbeat(0), Purpose::Heartbeat),
        1 => (Topic::Capability(0), Purpose::Capability),
        _ => (Topic::Checkpoint, Purpose::Checkpoint),
    };
    let judged = rules().judge(AT, &PEER, topic, bytes, &StrictEd25519);
    assert_ne!(judged.verdict, Verdict::Accept);

    let signed = Envelope::from_parts(purpose, PublicKey([4; 32]), [5; 64], bytes.to_vec());
    let mut rules = rules();
    let _judged = rules.judge(AT, &PEER, topic, &signed.to_stored(), &Trusting);
    bounded(&rules);

    if let Ok(question) = MeetRequest::decode(bytes) {
        assert!(meet::wanted(&question).len() <= MEET_WANTED_MAX);
        told(question.capability.into_iter().chain(question.checkpoint));
    }
    if let Ok(answer) = MeetResponse::decode(bytes) {
        let _documents = Documents::verify(
            None,
            answer.genesis,
            envelopes(answer.delegations),
            envelopes(answer.revocations),
            answer.bootstrap.and_then(|e| e.try_into().ok()),
            answer.web_seed,
            AT.wall,
        );
        told(answer.capabilities.into_iter().chain(answer.checkpoint));
    }
});
