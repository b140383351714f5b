//! Parts of a peer that are polled only when one of them has something to do. A swarm polls all its behaviours for
//! each event of any, a connection all its handlers for each packet; with a dozen of them beside gossip that is a
//! good part of what a message costs. Here whoever is not gossip sleeps behind a waker of its own until that is
//! called, or until something is told to it. `behaviour` puts all but gossip behind it.
//!
//! Must stay true: whatever can change what is inside rings first, so that no wake-up is lost; who was ready is
//! polled again.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::ConnectionEvent,
    },
};

/// Wakes the task it is in, and remembers that it did.
#[derive(Debug)]
struct Alarm {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Something that sleeps until it is woken.
#[derive(Debug)]
pub(crate) struct Doze<T> {
    inner: T,
    alarm: Arc<Alarm>,
    waker: Waker,
}

impl<T> Doze<T> {
    /// Awake at first.
    pub(crate) fn new(inner: T) -> Self {
        let alarm = Arc::new(Alarm {
            rung: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        let waker = Waker::from(Arc::clone(&alarm));
        Self {
            inner,
            alarm,
            waker,
        }
    }

    fn ring(&self) {
        self.alarm.rung.store(true, Ordering::Release);
    }

    /// Polls what is inside if it has been woken.
    fn poll_woken<R>(
        &mut self,
        cx: &Context<'_>,
        poll: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        // Before looking, or a ring between the two would wake nobody.
        self.alarm.task.register(cx.waker());
        if !self.alarm.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let polled = poll(&mut self.inner, &mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            self.ring();
        }
        polled
    }
}

impl<T> Deref for Doze<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Doze<T> {
    /// Whoever asks for this means to change something.
    fn deref_mut(&mut self) -> &mut T {
        self.ring();
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Doze<B> {
    type ConnectionHandler = Doze<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        (**self).handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        (**self)
            .handle_established_inbound_connection(connection, peer, local, remote)
            .map(Doze::new)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        (**self).handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        (**self)
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
            .map(Doze::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        (**self).on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        (**self).on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.poll_woken(cx, B::poll)
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Doze<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        self.poll_woken(cx, H::poll)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        (**self).poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        (**self).on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        (**self).on_connection_event(event);
    }
}

#[cfg(test)]
mod tests;
