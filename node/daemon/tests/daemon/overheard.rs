//! What a node says to a peer, byte for byte as it was before encryption: a peer whose connections are listened to
//! where Noise has decrypted them, below the multiplexer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Transport as _,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version},
    identity::Keypair,
    noise, tcp, yamux,
};
use owm_p2p::Transport;
use owm_proto::NodeKey;

use super::tap::Tap;

/// TCP, Noise and Yamux, as peers speak it, with `tap` on all that comes in.
pub(crate) fn transport(key: &NodeKey, tap: &Tap) -> Transport {
    let mut seed = key.to_seed();
    let key = Keypair::ed25519_from_bytes(&mut seed[..]).unwrap();
    let muxer = Listening {
        inner: yamux::Config::default(),
        tap: tap.clone(),
    };
    let connections = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(muxer)
        .boxed();
    Transport::other(connections)
}

/// A multiplexer over connections that are listened to.
#[derive(Clone)]
struct Listening {
    inner: yamux::Config,
    tap: Tap,
}

impl UpgradeInfo for Listening {
    type Info = <yamux::Config as UpgradeInfo>::Info;
    type InfoIter = <yamux::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.inner.protocol_info()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Listening {
    type Output = <yamux::Config as InboundConnectionUpgrade<Overheard<C>>>::Output;
    type Error = <yamux::Config as InboundConnectionUpgrade<Overheard<C>>>::Error;
    type Future = <yamux::Config as InboundConnectionUpgrade<Overheard<C>>>::Future;

    fn upgrade_inbound(self, inner: C, info: Self::Info) -> Self::Future {
        let Self { inner: muxer, tap } = self;
        muxer.upgrade_inbound(Overheard { inner, tap }, info)
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C>
    for Listening
{
    type Output = <yamux::Config as OutboundConnectionUpgrade<Overheard<C>>>::Output;
    type Error = <yamux::Config as OutboundConnectionUpgrade<Overheard<C>>>::Error;
    type Future = <yamux::Config as OutboundConnectionUpgrade<Overheard<C>>>::Future;

    fn upgrade_outbound(self, inner: C, info: Self::Info) -> Self::Future {
        let Self { inner: muxer, tap } = self;
        muxer.upgrade_outbound(Overheard { inner, tap }, info)
    }
}

/// A connection that is listened to.
struct Overheard<C> {
    inner: C,
    tap: Tap,
}

impl<C: AsyncRead + Unpin> AsyncRead for Overheard<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.tap.hears(&buffer[..read]);
        Poll::Ready(Ok(read))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Overheard<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}
