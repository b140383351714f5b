//! The plan with its I/O: asks the sources, resolves names, gives dial orders to the service's loop and takes
//! back what became of them. Owned by that loop; it spawns tasks of its own, and dropping it ends them.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use rand_chacha::ChaCha20Rng;
use tokio::{task::JoinSet, time::timeout};

use super::{
    MDNS, Plan, PlanConfig, Resolver, Source, Ways, diagnose,
    plan::{Order, Step},
    resolve::resolved,
};
use crate::{
    Clock, Moment, NetworkPolicy, Unavailable,
    peer::{
        Book, Group,
        group::{self, may_tell},
    },
    rest::Rests,
    transport::Vouched,
    view::SourceView,
};

/// Time for one answer of a source, or one name.
pub const SOURCE_TIMEOUT: Duration = Duration::from_secs(15);

/// A clock that stands still (in a test) must not make the loop spin.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// Connections tried at once for one name.
const DIALS_PER_NAME: usize = 8;

/// What a driver is made of.
#[derive(Debug)]
pub struct DriverConfig {
    /// Where it may connect to.
    pub policy: NetworkPolicy,
    /// Who we are.
    pub ourselves: PeerId,
    /// Peers it wants to be connected with.
    pub peers_wanted: usize,
    /// The ways in.
    pub ways: Ways,
    /// What may be dialled though it is not global.
    pub(crate) vouched: Vouched,
    /// Who is not to be dialled for a while.
    pub(crate) rests: Rests,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: ChaCha20Rng,
}

/// Keeps the swarm connected. The loop dials what [`Driver::next`] gives and passes every swarm event to
/// [`Driver::on_swarm_event`].
pub struct Driver {
    plan: Plan,
    policy: NetworkPolicy,
    vouched: Vouched,
    rests: Rests,
    sources: HashMap<&'static str, Arc<dyn Source>>,
    resolver: Arc<dyn Resolver>,
    clock: Arc<dyn Clock>,
    rng: ChaCha20Rng,
    tasks: JoinSet<Done>,
    /// Steps of the plan that the loop has not taken yet.
    ready: Vec<Step>,
    /// Something was fed in since the plan was asked last.
    changed: bool,
    /// When it is to be asked in any case.
    due: Duration,
    /// Orders that are being dialled, each of them by one or more connections.
    dials: HashMap<ConnectionId, (u64, &'static str)>,
    open: HashMap<u64, OpenOrder>,
}

/// Of an order, while its dials are under way.
#[derive(Default)]
struct OpenOrder {
    dials: usize,
    failures: Vec<diagnose::DialFailure>,
}

enum Done {
    Answer(&'static str, Result<Vec<Multiaddr>, Vec<Unavailable>>),
    Resolved(Order, Vec<Multiaddr>, Vec<Unavailable>),
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// Does nothing yet; the first [`Driver::next`] asks all sources.
    pub fn new(config: DriverConfig) -> Self {
        let Ways {
            sources,
            resolver,
            remembered,
        } = config.ways;
        let book = remembered.unwrap_or_else(|| Book::new(config.policy));
        let sources: HashMap<_, _> = sources.into_iter().map(|s| (s.name(), s)).collect();
        let mut names: Vec<_> = sources.keys().copied().collect();
        names.sort_unstable();
        let plan = PlanConfig {
            policy: config.policy,
            ourselves: config.ourselves,
            peers_wanted: config.peers_wanted,
        };
        Self {
            plan: Plan::new(plan, book, &names),
            policy: config.policy,
            vouched: config.vouched,
            rests: config.rests,
            sources,
            resolver,
            clock: config.clock,
            rng: config.rng,
            tasks: JoinSet::new(),
            ready: Vec::new(),
            changed: true,
            due: Duration::ZERO,
            dials: HashMap::new(),
            open: HashMap::new(),
        }
    }

    /// The next dials to make, all of one order; each failure to start one goes to
    /// [`Driver::dial_failed`]. Cancel safe; waits for ever while nothing is due.
    pub async fn next(&mut self) -> Vec<DialOpts> {
        loop {
            let now = self.clock.moment();
            if self.ready.is_empty() && (self.changed || now.monotonic >= self.due) {
                self.ready = self.plan.step(now, &mut self.rng);
                self.due = self.plan.due(now);
                if self.plan.take_woke() {
                    self.rests.forgive();
                }
                self.changed = false;
            }
            while let Some(step) = self.ready.pop() {
                match step {
                    Step::Ask(name) => self.ask(name),
                    Step::Dial(order)
                        if order.addresses.iter().any(|a| group::name(a).is_some()) =>
                    {
                        self.resolve(order);
                    }
                    Step::Dial(order) => {
                        let addresses = order.addresses.clone();
                        return self.dial(&order, addresses, Vec::new());
                    }
                }
            }
            let pause = self.due.saturating_sub(now.monotonic);
            tokio::select! {
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    let Ok(done) = done else { continue };
                    let dials = self.done(done);
                    if !dials.is_empty() {
                        return dials;
                    }
                }
                () = tokio::time::sleep(pause.max(MIN_PAUSE)) => {}
            }
        }
    }

    fn ask(&mut self, name: &'static str) {
        let Some(source) = self.sources.get(name).cloned() else {
            return;
        };
        self.tasks.spawn(async move {
            let answer = match timeout(SOURCE_TIMEOUT, source.addresses()).await {
                Ok(answer) => answer.map_err(|error| error.0),
                Err(_) => Err(vec![diagnose::too_slow(name, SOURCE_TIMEOUT)]),
            };
            Done::Answer(name, answer)
        });
    }

    fn resolve(&mut self, order: Order) {
        let (policy, resolver) = (self.policy, Arc::clone(&self.resolver));
        self.tasks.spawn(async move {
            let (mut found, mut failures) = (Vec::new(), Vec::new());
            for address in &order.addresses {
                let answer = timeout(SOURCE_TIMEOUT, resolved(address, policy, &*resolver)).await;
                match answer {
                    Ok(Ok(addresses)) => found.extend(addresses),
                    Ok(Err(failure)) => failures.push(failure),
                    Err(_) => {
                        failures.push(diagnose::too_slow(address.to_string(), SOURCE_TIMEOUT));
                    }
                }
            }
            Done::Resolved(order, found, failures)
        });
    }

    fn done(&mut self, done: Done) -> Vec<DialOpts> {
        self.changed = true;
        match done {
            Done::Answer(name, answer) => {
                let now = self.clock.moment();
                self.plan.given(name, answer, now, &mut self.rng);
                Vec::new()
            }
            Done::Resolved(order, addresses, failures) => self.dial(&order, addresses, failures),
        }
    }

    /// A peer is dialled at all its addresses at once; an address of nobody in particular by itself.
    fn dial(
        &mut self,
        order: &Order,
        addresses: Vec<Multiaddr>,
        failures: Vec<Unavailable>,
    ) -> Vec<DialOpts> {
        // All that gets here was named by a source of ours or passed `may_tell`; who speaks by mDNS is anybody.
        if order.source != MDNS || self.policy != NetworkPolicy::Clearnet {
            for address in &addresses {
                self.vouched.add(address);
            }
        } else {
            let lan = |a: &&Multiaddr| may_tell(self.policy, Group::of(a), a);
            let lan = addresses.iter().filter(lan);
            lan.for_each(|a| self.vouched.add(a));
        }
        let unnamed = |told| diagnose::DialFailure {
            address: None,
            told,
        };
        let dials: Vec<DialOpts> = match order.peer {
            _ if addresses.is_empty() => Vec::new(),
            Some(peer) => vec![
                DialOpts::peer_id(peer)
                    .addresses(addresses)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .build(),
            ],
            None => addresses
                .into_iter()
                .take(DIALS_PER_NAME)
                .map(|address| DialOpts::unknown_peer_id().address(address).build())
                .collect(),
        };
        let open = OpenOrder {
            dials: dials.len(),
            failures: failures.into_iter().map(unnamed).collect(),
        };
        if dials.is_empty() {
            let now = self.clock.moment();
            self.plan
                .dial_failed(order.id, open.failures, now, &mut self.rng);
            return dials;
        }
        self.open.insert(order.id, open);
        let ids = dials
            .iter()
            .map(|dial| (dial.connection_id(), (order.id, order.source)));
        self.dials.extend(ids);
        dials
    }

    /// All that matters here of what the swarm tells.
    pub fn on_swarm_event<T>(&mut self, event: &SwarmEvent<T>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.changed = true;
                let order = self.dials.remove(connection_id);
                if let Some((order, _)) = order {
                    self.open.remove(&order);
                }
                let now = self.clock.moment();
                let at = endpoint.get_remote_address();
                self.plan.connected(order, *peer_id, at, now);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established: 0,
                ..
            } => {
                self.changed = true;
                let now = self.clock.moment();
                match self.plan.closed(*peer_id, now, &mut self.rng) {
                    Some(true) => self.rests.forget(peer_id),
                    Some(false) => self.rests.fail(*peer_id, now.monotonic, &mut self.rng),
                    // Refused before: it rests for long.
                    None => {}
                }
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                peer_id,
                error,
            } => self.dial_failed(*connection_id, *peer_id, error),
            _ => {}
        }
    }

    /// A dial has failed, or could not be started.
    pub fn dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let order = self.dials.remove(&id);
        self.rest(order.is_some(), peer, error);
        let Some((order, _)) = order else {
            return;
        };
        self.changed = true;
        if diagnose::is_ourselves(error) {
            self.open.remove(&order);
            self.plan.is_ourselves(order);
            return;
        }
        let Some(open) = self.open.get_mut(&order) else {
            return;
        };
        open.failures.extend(diagnose::dial(peer, error));
        open.dials -= 1;
        if open.dials > 0 {
            return;
        }
        let failures = self
            .open
            .remove(&order)
            .map_or_else(Vec::new, |o| o.failures);
        let now = self.clock.moment();
        self.plan.dial_failed(order, failures, now, &mut self.rng);
    }

    /// Whom a dial has not reached is not dialled again at once, whoever asks for it. What our own limits, bans
    /// and pauses refuse, and what fails beside a connection that stands, is not the peer's fault.
    fn rest(&mut self, planned: bool, peer: Option<PeerId>, error: &DialError) {
        let Some(peer) = peer.filter(|peer| !self.plan.is_connected(peer)) else {
            return;
        };
        let failures = diagnose::dial(Some(peer), error);
        if failures.is_empty() || matches!(error, DialError::Denied { .. } | DialError::Aborted) {
            return;
        }
        let now = self.clock.moment();
        self.rests.fail(peer, now.monotonic, &mut self.rng);
        if !planned {
            self.plan
                .other_dial_failed(peer, &failures, now, &mut self.rng);
            self.changed = true;
        }
    }

    /// Something arrived unasked: the coordinator's answer, mDNS.
    pub fn given(&mut self, source: &'static str, addresses: Vec<Multiaddr>) {
        self.changed = true;
        let now = self.clock.moment();
        self.plan.given(source, Ok(addresses), now, &mut self.rng);
    }

    /// The peer belongs to our network.
    pub fn met(&mut self, peer: PeerId) {
        self.plan.met(peer, self.clock.moment());
    }

    /// Something is wrong with a connected peer; it stays.
    pub fn note(&mut self, peer: &PeerId, told: Unavailable) {
        self.plan.note(peer, told);
    }

    /// The peer is of no use, and the service closes the connection.
    pub fn refused(&mut self, peer: PeerId, told: &Unavailable) {
        self.changed = true;
        let now = self.clock.moment();
        self.plan.refused(peer, told, now, &mut self.rng);
        self.rests.fail_for_long(peer, now.monotonic, &mut self.rng);
    }

    /// `teller`, itself at `from`, says that `peer` is at `addresses`.
    pub fn heard(
        &mut self,
        peer: PeerId,
        addresses: &[Multiaddr],
        teller: PeerId,
        from: Option<&Multiaddr>,
    ) {
        let now = self.clock.moment();
        // On a network of this machine alone everybody is here.
        let from = match self.policy {
            NetworkPolicy::LoopbackOnly => Some(Group::Loopback),
            _ => from.map(Group::of),
        };
        let group = from.unwrap_or(Group::Other);
        let told = addresses.iter().filter(|a| may_tell(self.policy, group, a));
        told.for_each(|a| self.vouched.add(a));
        if self.plan.heard(peer, addresses, teller, from, now) {
            self.changed = true;
        }
    }

    /// Whether a peer is reachable from outside, and carries connections for others.
    pub fn describe(&mut self, peer: &PeerId, public: bool, relay: bool) {
        self.plan.book_mut().describe(peer, public, relay);
    }

    /// Whom the gate lets pass.
    pub(crate) fn rests(&self) -> &Rests {
        &self.rests
    }

    /// Never dial this peer again.
    pub fn bar(&mut self, peer: PeerId) {
        self.plan.bar(peer);
    }

    /// Whether the plan has dialled this connected peer, not some part of libp2p on its way.
    pub fn has_dialled(&self, peer: &PeerId) -> bool {
        self.plan.has_dialled(peer)
    }

    /// Peers connected and met.
    pub fn met_count(&self) -> usize {
        self.plan.met_count()
    }

    /// What each way in has brought.
    pub fn views(&self) -> Vec<SourceView> {
        self.plan.views()
    }

    /// The remembered peers, to be saved.
    pub fn book(&self) -> &Book {
        self.plan.book()
    }

    /// The time it goes by.
    pub fn now(&self) -> Moment {
        self.clock.moment()
    }
}
