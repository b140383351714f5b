//! What a node and a coordinator cost in steady state: members of one shard, nobody lies or leaves. The
//! program `owm-sim scale` calls it; docs/scale.md shows what it said.

use std::{fmt, time::Duration};

use owm_p2p::{
    Moment,
    gossip::{Rules, Topic, Verdict, limits::Limits},
};
use owm_proto::{Purpose, SignatureCheck, StrictEd25519};

use crate::{
    cost::Rates,
    dice::Dice,
    frame::Peer,
    identity::identity,
    lore::{Lore, heartbeat},
    scenario::Scenario,
    time::{At, PeerClock},
    world::World,
};

/// What a shard of so many nodes costs each of them.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Nodes of the shard.
    pub nodes: u32,
    /// Seconds before that, in which connections and meshes were made.
    pub warm: u64,
    /// Seconds that were measured.
    pub seconds: u64,
    /// The median node.
    pub median: Rates,
    /// The node with the most bytes in and out.
    pub busiest: Rates,
    /// The node that has all shards (of which there is one here) and many connections.
    pub coordinator: Rates,
    /// Share of nodes that the median node knows, in thousandths.
    pub known_permille: usize,
    /// Connections of the median node.
    pub connections: usize,
}

/// Runs a shard.
pub fn measure(seed: u64, nodes: u32, warm: u64, seconds: u64) -> Scale {
    let mut world = World::new(Scenario::steady(seed, nodes, warm, seconds));
    world.run_until(At::secs(warm));
    world.forget_costs();
    world.run_until(At::secs(warm + seconds));
    let span = Duration::from_secs(seconds);
    let rates = |peer: Peer| world.actor(peer).cost.rates(span);
    let mut all: Vec<Rates> = world.peers().skip(1).map(rates).collect();
    all.sort_by(|a, b| (a.bytes_in + a.bytes_out).total_cmp(&(b.bytes_in + b.bytes_out)));
    let mut known: Vec<usize> = world.knowledge().into_values().collect();
    known.sort_unstable();
    let mut connections: Vec<usize> = world.actors.iter().map(|a| a.linked.len()).collect();
    connections.sort_unstable();
    Scale {
        nodes,
        warm,
        seconds,
        median: all[all.len() / 2],
        busiest: all[all.len() - 1],
        coordinator: rates(Peer(0)),
        known_permille: known[known.len() / 2] * 1_000 / nodes as usize,
        connections: connections[connections.len() / 2],
    }
}

/// What one judgement computes: microseconds for a heartbeat whose signature is really checked, and for all
/// the rest of it.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    /// With the signature.
    pub checked_us: f64,
    /// Without.
    pub rest_us: f64,
}

/// A check that computes nothing.
struct Believe;

impl SignatureCheck for Believe {
    fn holds(&self, _: &owm_proto::PublicKey, _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
}

/// Measures it on this machine's clock, which `elapsed` reads.
pub fn judgement(count: u32, elapsed: impl Fn() -> Duration) -> Judgement {
    let lore = Lore::new(1, 60, 600);
    let at = PeerClock::default().moment(At::secs(60));
    let mut dice = Dice::new(1, 0);
    let messages: Vec<Vec<u8>> = (0..count)
        .map(|number| {
            let who = identity(number);
            let body = heartbeat(at.wall, None, dice.bytes());
            lore.sign(&who, Purpose::Heartbeat, &body).to_stored()
        })
        .collect();
    let judged = |check: &dyn SignatureCheck| {
        let limits = Limits {
            strangers_max: count as usize,
            ..Limits::default()
        };
        let me = identity(count + 1).public;
        let mut rules = Rules::new(&lore.documents, me, limits, at);
        let from = identity(count).public;
        let begin = elapsed();
        for message in &messages {
            let at = Moment { ..at };
            let judged = rules.judge(at, &from, Topic::Heartbeat(0), message, check);
            assert_eq!(judged.verdict, Verdict::Accept, "an honest heartbeat");
        }
        (elapsed() - begin).as_secs_f64() * 1e6 / f64::from(count)
    };
    Judgement {
        rest_us: judged(&Believe),
        checked_us: judged(&StrictEd25519),
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            warm,
            seconds,
            known_permille,
            connections,
            ..
        } = self;
        writeln!(
            f,
            "{nodes} nodes in one shard, {seconds} s measured after {warm} s; the median node knows \
             {known_permille} ‰ of them and has {connections} connections"
        )?;
        writeln!(
            f,
            "| | bytes/s in | out | frames/s | messages/s in | judged/s | signatures/s |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for (name, rates) in [
            ("median node", self.median),
            ("busiest node", self.busiest),
            ("coordinator", self.coordinator),
        ] {
            let Rates {
                bytes_in,
                bytes_out,
                frames,
                messages_in,
                judged,
                signatures,
            } = rates;
            writeln!(
                f,
                "| {name} | {bytes_in:.0} | {bytes_out:.0} | {frames:.1} | {messages_in:.1} | {judged:.1} | {signatures:.1} |"
            )?;
        }
        Ok(())
    }
}
