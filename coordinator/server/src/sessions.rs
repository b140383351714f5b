//! Which nodes are connected right now and what they offer: the in-memory side of sessions. The
//! database knows which session counts; here are its credits and the way to its node.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use owm_coordinator_domain::schedule::{Candidate, Credits};
use owm_coordinator_store::node::Node;
use owm_proto::{
    NodeId, PublicKey, Role, SessionId, Sha256, TaskId, UnixMillis, limits::CREDITS_MAX,
    wire::coordinator as wire,
};
use owm_service::CancellationToken;
use tokio::sync::mpsc::{self, error::TrySendError};

/// Messages waiting for one node: a node that lets so many pile up takes nothing any more, and its
/// session counts as lost.
pub const DOWN_PENDING_MAX: usize = 1_024;

/// The way down to a node.
pub type Down = mpsc::Sender<wire::WorkDown>;

/// One opening of one node's session: a reconnect is another one, so that what is left of the old
/// connection can't touch the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Whose.
    pub node: NodeId,
    generation: u64,
}

/// One connected session.
#[derive(Debug)]
struct Session {
    seat: Seat,
    run: SessionId,
    key: PublicKey,
    facts: Candidate,
    /// When this run of its process first opened it; a reconnect does not count.
    opened_at: UnixMillis,
    down: Option<Down>,
    /// Leases the node works on.
    running: HashMap<TaskId, (u64, Role)>,
    /// Since when it has no stream; polls come and go.
    lost_at: Option<UnixMillis>,
    last_sign_at: UnixMillis,
    polls: bool,
    /// Its queue was full: nothing reaches it any more.
    overflowed: bool,
    /// Ends its stream then.
    cut: CancellationToken,
    /// Slots it had when a lease last ended, and when: its next offer is on its way.
    slots_before: (u32, UnixMillis),
    /// Whether it has withdrawn its slots since its last offer: then no offer is on its way.
    withdrawn: bool,
}

/// A node offers a slot again as soon as its lease has ended; until then the slot counts as there.
const OFFER_EXPECTED_WITHIN: Duration = Duration::from_secs(5);

/// All connected sessions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    inner: Arc<Mutex<HashMap<NodeId, Session>>>,
    opened: Arc<AtomicU64>,
}

/// What a session is opened with.
#[derive(Debug)]
pub struct Opening {
    /// The node's row.
    pub node: Node,
    /// This run of its process.
    pub session: SessionId,
    /// The way down to it.
    pub down: Option<Down>,
    /// Whether it polls.
    pub polls: bool,
    /// Now.
    pub now: UnixMillis,
}

/// A session as the public page shows it.
#[derive(Clone, Debug)]
pub struct Presence {
    /// Whose.
    pub node: NodeId,
    /// Only active nodes get work.
    pub status: owm_proto::NodeStatus,
    /// Since when this run of its process is here.
    pub since: UnixMillis,
    /// Since when its stream is broken, if it is.
    pub lost_at: Option<UnixMillis>,
    /// Inference slots, busy ones included.
    pub slots: u32,
    /// Leases of any role that it works on.
    pub busy: u32,
    /// Weights files it has loaded.
    pub loaded: Vec<Sha256>,
}

/// A node as the dispatcher and the public see it.
#[derive(Clone, Debug)]
pub struct Connected {
    /// For the scheduling rules.
    pub candidate: Candidate,
    /// Its identity: what payloads are sealed to.
    pub key: PublicKey,
    /// Where a lease goes.
    pub seat: Seat,
}

impl Sessions {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<NodeId, Session>) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a session, without credits: they come with its first offer. An older process of the same
    /// node is told that it is fenced.
    pub fn open(&self, opening: Opening) -> Seat {
        let node = opening.node;
        let generation = self.opened.fetch_add(1, Ordering::Relaxed);
        let seat = Seat {
            node: node.node_id,
            generation,
        };
        let facts = Candidate {
            node: node.node_id,
            owner: node.owner,
            status: node.status,
            tier: node.effective_tier,
            cpu_only: node.cpu_only,
            reliability: node.reliability,
            stake_bonus: node.stake_bonus,
            credits: Credits::default(),
            infer_slots: 0,
            training: false,
            loaded: vec![],
        };
        let new = Session {
            seat,
            run: opening.session,
            key: node.public_key,
            facts,
            opened_at: opening.now,
            down: opening.down,
            running: HashMap::new(),
            lost_at: None,
            last_sign_at: opening.now,
            polls: opening.polls,
            overflowed: false,
            cut: CancellationToken::new(),
            slots_before: (0, opening.now),
            withdrawn: false,
        };
        let old = self.with(|all| {
            let before = all.get(&seat.node).filter(|old| old.run == opening.session);
            let opened_at = before.map_or(opening.now, |old| old.opened_at);
            all.insert(seat.node, Session { opened_at, ..new })
        });
        let fences = old.filter(|old| old.run != opening.session);
        if let Some(down) = fences.and_then(|old| old.down) {
            drop(down.try_send(fenced()));
        }
        seat
    }

    /// Leases that the node goes on with after a reconnect.
    pub fn adopt(&self, seat: Seat, running: Vec<(TaskId, u64, Role)>) {
        self.with_seat(seat, |s| {
            s.running.extend(
                running
                    .into_iter()
                    .map(|(task, epoch, role)| (task, (epoch, role))),
            );
            s.count_slots();
        });
    }

    fn with_seat<T>(&self, seat: Seat, f: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.with(|all| all.get_mut(&seat.node).filter(|s| s.seat == seat).map(f))
    }

    /// Whether `seat` is the one that counts for its node.
    pub fn is_current(&self, seat: Seat) -> bool {
        self.with_seat(seat, |s| !s.overflowed) == Some(true)
    }

    /// Cancelled when the session is cut off because its node takes nothing.
    pub fn cut(&self, seat: Seat) -> CancellationToken {
        let cut = self.with_seat(seat, |s| s.cut.clone());
        cut.unwrap_or_else(|| {
            let gone = CancellationToken::new();
            gone.cancel();
            gone
        })
    }

    /// Whether the node works on this lease, as far as is known here.
    pub fn is_running(&self, seat: Seat, task: TaskId, epoch: u64) -> bool {
        let is_it = |s: &mut Session| s.running.get(&task).is_some_and(|(e, _)| *e == epoch);
        self.with_seat(seat, is_it) == Some(true)
    }

    /// Whether a node has a session here.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.with(|all| all.contains_key(&node))
    }

    /// The node takes no more work: it is going to stop.
    pub fn drain(&self, node: NodeId) {
        self.with(|all| {
            if let Some(s) = all.get_mut(&node) {
                s.facts.credits = Credits::default();
                s.expect_no_offer();
            }
        });
    }

    /// The node takes no more work of a role until its next offer.
    pub fn withdraw(&self, seat: Seat, role: Role) {
        self.with_seat(seat, |s| {
            *s.facts.credits.of_mut(role) = 0;
            s.expect_no_offer();
        });
    }

    /// Adds credits for a role and replaces the set of loaded weights.
    pub fn offer(&self, seat: Seat, role: Role, credits: u32, loaded: Vec<Sha256>) {
        self.with_seat(seat, |s| {
            let free = s.facts.credits.of_mut(role);
            *free = free.saturating_add(credits).min(CREDITS_MAX);
            // Weights alone, without a credit, say nothing about slots.
            s.withdrawn &= credits == 0;
            s.facts.loaded = loaded;
            s.count_slots();
        });
    }

    /// Any sign of life.
    pub fn touch(&self, node: NodeId, now: UnixMillis) {
        self.with(|all| {
            if let Some(s) = all.get_mut(&node) {
                s.last_sign_at = now;
            }
        });
    }

    /// Silence before `now` was our own, not the nodes': all have the usual time to be heard again.
    pub fn forgive_silence(&self, now: UnixMillis) {
        self.with(|all| {
            for s in all.values_mut() {
                s.last_sign_at = s.last_sign_at.max(now);
                s.lost_at = s.lost_at.map(|at| at.max(now));
            }
        });
    }

    /// The stream broke; the session may come back.
    pub fn lose_stream(&self, seat: Seat, now: UnixMillis) {
        self.with_seat(seat, |s| {
            s.down = None;
            s.facts.credits = Credits::default();
            s.lost_at = s.lost_at.or(Some(now));
        });
    }

    /// Forgets sessions that `gone` says are gone; returns their nodes and runs.
    pub fn remove_gone(
        &self,
        gone: impl Fn(bool, UnixMillis, Option<UnixMillis>) -> bool,
    ) -> Vec<(NodeId, SessionId)> {
        self.with(|all| {
            // A stream that is cut off has the usual time to come back; polls have no stream to lose.
            let is_gone =
                |s: &Session| s.polls && s.overflowed || gone(s.polls, s.last_sign_at, s.lost_at);
            all.extract_if(|_, s| is_gone(s))
                .map(|(id, s)| (id, s.run))
                .collect()
        })
    }

    /// Every session with its run.
    pub fn runs(&self) -> Vec<(NodeId, SessionId)> {
        self.with(|all| all.iter().map(|(node, s)| (*node, s.run)).collect())
    }

    /// Forgets a session that another one has superseded; another process is told that it is fenced.
    pub fn supersede(&self, node: NodeId, run: SessionId, by_another_process: bool) {
        let gone = self.with(|all| match all.get(&node) {
            Some(s) if s.run == run => all.remove(&node),
            _ => None,
        });
        if let Some(down) = gone.filter(|_| by_another_process).and_then(|s| s.down) {
            drop(down.try_send(fenced()));
        }
    }

    /// All nodes that can be sent work now.
    pub fn candidates(&self) -> Vec<Connected> {
        self.with(|all| {
            let mut connected: Vec<Connected> = all
                .values()
                .filter(|s| s.down.is_some())
                .map(|s| Connected {
                    candidate: s.facts.clone(),
                    key: s.key,
                    seat: s.seat,
                })
                .collect();
            // The map's order is random; the scheduling rules are replayable.
            connected.sort_by_key(|c| c.candidate.node);
            connected
        })
    }

    /// Sends a lease down and takes a credit for it. `false`: it was not delivered.
    pub fn lease(
        &self,
        seat: Seat,
        task: TaskId,
        epoch: u64,
        role: Role,
        lease: wire::Lease,
    ) -> bool {
        let delivered = self.with_seat(seat, |s| {
            let sent = s.tell(wire::work_down::Message::Lease(lease));
            if sent {
                let free = s.facts.credits.of_mut(role);
                *free = free.saturating_sub(1);
                s.running.insert(task, (epoch, role));
                s.count_slots();
            }
            sent
        });
        delivered == Some(true)
    }

    /// A lease ended, whoever ended it.
    pub fn release(&self, node: NodeId, task: TaskId, epoch: u64, now: UnixMillis) {
        self.with(|all| {
            let Some(s) = all.get_mut(&node) else { return };
            if s.running.get(&task).is_some_and(|(e, _)| *e == epoch) {
                s.slots_before = (s.facts.infer_slots, now);
                s.running.remove(&task);
                s.count_slots();
            }
        });
    }

    /// Sends a message to one node, if it is there and keeps up.
    pub fn send(&self, node: NodeId, message: wire::work_down::Message) {
        self.with(|all| {
            if let Some(s) = all.get_mut(&node) {
                s.tell(message);
            }
        });
    }

    /// Sends a message to everybody.
    pub fn broadcast(&self, message: &wire::work_down::Message) {
        self.with(|all| {
            for s in all.values_mut() {
                s.tell(message.clone());
            }
        });
    }

    /// Inference slots, busy ones included, of active nodes that have all of `weights` loaded.
    pub fn slots_holding(&self, weights: &[Sha256], now: UnixMillis) -> u32 {
        self.with(|all| {
            all.values()
                .filter(|s| s.facts.status == owm_proto::NodeStatus::Active)
                .filter(|s| weights.iter().all(|w| s.facts.loaded.contains(w)))
                .map(|s| s.slots(now))
                .sum()
        })
    }

    /// Every node with a session and its inference slots, busy ones included; 0: it takes no work.
    pub fn slots_by_node(&self, now: UnixMillis) -> HashMap<NodeId, u32> {
        self.with(|all| all.iter().map(|(node, s)| (*node, s.slots(now))).collect())
    }

    /// Nodes with a session.
    pub fn connected_nodes(&self) -> Vec<NodeId> {
        let mut ids: Vec<NodeId> = self.with(|all| all.keys().copied().collect());
        ids.sort();
        ids
    }

    /// Every session as the public page shows it.
    pub fn presences(&self, now: UnixMillis) -> Vec<Presence> {
        self.with(|all| {
            all.values()
                .map(|s| Presence {
                    node: s.seat.node,
                    status: s.facts.status,
                    since: s.opened_at,
                    lost_at: s.lost_at,
                    slots: s.slots(now),
                    busy: s.running.len() as u32,
                    loaded: s.facts.loaded.clone(),
                })
                .collect()
        })
    }

    /// Takes over what the reconcilers made of a node's row.
    pub fn refresh(&self, node: &Node) {
        self.with(|all| {
            if let Some(s) = all.get_mut(&node.node_id) {
                s.facts.status = node.status;
                s.facts.tier = node.effective_tier;
                s.facts.reliability = node.reliability;
                s.facts.stake_bonus = node.stake_bonus;
            }
        });
    }
}

fn fenced() -> wire::WorkDown {
    let reason = "another process runs with this node's key".to_owned();
    let message = wire::work_down::Message::Fenced(wire::Fenced { reason });
    wire::WorkDown {
        message: Some(message),
    }
}

impl Session {
    /// `false`: it can't be told. A full or a closed queue ends the session's way down.
    fn tell(&mut self, message: wire::work_down::Message) -> bool {
        let Some(down) = &self.down else { return false };
        let message = wire::WorkDown {
            message: Some(message),
        };
        match down.try_send(message) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => {
                // Its reader is about to end; until then nothing more is leased to it.
                self.down = None;
                self.facts.credits = Credits::default();
                self.count_slots();
                false
            }
            Err(TrySendError::Full(_)) => {
                tracing::warn!(node.id = %self.seat.node, "the node takes no messages; its session counts as lost");
                self.overflowed = true;
                self.down = None;
                self.facts.credits = Credits::default();
                self.count_slots();
                self.cut.cancel();
                false
            }
        }
    }

    /// Inference slots, one that is about to be offered again included.
    fn slots(&self, now: UnixMillis) -> u32 {
        let (before, at) = self.slots_before;
        let expected =
            self.down.is_some() && !self.withdrawn && now.since(at) < OFFER_EXPECTED_WITHIN;
        self.facts
            .infer_slots
            .max(if expected { before } else { 0 })
    }

    /// The slot of a lease that ends is not offered again.
    fn expect_no_offer(&mut self) {
        self.withdrawn = true;
        self.count_slots();
    }

    fn count_slots(&mut self) {
        let busy = self
            .running
            .values()
            .filter(|(_, role)| *role == Role::Infer)
            .count() as u32;
        self.facts.infer_slots = self.facts.credits.infer.saturating_add(busy);
        self.facts.training = self.running.values().any(|(_, role)| *role == Role::Train);
    }
}

#[cfg(test)]
mod tests;
