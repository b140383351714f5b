//! What a node and a coordinator cost in steady state: all are members, nobody lies or leaves. The
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

/// A network to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Nodes, the coordinator among them.
    pub nodes: u32,
    /// In so many shards, a power of two.
    pub shards: u32,
    /// One of so many nodes runs the rules and is looked at, the others forward only. 1: all.
    pub rules_one_of: u32,
    /// Seconds before it is measured, in which connections and meshes are made.
    pub warm: u64,
    /// Seconds that are measured.
    pub seconds: u64,
}

/// What a network of so many nodes costs each of them.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The network.
    pub plan: Plan,
    /// Nodes that were looked at.
    pub observed: usize,
    /// Nodes of the median node's shard, about.
    pub shard_nodes: u32,
    /// The median node.
    pub median: Rates,
    /// The node with the most bytes in and out.
    pub busiest: Rates,
    /// The node that has all shards and many connections.
    pub coordinator: Rates,
    /// Nodes that the median node knows.
    pub known: usize,
    /// Nodes that the coordinator knows.
    pub coordinator_knows: usize,
    /// Connections of the median node.
    pub connections: usize,
    /// Connections of the coordinator.
    pub coordinator_connections: usize,
}

/// Runs a network.
pub fn measure(seed: u64, plan: Plan) -> Scale {
    let Plan {
        nodes,
        shards,
        rules_one_of,
        warm,
        seconds,
    } = plan;
    let scenario = Scenario::steady(seed, (nodes, shards), rules_one_of, (warm, seconds));
    let mut world = World::new(scenario);
    world.run_until(At::secs(warm));
    world.forget_costs();
    world.run_until(At::secs(warm + seconds));
    let span = Duration::from_secs(seconds);
    let rates = |peer: Peer| world.actor(peer).cost.rates(span);
    let observed = world.peers().skip(1);
    let observed = observed.filter(|peer| world.scenario.has_rules(*peer));
    let mut all: Vec<Rates> = observed.map(rates).collect();
    all.sort_by(|a, b| (a.bytes_in + a.bytes_out).total_cmp(&(b.bytes_in + b.bytes_out)));
    let knowledge = world.knowledge().into_iter();
    let knowledge = knowledge.filter(|(peer, _)| world.scenario.has_rules(*peer));
    let (coordinators, others): (Vec<_>, Vec<_>) =
        knowledge.partition(|(peer, _)| *peer == Peer(0));
    let mut known: Vec<usize> = others.into_iter().map(|(_, known)| known).collect();
    known.sort_unstable();
    let mut connections: Vec<usize> = world.actors.iter().map(|a| a.linked.len()).collect();
    connections.sort_unstable();
    Scale {
        plan,
        observed: all.len(),
        shard_nodes: nodes / shards,
        median: all[all.len() / 2],
        busiest: all[all.len() - 1],
        coordinator: rates(Peer(0)),
        known: known[known.len() / 2],
        coordinator_knows: coordinators.first().map_or(0, |(_, known)| *known),
        connections: connections[connections.len() / 2],
        coordinator_connections: world.actor(Peer(0)).linked.len(),
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
            // One peer brings no more than half of them.
            strangers_max: 2 * count as usize,
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
        elapsed().saturating_sub(begin).as_secs_f64() * 1e6 / f64::from(count)
    };
    Judgement {
        rest_us: judged(&Believe),
        checked_us: judged(&StrictEd25519),
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            nodes,
            shards,
            warm,
            seconds,
            ..
        } = self.plan;
        let (observed, known, connections) = (self.observed, self.known, self.connections);
        writeln!(
            f,
            "{nodes} nodes in {shards} shards, {seconds} s measured after {warm} s, {observed} nodes and the \
             coordinator looked at; the median node knows {known} of the {} of its shard and has {connections} \
             connections, the coordinator knows {} and has {}",
            self.shard_nodes, self.coordinator_knows, self.coordinator_connections
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
