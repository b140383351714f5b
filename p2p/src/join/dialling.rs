//! The loop of one joining: resolves, dials all at once, asks each that answers, ends with the first good answer.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    future::pending,
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId,
    request_response::{Event, Message, OutboundRequestId},
    swarm::{
        self, ConnectionId, DialError, Swarm, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use owm_proto::{
    NodeKey,
    limits::MEET_NODES_MAX,
    wire::gossip::{MeetRequest, MeetResponse},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{ADDRESSES_MAX, Join, JoinError, Joined, answer};
use crate::{
    Transport, Unavailable,
    bootstrap::{diagnose, resolve::resolved},
    meet, peer,
    peer::group::peer_of,
    transport::Vouched,
};

type Resolved = (Multiaddr, Result<Vec<Multiaddr>, Unavailable>);

/// One joining under way.
pub(super) struct Joining {
    wanted: Join,
    vouched: Vouched,
    swarm: Swarm<meet::Behaviour>,
    names: JoinSet<Resolved>,
    /// Dials under way, by the address that was given for them.
    dials: HashMap<ConnectionId, Multiaddr>,
    /// Where a connected peer was reached.
    reached: HashMap<PeerId, Multiaddr>,
    asked: HashMap<OutboundRequestId, PeerId>,
    /// The last failure of each target, in the order of their first.
    failures: BTreeMap<String, Unavailable>,
}

impl Joining {
    pub(super) fn new(wanted: Join, key: &NodeKey, transport: Transport) -> Self {
        let vouched = Vouched::default();
        let transport = transport.under(wanted.policy, wanted.dial_timeout, vouched.clone());
        let me = peer::keypair(key).public().to_peer_id();
        // The request that is under way keeps its connection.
        let settings = swarm::Config::with_tokio_executor();
        let behaviour = meet::behaviour(&wanted.network);
        Self {
            swarm: Swarm::new(transport.connections, behaviour, me, settings),
            wanted,
            vouched,
            names: JoinSet::new(),
            dials: HashMap::new(),
            reached: HashMap::new(),
            asked: HashMap::new(),
            failures: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<Joined, JoinError> {
        let deadline = Instant::now() + self.wanted.timeout;
        let addresses = std::mem::take(&mut self.wanted.peers);
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            let (policy, resolver) = (self.wanted.policy, self.wanted.resolver.clone());
            self.names.spawn(async move {
                let answer = resolved(&address, policy, &*resolver).await;
                (address, answer)
            });
        }
        let mut joined = None;
        while joined.is_none() && self.hopes() {
            let Ok(answer) = timeout_at(deadline, self.turn()).await else {
                self.out_of_time();
                break;
            };
            joined = answer;
        }
        let mut failures: Vec<_> = self.failures.into_values().collect();
        match joined {
            Some(mut joined) => {
                joined.failures.append(&mut failures);
                Ok(joined)
            }
            None => Err(JoinError::Unreachable(failures)),
        }
    }

    fn hopes(&self) -> bool {
        !(self.names.is_empty() && self.dials.is_empty() && self.asked.is_empty())
    }

    /// Until something has happened.
    async fn turn(&mut self) -> Option<Joined> {
        let name = async {
            match self.names.join_next().await {
                Some(done) => done,
                None => pending().await,
            }
        };
        tokio::select! {
            Ok((address, answer)) = name => {
                self.on_resolved(&address, answer);
                None
            }
            event = self.swarm.select_next_some() => self.on_event(event),
        }
    }

    fn on_resolved(&mut self, address: &Multiaddr, answer: Result<Vec<Multiaddr>, Unavailable>) {
        let found = match answer {
            Ok(found) => found,
            Err(failure) => return self.fail(failure),
        };
        for address in found.into_iter().take(ADDRESSES_MAX) {
            // The invite names it.
            self.vouched.add(&address);
            let opts = opts(&address);
            let id = opts.connection_id();
            match self.swarm.dial(opts) {
                Ok(()) => {
                    self.dials.insert(id, address);
                }
                Err(error) => self.dial_failed(&address, &error),
            }
        }
        tracing::debug!(%address, "joining: dialled");
    }

    fn on_event(&mut self, event: SwarmEvent<Event<MeetRequest, MeetResponse>>) -> Option<Joined> {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            } => {
                let address = self.dials.remove(&connection_id)?;
                // Its other addresses lead to the same answer.
                if let Entry::Vacant(first) = self.reached.entry(peer_id) {
                    first.insert(address);
                    self.ask(peer_id);
                }
                None
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                let address = self.dials.remove(&connection_id)?;
                self.dial_failed(&address, &error);
                None
            }
            SwarmEvent::Behaviour(Event::Message { peer, message, .. }) => match message {
                Message::Response {
                    request_id,
                    response,
                } => {
                    self.asked.remove(&request_id)?;
                    self.on_answer(peer, response)
                }
                // Nobody is served here: the channel is dropped.
                Message::Request { .. } => None,
            },
            SwarmEvent::Behaviour(Event::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            }) => {
                self.asked.remove(&request_id)?;
                let target = self.address_of(&peer).to_string();
                self.fail(diagnose::meet(target, &error));
                None
            }
            _ => None,
        }
    }

    fn ask(&mut self, peer: PeerId) {
        let now = self.wanted.clock.wall();
        let request = MeetRequest {
            checkpoint_sequence: 0,
            documents: true,
            nodes_max: MEET_NODES_MAX as u32,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: now.0 - now.0 % 1_000,
            capability: None,
            checkpoint: None,
            statements_sha256: Vec::new(),
            wanted: Vec::new(),
        };
        let id = self.swarm.behaviour_mut().send_request(&peer, request);
        self.asked.insert(id, peer);
    }

    fn on_answer(&mut self, peer: PeerId, response: MeetResponse) -> Option<Joined> {
        let (network, policy) = (self.wanted.network, self.wanted.policy);
        let now = self.wanted.clock.wall();
        let address = self.address_of(&peer);
        match answer::verified(response, network, peer, address, policy, now) {
            Ok(joined) => Some(joined),
            Err(failure) => {
                self.fail(failure);
                None
            }
        }
    }

    /// With `/p2p/<peer>`.
    fn address_of(&self, peer: &PeerId) -> Multiaddr {
        let address = self
            .reached
            .get(peer)
            .cloned()
            .unwrap_or_else(Multiaddr::empty);
        match peer_of(&address) {
            Some(_) => address,
            None => address.with_p2p(*peer).expect("it ends with no peer"),
        }
    }

    fn dial_failed(&mut self, address: &Multiaddr, error: &DialError) {
        if diagnose::is_ourselves(error) {
            self.fail(diagnose::bad_document(
                address.to_string(),
                "the address leads to this node itself",
            ));
        }
        for failure in diagnose::dial(peer_of(address), error) {
            self.fail(failure.told);
        }
    }

    fn fail(&mut self, failure: Unavailable) {
        self.failures.insert(failure.target.clone(), failure);
    }

    fn out_of_time(&mut self) {
        let after = self.wanted.timeout;
        let dialled = self.dials.values().map(ToString::to_string);
        let asked = self
            .asked
            .values()
            .map(|peer| self.address_of(peer).to_string());
        let late: Vec<_> = dialled.chain(asked).collect();
        for target in late {
            self.fail(diagnose::too_slow(target, after));
        }
        if self.failures.is_empty() {
            self.fail(diagnose::too_slow("the name server", after));
        }
    }
}

/// Each address by itself, also when several are of one peer: one dead address must not hide another.
fn opts(address: &Multiaddr) -> DialOpts {
    match peer_of(address) {
        Some(peer) => DialOpts::peer_id(peer)
            .addresses(vec![address.clone()])
            .condition(PeerCondition::Always)
            .build(),
        None => DialOpts::unknown_peer_id().address(address.clone()).build(),
    }
}
