//! How many heartbeats a core verifies: one thread, distinct valid heartbeats of a full shard's members, as
//! they arrive by gossip, through the rules that every peer applies. Beside it what nobody can do without:
//! the bare signature check of the same messages.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use owm_p2p::{
    Limits, Moment, Rules,
    gossip::{Topic, Verdict},
};
use owm_proto::{Envelope, NodeKey, PublicKey, Purpose, SignerRule, StrictEd25519, UnixMillis};
use owm_service::clock::SystemClock;
use prost::Message as _;
use serde_json::json;

use crate::{
    gossip::{peer, world::World},
    report::{self, Spread},
};

/// Members of the shard: what one is designed for.
const KEYS: usize = 1_000;

/// Peers that forward, in turn.
const FORWARDERS: usize = 12;

/// How much is folded.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FoldArgs {
    /// Heartbeats of each member in one measurement.
    #[arg(long, default_value_t = 20)]
    fold_beats: u64,
    /// Measurements, in turns with the bare check.
    #[arg(long, default_value_t = 5)]
    fold_rounds: usize,
}

/// A shard's members and what they say.
struct Shard {
    world: World,
    start: UnixMillis,
    keys: Vec<NodeKey>,
    forwarders: Vec<PublicKey>,
    /// One minute's heartbeats of all members after the other's, as they travel.
    messages: Vec<(UnixMillis, Vec<u8>)>,
}

/// Prints heartbeats per second of one core.
pub(crate) fn run(args: FoldArgs) -> Result<()> {
    let shard = Shard::new(KEYS, args.fold_beats)?;
    println!(
        "## Heartbeats verified by one core: {KEYS} members, {} heartbeats each, medians [least-most] of {}\n",
        args.fold_beats, args.fold_rounds
    );
    let (mut bare, mut judged) = (Vec::new(), Vec::new());
    for _ in 0..args.fold_rounds {
        bare.push(shard.per_second(Shard::check_signatures)?);
        judged.push(shard.per_second(Shard::judge)?);
    }
    println!("| what | heartbeats per CPU second |\n|---|---|");
    for (what, rates) in [
        ("the signature alone (`verify_strict`)", &bare),
        (
            "`Rules::judge`: all checks, the directory, allowances",
            &judged,
        ),
    ] {
        let rates = Spread::of(rates.iter().copied());
        println!("| {what} | {} |", rates.cell(0));
        report::line(&json!({"scenario": "fold", "what": what, "per_cpu_second": rates.median}));
    }
    println!();
    Ok(())
}

impl Shard {
    fn new(members: usize, beats: u64) -> Result<Self> {
        let clock = SystemClock::shared();
        let world = World::new(&clock)?;
        let start = UnixMillis(clock.now_ms());
        let seeded = |n: usize| NodeKey::from_seed(&owm_proto::Sha256::of(&n.to_be_bytes()).0);
        let keys: Vec<_> = (0..members).map(seeded).collect();
        let forwarders = (0..FORWARDERS).map(|n| seeded(members + n).public());
        let mut messages = Vec::new();
        for beat in 0..beats {
            let now = start.after(Duration::from_mins(beat));
            for (member, key) in keys.iter().enumerate() {
                let body = peer::body(member, 0, now).encode_to_vec();
                let envelope = Envelope::sign(key, Purpose::Heartbeat, &world.network, body);
                messages.push((now, envelope.to_stored()));
            }
        }
        Ok(Self {
            start,
            forwarders: forwarders.collect(),
            keys,
            messages,
            world,
        })
    }

    /// Heartbeats per CPU second of this thread.
    fn per_second(&self, work: fn(&Self) -> Result<Duration>) -> Result<f64> {
        let cpu = work(self)?;
        Ok(self.messages.len() as f64 / cpu.as_secs_f64())
    }

    fn check_signatures(&self) -> Result<Duration> {
        let begun = thread_cpu()?;
        for (_, message) in &self.messages {
            let envelope = Envelope::from_stored(message)?;
            envelope.verify(Purpose::Heartbeat, &self.world.network, SignerRule::Anyone)?;
        }
        Ok(thread_cpu()?.saturating_sub(begun))
    }

    fn judge(&self) -> Result<Duration> {
        let mut rules = self.rules()?;
        let begun = thread_cpu()?;
        for (number, (now, message)) in self.messages.iter().enumerate() {
            let from = &self.forwarders[number % FORWARDERS];
            let judged = rules.judge(
                self.moment(*now),
                from,
                Topic::Heartbeat(0),
                message,
                &StrictEd25519,
            );
            ensure!(
                judged.verdict == Verdict::Accept,
                "not believed: {judged:?}"
            );
        }
        Ok(thread_cpu()?.saturating_sub(begun))
    }

    /// The rules of a peer that knows all members.
    fn rules(&self) -> Result<Rules> {
        let me = NodeKey::from_seed(&[9; 32]).public();
        let start = self.moment(self.start);
        let mut rules = Rules::new(&self.world.documents, me, Limits::default(), start);
        for (member, key) in self.keys.iter().enumerate() {
            let capability = self.world.capability(member, key, self.start);
            let from = &self.forwarders[0];
            let judged = rules.judge_told(start, from, capability, &StrictEd25519);
            ensure!(
                judged.verdict == Verdict::Accept,
                "not a member: {judged:?}"
            );
        }
        Ok(rules)
    }

    fn moment(&self, now: UnixMillis) -> Moment {
        Moment {
            wall: now,
            monotonic: now.since(self.start),
        }
    }
}

/// What this thread has used.
fn thread_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_shard_is_believed() {
        let shard = Shard::new(3, 2).unwrap();
        assert_eq!(shard.messages.len(), 6);
        shard.check_signatures().unwrap();
        shard.judge().unwrap();
    }
}
