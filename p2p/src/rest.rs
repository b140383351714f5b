//! Who is not to be dialled for a while, and the gate that refuses such dials. The plan keeps its own pauses and
//! is let through ([`Rests::permit`]); parts of libp2p dial by themselves (the DHT on its walks, gossip), and so
//! does `service::dht` for providers: all of these go by what is kept here, whoever's dial it was that failed.
//!
//! Must stay true: bounded; who is connected may always be dialled (a hole is punched, an address tested); a
//! dial that was refused here says nothing about its peer. Called by `bootstrap::driver` (what became of dials)
//! and libp2p (the gate).

use std::{
    collections::HashSet,
    convert::Infallible,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use lru::LruCache;
use rand::Rng;

use crate::{Clock, bootstrap::plan::Pause};

/// Peers whose failures are remembered, those dialled last: far more than a walk meets in ten minutes.
const RESTING_MAX: NonZeroUsize = NonZeroUsize::new(1_024).expect("above 0");

/// It was dialled without success just now.
#[derive(Debug, thiserror::Error)]
#[error("it could not be reached lately; it is dialled again after a pause")]
pub(crate) struct Resting;

/// Shared by the plan's driver and the gate.
#[derive(Clone, Debug)]
pub(crate) struct Rests(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    pauses: LruCache<PeerId, Pause>,
    permitted: Option<ConnectionId>,
    held: u64,
}

impl Default for Rests {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            pauses: LruCache::new(RESTING_MAX),
            permitted: None,
            held: 0,
        })))
    }
}

impl Rests {
    /// The dial of this name is the plan's, which has pauses of its own: it may be made. The next call ends it.
    pub(crate) fn permit(&self, dial: Option<ConnectionId>) {
        self.lock().permitted = dial;
    }

    /// Dialling the peer failed, or it hung up at once.
    pub(crate) fn fail(&self, peer: PeerId, now: Duration, rng: &mut impl Rng) {
        let mut inner = self.lock();
        let pause = inner.pauses.get_or_insert_mut(peer, Pause::default);
        pause.fail(now, rng);
    }

    /// It is of no use: another network, another version.
    pub(crate) fn fail_for_long(&self, peer: PeerId, now: Duration, rng: &mut impl Rng) {
        let mut inner = self.lock();
        let pause = inner.pauses.get_or_insert_mut(peer, Pause::default);
        pause.fail_for_long(now, rng);
    }

    /// It was connected for a good while.
    pub(crate) fn forget(&self, peer: &PeerId) {
        self.lock().pauses.pop(peer);
    }

    /// The machine slept: networks and addresses have changed.
    pub(crate) fn forgive(&self) {
        let mut inner = self.lock();
        for (_, pause) in &mut inner.pauses {
            pause.forgive();
        }
    }

    fn may_dial(&self, dial: ConnectionId, peer: &PeerId, now: Duration) -> bool {
        let mut inner = self.lock();
        let pause = inner.pauses.peek(peer);
        let may =
            inner.permitted == Some(dial) || pause.is_none_or(|pause| pause.until(false) <= now);
        inner.held += u64::from(!may);
        may
    }

    /// Dials refused so far: the swarm tells only behaviours of them, not its owner.
    pub(crate) fn held(&self) -> u64 {
        self.lock().held
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a dial was not made because of a pause.
pub(crate) fn is_held(error: &DialError) -> bool {
    matches!(error, DialError::Denied { cause } if cause.downcast_ref::<Resting>().is_some())
}

/// Refuses dials of peers that rest.
#[derive(Debug)]
pub(crate) struct Gate {
    rests: Rests,
    clock: Arc<dyn Clock>,
    connected: HashSet<PeerId>,
}

impl Gate {
    pub(crate) fn new(rests: Rests, clock: Arc<dyn Clock>) -> Self {
        Self {
            rests,
            clock,
            connected: HashSet::new(),
        }
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        dial: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let now = self.clock.monotonic();
        match peer {
            Some(peer)
                if !self.connected.contains(&peer) && !self.rests.may_dial(dial, &peer, now) =>
            {
                Err(ConnectionDenied::new(Resting))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                self.connected.insert(new.peer_id);
            }
            FromSwarm::ConnectionClosed(old) if old.remaining_established == 0 => {
                self.connected.remove(&old.peer_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn pauses_double_and_hold_for_everybody_but_the_plan() {
        let (rests, peer) = (Rests::default(), PeerId::random());
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let [plans, other] = [1, 2].map(ConnectionId::new_unchecked);
        let at = Duration::from_secs;
        assert!(rests.may_dial(other, &peer, at(9)));
        // Seconds at which somebody tries, over and over; each attempt that is made fails.
        let mut made = Vec::new();
        for second in 10..1_000 {
            if rests.may_dial(other, &peer, at(second)) {
                made.push(second);
                rests.fail(peer, at(second), &mut rng);
            }
        }
        assert!((6..=11).contains(&made.len()), "{made:?}");
        assert!(!rests.may_dial(plans, &peer, at(made[made.len() - 1])));
        rests.permit(Some(plans));
        assert!(rests.may_dial(plans, &peer, at(made[made.len() - 1])));
        assert!(!rests.may_dial(other, &peer, at(made[made.len() - 1])));
        rests.forget(&peer);
        assert!(rests.may_dial(other, &peer, at(1_000)));
    }

    #[test]
    fn ever_new_names_displace_the_oldest_and_no_more() {
        let rests = Rests::default();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..3 * RESTING_MAX.get() {
            rests.fail(PeerId::random(), Duration::from_secs(1), &mut rng);
        }
        assert_eq!(rests.lock().pauses.len(), RESTING_MAX.get());
    }
}
