//! What a run is made of, drawn from its seed: who takes part, what the links and clocks are like, who comes
//! and goes, who lies. Must stay true: a scenario follows from seed and size alone.

use std::fmt;

use owm_p2p::{SwarmConfig, gossip::Limits};

use crate::{
    dice::Dice,
    frame::Peer,
    network::{Links, Partition},
    time::{At, PeerClock},
};

/// One run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it came from.
    pub seed: u64,
    /// Peers that follow the rules; the first is the coordinator (all shards) and the publisher.
    pub honest: Vec<Honest>,
    /// Peers that don't.
    pub liars: Vec<Liar>,
    /// Of the heartbeat and capability topics.
    pub shards: u32,
    /// Between two heartbeats.
    pub heartbeat_secs: u32,
    /// Between two capabilities.
    pub capability_secs: u32,
    /// The links.
    pub links: Links,
    /// What happens to whom.
    pub turns: Vec<(At, Peer, Turn)>,
    /// When a new checkpoint is published.
    pub releases: Vec<At>,
    /// Capabilities asked for and given in one answer: few, so that nobody is told of everybody.
    pub meet_nodes: u32,
    /// Seconds that a router remembers a message's id.
    pub seen_secs: u64,
    /// Connections that a peer wants to have.
    pub links_wanted: usize,
    /// Of so many peers one runs the rules; the others forward whatever is new, as the rules would let them in an
    /// undisturbed network, and take what they tell of others from one that does. 1: all run them.
    pub rules_one_of: u32,
    /// Everything believed is held against the truth, and told. Not where only the cost counts: that is a large
    /// part of the run's time and memory.
    pub is_watched: bool,
    /// When the last disturbance is over: liars go on.
    pub calm: At,
    /// When the run ends and everything is looked at.
    pub end: At,
}

/// A peer that follows the rules.
#[derive(Clone, Debug)]
pub struct Honest {
    /// When it comes.
    pub joins: At,
    /// Its clock.
    pub clock: PeerClock,
    /// It has a membership statement.
    pub member: bool,
    /// Where it is, 0 to 1,000: the delay to another grows with the distance.
    pub place: u64,
}

/// Something that happens to an honest peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Ends in order and stays away.
    Leave,
    /// Is killed and comes back.
    Crash {
        /// After so long.
        away_secs: u64,
        /// With the sequences it had stored.
        keeps_store: bool,
    },
    /// Sleeps: hears and says nothing, its monotonic clock stands still.
    Sleep {
        /// For so long.
        secs: u64,
    },
    /// Its wall clock is set, by less than the network tolerates.
    ClockJump {
        /// By so much.
        ms: i64,
    },
}

/// A peer that does not follow the rules.
#[derive(Clone, Copy, Debug)]
pub struct Liar {
    /// What it does.
    pub deed: Deed,
    /// When it comes.
    pub joins: At,
    /// Where it is.
    pub place: u64,
    /// Between two deeds.
    pub every_ms: u64,
    /// So many it does, then it only stays: what it costs is the simulation's time.
    pub deeds: u64,
}

/// What a liar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// Heartbeats and capabilities of others, with signatures that don't hold.
    Forge,
    /// What others said before, again.
    Replay,
    /// Its own heartbeats from the far future, from the past, for ever.
    Times,
    /// More than 64 KiB.
    Oversize,
    /// True messages on a shard that is not theirs.
    WrongShard,
    /// Bytes that are no envelope, other purposes, other networks.
    Garbage,
    /// Two heartbeats under one sequence, one for each half.
    Equivocate,
    /// A stolen release key signs two checkpoints under one sequence.
    SplitRelease,
    /// Older checkpoints, and newer ones that no release key signed; in answers to newcomers too.
    Downgrade,
    /// Its own valid heartbeats, far too many.
    Spam,
    /// Valid heartbeats of many identities without membership.
    Sybil,
    /// Takes connections and meshes, forwards nothing.
    Eclipse,
}

/// All deeds.
pub const DEEDS: [Deed; 12] = [
    Deed::Forge,
    Deed::Replay,
    Deed::Times,
    Deed::Oversize,
    Deed::WrongShard,
    Deed::Garbage,
    Deed::Equivocate,
    Deed::SplitRelease,
    Deed::Downgrade,
    Deed::Spam,
    Deed::Sybil,
    Deed::Eclipse,
];

impl Deed {
    /// Whether those it talks to can prove that it lies: only what nobody honest forwards is held against a
    /// peer.
    pub fn is_provable(self) -> bool {
        matches!(
            self,
            Self::Forge | Self::Times | Self::Oversize | Self::WrongShard | Self::Garbage
        )
    }
}

/// What a scenario may be drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The arguments of `cargo test -p owm-sim` that run it.
    pub test: &'static str,
    /// Peers at least, liars included.
    pub least: u64,
    /// Peers at most, liars included.
    pub most: u64,
    /// Heartbeats that the disturbed part lasts.
    pub beats: u64,
    /// Connections that a peer wants to have.
    pub links_wanted: usize,
    /// Heartbeat periods to draw from.
    pub heartbeat_secs: &'static [u32],
    /// Shards at most.
    pub shards_max: u32,
    /// Capabilities of one answer to draw from.
    pub meet_nodes: &'static [u32],
}

/// Capabilities of one answer where nothing is made scarce: a stranger is told 64, a member 1,024.
const MEET_NODES: u32 = 256;

/// As `make test` runs them by the thousand.
pub const SMALL: Size = Size {
    test: "--test seeds -- --nocapture",
    least: 3,
    most: 32,
    beats: 8,
    // Half of what nodes want: among 32 nearly everybody would be everybody's neighbour.
    links_wanted: 8,
    heartbeat_secs: &[5, 15, 60],
    shards_max: 4,
    meet_nodes: &[1, 4, MEET_NODES],
};

/// As `make test-long` runs them.
pub const LARGE: Size = Size {
    test: "--test long -- --ignored --nocapture",
    least: 1_000,
    most: 1_000,
    beats: 2,
    links_wanted: SwarmConfig::PEERS_WANTED,
    heartbeat_secs: &[60],
    shards_max: 8,
    meet_nodes: &[16, MEET_NODES],
};

/// Clocks are wrong by so much at most: two of them, and the rounding of issue times to a minute, stay within
/// the tolerated two minutes.
const SKEW_MS_MAX: u64 = 25_000;

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(seed: u64, size: &Size) -> Self {
        let mut dice = Dice::new(seed, 0);
        let peers = dice.within(size.least, size.most);
        let liars = if dice.chance(300) {
            0
        } else {
            dice.within(1, (peers / 4).max(1))
        };
        let heartbeat_secs = *dice.pick(size.heartbeat_secs).expect("a size has periods");
        let beat = u64::from(heartbeat_secs);
        let calm = At::secs(60 + beat * size.beats);
        let shards_log2 = dice.within(0, u64::from(size.shards_max.ilog2()));
        let strangers_permille = [0, 200, 1_000][dice.index(3)];
        let honest = (0..(peers - liars).max(2))
            .map(|number| Honest {
                // Who publishes is there from the beginning.
                joins: At(dice.within(0, At::secs(30).0).min(number * At::secs(30).0)),
                clock: draw_clock(&mut dice),
                member: !dice.chance(strangers_permille),
                place: dice.within(0, 1_000),
            })
            .collect::<Vec<_>>();
        let liars = (0..liars).map(|_| draw_liar(&mut dice, calm)).collect();
        let links = draw_links(&mut dice, calm);
        let turns = draw_turns(&mut dice, honest.len(), calm, beat);
        let releases = (0..dice.within(1, 4)).map(|_| draw_at(&mut dice, 20, calm));
        let mut releases: Vec<At> = releases.collect();
        releases.sort_unstable();
        Self {
            seed,
            shards: 1 << shards_log2,
            heartbeat_secs,
            capability_secs: heartbeat_secs * 10,
            links,
            turns,
            releases,
            seen_secs: [60, 300][dice.index(2)],
            calm,
            end: calm.after_secs(90 + 3 * beat),
            honest,
            liars,
            links_wanted: size.links_wanted,
            rules_one_of: 1,
            is_watched: true,
            meet_nodes: *dice.pick(size.meet_nodes).expect("a size has some"),
        }
    }

    /// Nobody lies, leaves or loses anything: `peers` members in so many shards, for what it costs.
    pub fn steady(
        seed: u64,
        (peers, shards): (u32, u32),
        rules_one_of: u32,
        (warm_secs, measured_secs): (u64, u64),
    ) -> Self {
        let mut dice = Dice::new(seed, 0);
        let honest = (0..peers).map(|_| Honest {
            joins: At(dice.within(0, At::secs(warm_secs / 2).0)),
            clock: PeerClock::default(),
            member: true,
            place: dice.within(0, 1_000),
        });
        let honest = honest.collect();
        let calm = At::secs(warm_secs);
        Self {
            seed,
            honest,
            liars: Vec::new(),
            shards,
            links_wanted: SwarmConfig::PEERS_WANTED,
            rules_one_of,
            heartbeat_secs: 60,
            capability_secs: 600,
            links: Links {
                delay_ms_max: 100,
                jitter_ms: 10,
                ..Links::default()
            },
            turns: Vec::new(),
            releases: Vec::new(),
            // No copy of a message is older than some seconds here, and the tables of 10,000 must fit in memory.
            seen_secs: 60,
            meet_nodes: MEET_NODES,
            is_watched: false,
            calm,
            end: calm.after_secs(measured_secs),
        }
    }

    /// Sizes of the tables of who listens to `shards` shards: small where the run is, so that they fill up.
    pub fn limits(&self, shards: u32) -> Limits {
        let limits = Limits::for_shards(shards);
        if self.peers() > SMALL.most as usize {
            return limits;
        }
        Limits {
            members_max: 40,
            strangers_max: 40,
            peers_max: 40,
            capability_bytes_max: 48 << 10,
            ..limits
        }
    }

    /// Whether a peer runs the rules: liars don't, and of the others not all where only the cost counts.
    pub fn has_rules(&self, peer: Peer) -> bool {
        (peer.0 as usize) < self.honest.len() && peer.0.is_multiple_of(self.rules_one_of)
    }

    /// All peers.
    pub fn peers(&self) -> usize {
        self.honest.len() + self.liars.len()
    }
}

fn draw_at(dice: &mut Dice, from_secs: u64, until: At) -> At {
    At(dice.within(At::secs(from_secs).0, until.0))
}

fn draw_clock(dice: &mut Dice) -> PeerClock {
    if dice.chance(500) {
        return PeerClock::default();
    }
    let skew_ms = dice.within(0, 2 * SKEW_MS_MAX) as i64 - SKEW_MS_MAX as i64;
    PeerClock::new(skew_ms, dice.within(0, 200) as i64 - 100)
}

fn draw_liar(dice: &mut Dice, calm: At) -> Liar {
    let deed = DEEDS[dice.index(DEEDS.len())];
    Liar {
        deed,
        deeds: if deed == Deed::Spam { 40 } else { 800 },
        joins: draw_at(dice, 0, At(calm.0 / 2)),
        place: dice.within(0, 1_000),
        every_ms: [100, 500, 2_000][dice.index(3)],
    }
}

fn draw_links(dice: &mut Dice, calm: At) -> Links {
    let cuts = if dice.chance(500) {
        0
    } else {
        dice.within(1, 2)
    };
    let partitions = (0..cuts)
        .map(|_| {
            let from = draw_at(dice, 30, calm);
            Partition {
                from,
                until: draw_at(dice, from.as_secs(), calm),
                sides: dice.within(2, 3),
                salt: dice.within(0, u64::MAX),
            }
        })
        .collect();
    Links {
        delay_ms_max: [1, 50, 300][dice.index(3)],
        jitter_ms: [0, 10, 100][dice.index(3)],
        loss_permille: [0, 10, 100][dice.index(3)],
        partitions,
    }
}

fn draw_turns(dice: &mut Dice, honest: usize, calm: At, beat: u64) -> Vec<(At, Peer, Turn)> {
    let mut turns = Vec::new();
    let mut left = 0;
    // The first is never disturbed: it publishes, and somebody has to be there to be found.
    for peer in 1..honest as u32 {
        if !dice.chance(350) {
            continue;
        }
        let at = draw_at(dice, 40, calm);
        let rest = calm.as_secs().saturating_sub(at.as_secs()).max(1);
        let turn = match dice.within(0, 3) {
            0 if left < honest / 3 => {
                left += 1;
                Turn::Leave
            }
            1 => Turn::Sleep {
                secs: dice.within(1, rest.min(20 * beat)),
            },
            2 => Turn::ClockJump {
                ms: dice.within(0, 2 * SKEW_MS_MAX) as i64 - SKEW_MS_MAX as i64,
            },
            _ => Turn::Crash {
                away_secs: dice.within(1, rest.min(6 * beat)),
                keeps_store: dice.chance(600),
            },
        };
        turns.push((at, Peer(peer), turn));
    }
    turns
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strangers = self.honest.iter().filter(|peer| !peer.member).count();
        writeln!(
            f,
            "seed {}: {} honest peers ({strangers} strangers), {} shards, heartbeat {} s, capability {} s, \
             ids remembered {} s, {} nodes a Meet, calm at {}, end at {}",
            self.seed,
            self.honest.len(),
            self.shards,
            self.heartbeat_secs,
            self.capability_secs,
            self.seen_secs,
            self.meet_nodes,
            self.calm,
            self.end,
        )?;
        writeln!(f, "  links: {:?}", self.links)?;
        for (number, liar) in self.liars.iter().enumerate() {
            let peer = self.honest.len() + number;
            let Liar {
                deed,
                joins,
                every_ms,
                ..
            } = liar;
            writeln!(
                f,
                "  peer {peer}: {deed:?} from {joins}, every {every_ms} ms"
            )?;
        }
        for (at, Peer(peer), turn) in &self.turns {
            writeln!(f, "  peer {peer}: {turn:?} at {at}")?;
        }
        write!(f, "  releases at {:?}", self.releases)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_one_scenario_and_seeds_give_all_kinds() {
        let text = |seed| format!("{:?}", Scenario::draw(seed, &SMALL));
        assert_eq!(text(5), text(5));
        let drawn: Vec<Scenario> = (0..300).map(|seed| Scenario::draw(seed, &SMALL)).collect();
        let deeds = drawn.iter().flat_map(|s| &s.liars).map(|liar| liar.deed);
        assert_eq!(deeds.collect::<BTreeSet<_>>().len(), DEEDS.len());
        assert!(drawn.iter().any(|s| s.liars.is_empty()));
        assert!(drawn.iter().any(|s| s.links.partitions.len() == 2));
        for scenario in &drawn {
            assert!(scenario.peers() <= 32 && scenario.honest.len() >= 2);
            assert!(scenario.links.healed() <= scenario.calm);
        }
    }
}
