//! A run: the peers of a scenario, their agenda, and the order in which everything happens. `world::links`
//! connects and sends, `world::acts` is what peers do and what befalls them, `world::hears` what they hear. Must stay true: nothing here
//! depends on anything but the scenario.

mod acts;
mod hears;
mod links;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use owm_p2p::news::NewestCheckpoint;
use owm_proto::{Envelope, PublicKey, gossip::shard_of};

use crate::{
    cost::Cost,
    dice::{Dice, FixedMap},
    frame::{Frame, Message, Peer},
    identity::{Identity, identity},
    liar::LiarState,
    lore::Lore,
    mesh::Outbox,
    node::{Node, Store},
    queue::Queue,
    scenario::Scenario,
    time::{At, PeerClock},
    trace::Trace,
    truth::Truth,
    watch::Watch,
};

/// A run under way.
#[derive(Debug)]
pub struct World {
    /// What it is a run of.
    pub scenario: Scenario,
    /// The peers, by number; the first is the coordinator.
    pub actors: Vec<Actor>,
    /// Its network.
    pub lore: Lore,
    /// What was really said.
    pub truth: Truth,
    /// What is looked at.
    pub watch: Watch,
    /// What happened.
    pub trace: Trace,
    /// Checkpoints published so far.
    pub published: Vec<NewestCheckpoint>,
    pub(crate) queue: Queue<Event>,
    dice: Dice,
    links: FixedMap<(Peer, Peer), Link>,
    links_made: u64,
    numbers: FixedMap<[u8; 32], Peer>,
    honest_keys: Vec<PublicKey>,
    /// The peers of each shard, by number.
    shards: Vec<Vec<Peer>>,
}

/// A peer.
#[derive(Debug)]
pub struct Actor {
    /// Its key.
    pub identity: Arc<Identity>,
    /// Of its key.
    pub shard: u32,
    /// Its clock.
    pub clock: PeerClock,
    /// Where it is.
    pub place: u64,
    /// Whether it runs.
    pub state: State,
    /// How often it has been started: timers of an earlier life do nothing.
    pub life: u64,
    /// Since when it is there without a break.
    pub since: At,
    /// Who is connected.
    pub linked: BTreeSet<Peer>,
    /// Addresses it knows.
    pub book: BTreeSet<Peer>,
    /// What came while it slept: its peers' kernels send it again until it is acknowledged.
    held: Vec<(Peer, u64, Frame)>,
    /// What it costs.
    pub cost: Cost,
    /// What it has sent, and why it might.
    pub sent: Sent,
    /// What it is.
    pub kind: Kind,
}

/// Gossip messages that a peer has sent, beside what allows it to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Sent, own and forwarded.
    pub published: u64,
    /// Messages of others that it has accepted: each goes to its mesh.
    pub accepted: u64,
    /// Peers that were connected when it said something of its own: all of them are told.
    pub flooded: u64,
    /// Ids that others asked it for.
    pub wanted: u64,
}

/// What a peer is.
#[derive(Debug)]
pub enum Kind {
    /// Runs the real rules; absent while it does not run.
    Honest {
        /// Its memory.
        node: Option<Box<Node>>,
        /// Its disk.
        store: Box<Store>,
        /// Its membership statement, if it has one.
        membership: Option<Envelope>,
    },
    /// Doesn't.
    Liar(Box<LiarState>),
}

/// Whether a peer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet, not now, or never again.
    Away,
    /// Runs.
    Awake,
    /// Is there and hears nothing.
    Asleep,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    number: u64,
    dialler: Peer,
}

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    Join(Peer),
    Arrive {
        to: Peer,
        from: Peer,
        link: u64,
        frame: Frame,
    },
    Established {
        dialler: Peer,
        to: Peer,
    },
    /// A link is found to be dead, if nothing has mended meanwhile.
    Dead {
        a: Peer,
        b: Peer,
        link: u64,
    },
    Tick(Peer, u64),
    Dial(Peer, u64),
    Beat(Peer, u64),
    Capability(Peer, u64),
    Turn(usize),
    Back(Peer, bool),
    Wake(Peer, u64),
    Release,
    Deed(Peer),
    Cut(usize),
    Calm,
}

/// Between two ticks of a router: gossipsub's heartbeat.
const TICK_MS: u64 = 1_000;
/// A peer looks for connections this often, about.
const DIAL_MS: u64 = 5_000;
/// A silent connection is given up after this.
const DEAD_SECS: u64 = 20;

impl World {
    /// A run before its first event.
    pub fn new(scenario: Scenario) -> Self {
        let lore = Lore::new(
            scenario.shards,
            scenario.heartbeat_secs,
            scenario.capability_secs,
        );
        let mut world = Self {
            dice: Dice::new(scenario.seed, 1),
            lore,
            actors: Vec::new(),
            truth: Truth::default(),
            watch: Watch::default(),
            trace: Trace::default(),
            published: Vec::new(),
            queue: Queue::default(),
            links: FixedMap::default(),
            shards: Vec::new(),
            links_made: 0,
            numbers: FixedMap::default(),
            honest_keys: Vec::new(),
            scenario,
        };
        world.populate();
        world.plan();
        world
    }

    fn populate(&mut self) {
        self.shards = vec![Vec::new(); self.scenario.shards as usize];
        for number in 0..self.scenario.peers() {
            let identity = identity(number as u32);
            let (place, clock, kind) = if let Some(honest) = self.scenario.honest.get(number) {
                let kind = self.honest_kind(honest.member.then_some(identity.public));
                (honest.place, honest.clock, kind)
            } else {
                let liar = self.scenario.liars[number - self.scenario.honest.len()];
                let kind = self.liar_kind(identity.clone(), liar.deed);
                (liar.place, PeerClock::default(), kind)
            };
            let shard = shard_of(&identity.public, self.scenario.shards);
            self.shards[shard as usize].push(Peer(number as u32));
            self.numbers.insert(identity.public.0, Peer(number as u32));
            if number < self.scenario.honest.len() {
                self.honest_keys.push(identity.public);
            }
            self.actors.push(Actor {
                identity,
                shard,
                clock,
                place,
                state: State::Away,
                life: 0,
                since: At::default(),
                linked: BTreeSet::new(),
                book: BTreeSet::from([Peer(0), Peer(1)]),
                held: Vec::new(),
                cost: Cost::default(),
                sent: Sent::default(),
                kind,
            });
        }
    }

    fn plan(&mut self) {
        for (number, honest) in self.scenario.honest.iter().enumerate() {
            self.queue
                .push(honest.joins, Event::Join(Peer(number as u32)));
        }
        for (number, liar) in self.scenario.liars.iter().enumerate() {
            let peer = Peer((self.scenario.honest.len() + number) as u32);
            self.queue.push(liar.joins, Event::Join(peer));
        }
        for (number, (at, _, _)) in self.scenario.turns.iter().enumerate() {
            self.queue.push(*at, Event::Turn(number));
        }
        for at in &self.scenario.releases {
            self.queue.push(*at, Event::Release);
        }
        for (number, cut) in self.scenario.links.partitions.iter().enumerate() {
            let found = cut.from.after_secs(DEAD_SECS);
            if found < cut.until {
                self.queue.push(found, Event::Cut(number));
            }
        }
        self.queue.push(self.scenario.calm, Event::Calm);
    }

    /// Runs to the scenario's end, then looks at everything.
    pub fn run(&mut self) {
        self.run_until(self.scenario.end);
        self.check_end();
    }

    /// Runs to a moment.
    pub fn run_until(&mut self, end: At) {
        let mut out = Outbox::new();
        while let Some(event) = self.queue.pop(end) {
            self.happen(event, &mut out);
        }
    }

    fn happen(&mut self, event: Event, out: &mut Outbox) {
        match event {
            Event::Arrive {
                to,
                from,
                link,
                frame,
            } => {
                if self.is_linked(to, from, link) {
                    self.arrived(to, from, link, frame, out);
                }
            }
            Event::Tick(peer, life) => self.in_life(peer, life, Self::tick, out),
            Event::Dial(peer, life) => self.in_life(peer, life, Self::dial, out),
            Event::Beat(peer, life) => self.in_life(peer, life, Self::beat, out),
            Event::Capability(peer, life) => self.in_life(peer, life, Self::capability, out),
            Event::Established { dialler, to } => self.established(dialler, to, out),
            Event::Dead { a, b, link } => {
                if self.is_linked(a, b, link) && !(self.is_awake(a) && self.is_awake(b)) {
                    self.unlink(a, b);
                }
            }
            Event::Join(peer) => self.join(peer, out),
            Event::Turn(number) => self.turn(number),
            Event::Back(peer, keeps_store) => self.back(peer, keeps_store, out),
            Event::Wake(peer, life) => self.wake(peer, life),
            Event::Release => self.release(out),
            Event::Deed(peer) => self.deed(peer, out),
            Event::Cut(number) => self.cut(number),
            Event::Calm => self.calm(),
        }
    }

    /// Does something if the peer is awake and still in the life in which it was planned; a sleeping peer
    /// does it when it wakes.
    fn in_life(
        &mut self,
        peer: Peer,
        life: u64,
        what: fn(&mut Self, Peer, &mut Outbox),
        out: &mut Outbox,
    ) {
        if self.actor(peer).life == life && self.is_awake(peer) {
            what(self, peer, out);
        }
    }

    /// Now.
    pub fn now(&self) -> At {
        self.queue.now()
    }

    /// A peer.
    pub fn actor(&self, peer: Peer) -> &Actor {
        &self.actors[peer.0 as usize]
    }

    fn actor_mut(&mut self, peer: Peer) -> &mut Actor {
        &mut self.actors[peer.0 as usize]
    }

    /// Whether it runs and hears.
    pub fn is_awake(&self, peer: Peer) -> bool {
        self.actor(peer).state == State::Awake
    }

    /// Whether it follows the rules.
    pub fn is_honest(&self, peer: Peer) -> bool {
        (peer.0 as usize) < self.scenario.honest.len()
    }

    /// The peer of a key.
    pub fn peer_of(&self, key: &PublicKey) -> Option<Peer> {
        self.numbers.get(&key.0).copied()
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + use<> {
        (0..self.actors.len() as u32).map(Peer)
    }

    /// Peers that follow the rules.
    pub fn honest(&self) -> impl Iterator<Item = Peer> + use<> {
        (0..self.scenario.honest.len() as u32).map(Peer)
    }

    /// Empties the accounts.
    pub fn forget_costs(&mut self) {
        for actor in &mut self.actors {
            actor.cost = Cost::default();
        }
    }

    /// So long a capability of this run holds.
    fn capability_time(&self) -> Duration {
        Duration::from_secs(3 * u64::from(self.scenario.capability_secs))
            .max(Duration::from_mins(5))
    }

    fn message(topic: owm_p2p::gossip::Topic, envelope: &Envelope) -> Arc<Message> {
        Message::new(topic, envelope.to_stored())
    }
}

impl Actor {
    /// Its memory, if it is honest and runs.
    pub fn node(&self) -> Option<&Node> {
        match &self.kind {
            Kind::Honest { node, .. } => node.as_deref(),
            Kind::Liar(_) => None,
        }
    }
}
