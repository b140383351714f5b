//! The daemon's end of the swarm: cloneable, bounded, and of no use once the service has ended.

use std::sync::Arc;

use libp2p::{Multiaddr, PeerId};
use owm_proto::Envelope;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Documents, OwnMessage, P2pError, SwarmView, counts::Counts, exchange::Streams,
    news::NewestCheckpoint,
};

/// Commands that wait for the loop.
pub(crate) const COMMAND_QUEUE: usize = 256;

/// What the loop is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Publish a signed heartbeat or capability of our own.
    Announce(Envelope, oneshot::Sender<Result<(), P2pError>>),
    /// The same, signed in this process.
    AnnounceOwn(OwnMessage, oneshot::Sender<Result<(), P2pError>>),
    /// Serve and announce a checkpoint.
    Checkpoint(Box<NewestCheckpoint>, oneshot::Sender<Result<(), P2pError>>),
    /// Serve newer documents.
    Documents(Box<Documents>),
    /// Try these addresses, in the name of a source.
    Candidates(&'static str, Vec<Multiaddr>),
    /// Never talk to this peer again.
    Block(PeerId),
    /// The remembered peers as JSON.
    Remembered(oneshot::Sender<Vec<u8>>),
}

/// The swarm.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) peer: PeerId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) view: watch::Receiver<Arc<SwarmView>>,
    pub(crate) counts: watch::Receiver<Counts>,
    pub(crate) streams: Streams,
    pub(crate) stop: CancellationToken,
}

impl Handle {
    /// Who we are.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The newest snapshot, and the next ones.
    pub fn view(&self) -> watch::Receiver<Arc<SwarmView>> {
        self.view.clone()
    }

    /// What it has counted, at most a quarter of a second ago.
    pub fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    /// What the exchange of files runs over.
    pub fn streams(&self) -> Streams {
        self.streams.clone()
    }

    /// Ends the service: its future completes once all connections are closed.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Publishes a heartbeat or capability that this process has signed with the peer's own key, checked for
    /// everything but the signature. `Ok` also while nobody listens: it is kept and told to who connects.
    pub async fn announce_own(&self, message: OwnMessage) -> Result<(), P2pError> {
        self.ask(|answer| Command::AnnounceOwn(message, answer))
            .await
    }

    /// Like [`Self::announce_own`], of an envelope that came from elsewhere: its signature is checked too.
    pub async fn announce(&self, envelope: Envelope) -> Result<(), P2pError> {
        self.ask(|answer| Command::Announce(envelope, answer)).await
    }

    /// Serves a checkpoint, and announces it if it is newer than what is known.
    pub async fn announce_checkpoint(&self, newest: NewestCheckpoint) -> Result<(), P2pError> {
        self.ask(|answer| Command::Checkpoint(Box::new(newest), answer))
            .await
    }

    /// Serves newer documents (a new delegation or revocation, other shards).
    pub async fn set_documents(&self, documents: Documents) -> Result<(), P2pError> {
        self.tell(Command::Documents(Box::new(documents))).await
    }

    /// Addresses to try, with `/p2p/<peer>` or without; `source` names them in the view.
    pub async fn add_candidates(
        &self,
        source: &'static str,
        addresses: Vec<Multiaddr>,
    ) -> Result<(), P2pError> {
        self.tell(Command::Candidates(source, addresses)).await
    }

    /// Cuts a peer off for good.
    pub async fn block(&self, peer: PeerId) -> Result<(), P2pError> {
        self.tell(Command::Block(peer)).await
    }

    /// The remembered peers, to be written to the disk from time to time and read back with
    /// [`Book::from_json`](crate::peer::Book::from_json) at the next start.
    pub async fn remembered(&self) -> Result<Vec<u8>, P2pError> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Remembered(answer)).await?;
        answered.await.map_err(|_| P2pError::Stopped)
    }

    async fn tell(&self, command: Command) -> Result<(), P2pError> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| P2pError::Stopped)
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), P2pError>>) -> Command,
    ) -> Result<(), P2pError> {
        let (answer, answered) = oneshot::channel();
        self.tell(command(answer)).await?;
        answered.await.map_err(|_| P2pError::Stopped)?
    }
}
