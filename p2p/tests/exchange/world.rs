//! Peers that serve and fetch, peers that misbehave by a script, and a file.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Stream, Swarm,
    identity::Keypair,
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
};
use owm_p2p::{
    Clock,
    exchange::{
        Exchange, ExchangeConfig, PieceSet, Sources,
        behaviour::{Behaviour, protocol},
        driver::{Banned, FetchError},
        files::{
            Shelf, Target,
            memory::{MemoryFile, MemoryShelf},
        },
        serve::{Audience, ServedCounts},
        wire::{ANSWER_BYTES, Answer, Ask, Have, REQUEST_BYTES, Request, Status},
    },
};
use owm_proto::{
    FileSpec, Ladder, LadderBuilder, PieceLen, Sha256, UnixMillis, genesis::NetworkId,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Far above what anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The system's clock.
#[derive(Debug)]
struct SystemClock(Instant);

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that is passed in"
    )]
    fn wall(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        UnixMillis(since.unwrap().as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How peers are connected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Over {
    Tcp,
    Quic,
}

pub(crate) fn network() -> NetworkId {
    NetworkId(Sha256::of(b"a network"))
}

/// A file of so many bytes with pieces of 256 KiB, and its bytes.
pub(crate) fn file(size: usize, salt: u8) -> (Arc<Ladder>, Vec<u8>) {
    file_of(PieceLen::MIN, size, salt)
}

pub(crate) fn file_of(pieces: PieceLen, size: usize, salt: u8) -> (Arc<Ladder>, Vec<u8>) {
    let bytes: Vec<u8> = (0..size)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ salt)
        .collect();
    let mut builder = LadderBuilder::new(pieces);
    builder.update(&bytes);
    (Arc::new(builder.finish().unwrap()), bytes)
}

/// A peer of ours, with its files in memory or in a store.
pub(crate) struct Peer<S = MemoryShelf> {
    pub(crate) id: PeerId,
    pub(crate) address: Multiaddr,
    pub(crate) exchange: Exchange,
    pub(crate) shelf: S,
    pub(crate) bans: mpsc::Receiver<Banned>,
    dials: Dials,
}

impl Peer {
    pub(crate) async fn start(n: u8, over: Over) -> Self {
        Self::with(n, over, ExchangeConfig::default()).await
    }

    pub(crate) async fn with(n: u8, over: Over, config: ExchangeConfig) -> Self {
        Self::over(n, over, config, MemoryShelf::default()).await
    }

    /// Holds all of a file and serves it to everybody.
    pub(crate) fn seeds(&self, ladder: &Arc<Ladder>, bytes: &[u8]) -> Arc<MemoryFile> {
        self.holds(ladder, bytes, PieceSet::all(ladder.pieces()))
    }

    pub(crate) fn holds(
        &self,
        ladder: &Arc<Ladder>,
        bytes: &[u8],
        pieces: PieceSet,
    ) -> Arc<MemoryFile> {
        let file = self.shelf.put(ladder, bytes.to_vec(), pieces);
        self.exchange.share(ladder.spec(), &Audience::Everyone);
        file
    }

    pub(crate) fn has(&self, file: &FileSpec) -> Option<Vec<u8>> {
        self.shelf.get(&file.sha256())?.complete()
    }
}

impl<S: Shelf + Target + Clone + 'static> Peer<S> {
    /// Starts one over these files.
    pub(crate) async fn over(n: u8, over: Over, config: ExchangeConfig, shelf: S) -> Self {
        let behaviour = Behaviour::new(&network());
        let streams = behaviour.streams();
        let (id, address, dials) = swarm(n, over, behaviour).await;
        let (banned, bans) = mpsc::channel(16);
        let config = ExchangeConfig {
            seed: [n; 32],
            bans: Some(banned),
            ..config
        };
        let clock = Arc::new(SystemClock(Instant::now()));
        let both = Arc::new(shelf.clone());
        let (exchange, run) = Exchange::new(
            streams,
            both.clone(),
            both,
            clock,
            config,
            CancellationToken::new(),
        );
        tokio::spawn(run);
        Self {
            id,
            address,
            exchange,
            shelf,
            bans,
            dials,
        }
    }

    /// Connects to another one.
    pub(crate) async fn knows(&self, id: PeerId, address: &Multiaddr) -> PeerId {
        let (connected, told) = oneshot::channel();
        let dial = (id, address.clone(), connected);
        self.dials.send(dial).await.unwrap();
        tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
        id
    }

    pub(crate) async fn knows_all(&self, others: &[Self]) -> Vec<PeerId> {
        for other in others {
            self.knows(other.id, &other.address).await;
        }
        others.iter().map(|other| other.id).collect()
    }

    /// Fetches it from these.
    pub(crate) async fn fetch(
        &self,
        file: &FileSpec,
        peers: Vec<PeerId>,
    ) -> Result<(), FetchError> {
        let sources = Sources { peers, web: None };
        let mut fetch = self.exchange.fetch(vec![*file], sources);
        let done = tokio::time::timeout(PATIENCE, fetch.done()).await;
        done.unwrap_or_else(|_| panic!("not fetched in time: {:?}", fetch.progress().borrow()))
    }
}

/// Waits for a counter of a server.
pub(crate) async fn seen(peer: &Peer, what: &str, enough: impl Fn(&ServedCounts) -> bool) {
    let seen = tokio::time::timeout(PATIENCE, async {
        while !enough(&peer.exchange.served()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(seen.await.is_ok(), "{what}: {:?}", peer.exchange.served());
}

/// Who is to be connected to, and who wants to hear of it.
pub(crate) type Dials = mpsc::Sender<(PeerId, Multiaddr, oneshot::Sender<()>)>;

/// Starts a swarm with one behaviour; it dials whom it is told to.
pub(crate) async fn swarm<B>(n: u8, over: Over, behaviour: B) -> (PeerId, Multiaddr, Dials)
where
    B: NetworkBehaviour + Send,
    B::ToSwarm: Send + std::fmt::Debug,
{
    let key = Keypair::ed25519_from_bytes([n; 32]).unwrap();
    let mut swarm: Swarm<B> = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default().nodelay(true),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_quic()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    let listen = match over {
        Over::Tcp => "/ip4/127.0.0.1/tcp/0",
        Over::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
    };
    swarm.listen_on(listen.parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let id = *swarm.local_peer_id();
    let (dials, mut told) = mpsc::channel::<(PeerId, Multiaddr, oneshot::Sender<()>)>(16);
    tokio::spawn(async move {
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                next = told.recv() => match next {
                    None => return,
                    Some((peer, address, connected)) => {
                        let dial = DialOpts::peer_id(peer).addresses(vec![address]);
                        swarm.dial(dial.build()).unwrap();
                        waiting.push((peer, connected));
                    }
                },
                event = swarm.select_next_some() => {
                    if let SwarmEvent::ConnectionEstablished { peer_id, .. } = event
                        && let Some(at) = waiting.iter().position(|(peer, _)| *peer == peer_id)
                    {
                        let _ = waiting.swap_remove(at).1.send(());
                    }
                }
            }
        }
    });
    (id, address, dials)
}

/// How a peer misbehaves. All of them say that they have all of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Script {
    /// It does not.
    Honest,
    /// One byte of this piece is wrong.
    LiesAbout(u32),
    /// One byte of the first range is wrong; it answers no other one.
    LiesOnceAndFallsSilent,
    /// A byte a second.
    Crawls,
    /// It answers so many ranges, then it is silent.
    FallsSilentAfter(usize),
    /// It answers so many ranges, then every stream ends.
    VanishesAfter(usize),
    /// It has nothing of what it says.
    Boasts,
    /// It has no time, ever.
    IsBusy,
    /// Its answers are longer than what was asked for.
    Overflows,
    /// Its ladder is another one.
    ForgesLadder,
    /// It never answers who asks for the ladder.
    KeepsLadder,
}

/// A peer that keeps to a script.
pub(crate) struct Scripted {
    pub(crate) id: PeerId,
    pub(crate) address: Multiaddr,
    actor: Arc<Actor>,
    _dials: Dials,
}

impl Scripted {
    /// Requests for the ladder so far.
    pub(crate) fn ladders(&self) -> usize {
        self.actor.ladders.load(Ordering::Relaxed)
    }

    /// Requests for bytes of the file so far.
    pub(crate) fn answered(&self) -> usize {
        self.actor.answered.load(Ordering::Relaxed)
    }

    pub(crate) async fn start(n: u8, ladder: &Arc<Ladder>, bytes: &[u8], script: Script) -> Self {
        let behaviour = libp2p_stream::Behaviour::new();
        let mut control = behaviour.new_control();
        let mut incoming = control.accept(protocol(&network())).unwrap();
        let (id, address, dials) = swarm(n, Over::Tcp, behaviour).await;
        let actor = Arc::new(Actor {
            ladder: Arc::clone(ladder),
            bytes: bytes.to_vec(),
            script,
            answered: AtomicUsize::new(0),
            ladders: AtomicUsize::new(0),
        });
        let playing = Arc::clone(&actor);
        tokio::spawn(async move {
            while let Some((_, stream)) = incoming.next().await {
                let actor = Arc::clone(&playing);
                tokio::spawn(async move { actor.play(stream).await });
            }
        });
        Self {
            id,
            address,
            actor,
            _dials: dials,
        }
    }
}

struct Actor {
    ladder: Arc<Ladder>,
    bytes: Vec<u8>,
    script: Script,
    answered: AtomicUsize,
    ladders: AtomicUsize,
}

impl Actor {
    async fn play(&self, mut stream: Stream) -> std::io::Result<()> {
        loop {
            let mut head = [0; REQUEST_BYTES];
            stream.read_exact(&mut head).await?;
            let request = Request::parse(&head).unwrap();
            let (status, body) = self.answer(&request);
            if let Ask::Range { .. } = request.ask
                && request.file == self.ladder.spec().sha256()
            {
                let before = self.answered.fetch_add(1, Ordering::Relaxed);
                match self.script {
                    Script::FallsSilentAfter(n) if before >= n => std::future::pending().await,
                    Script::VanishesAfter(n) if before >= n => return Ok(()),
                    Script::LiesOnceAndFallsSilent if before >= 1 => std::future::pending().await,
                    _ => {}
                }
            }
            if Some(request.file) == self.ladder.spec().ladder_sha256() {
                self.ladders.fetch_add(1, Ordering::Relaxed);
                if matches!(self.script, Script::KeepsLadder) {
                    std::future::pending::<()>().await;
                }
            }
            let mut length = body.len() as u32;
            if matches!(self.script, Script::Overflows) && matches!(request.ask, Ask::Range { .. })
            {
                length *= 2;
            }
            let answer = Answer {
                id: request.id,
                status,
                length,
            };
            let answer: [u8; ANSWER_BYTES] = answer.to_bytes();
            stream.write_all(&answer).await?;
            if matches!(self.script, Script::Crawls) && body.len() > 1_000 {
                for byte in &body {
                    stream.write_all(&[*byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            stream.write_all(&body).await?;
            stream.flush().await?;
        }
    }

    fn answer(&self, request: &Request) -> (Status, Vec<u8>) {
        let ladder = self.ladder.to_bytes();
        match request.ask {
            Ask::Have => (Status::Ok, Have::All.to_bytes()),
            Ask::Range { offset, length } => {
                let range = offset as usize..offset as usize + length as usize;
                if request.file != self.ladder.spec().sha256() {
                    let mut bytes = ladder[range].to_vec();
                    bytes[0] ^= u8::from(matches!(self.script, Script::ForgesLadder));
                    return (Status::Ok, bytes);
                }
                match self.script {
                    Script::Boasts => return (Status::Missing, Vec::new()),
                    Script::IsBusy => return (Status::Busy { retry_ms: 100 }, Vec::new()),
                    _ => {}
                }
                let mut bytes = self.bytes[range].to_vec();
                if let Script::LiesAbout(piece) = self.script
                    && self.ladder.range(piece).contains(&offset)
                {
                    bytes[0] ^= 1;
                }
                bytes[0] ^= u8::from(matches!(self.script, Script::LiesOnceAndFallsSilent));
                (Status::Ok, bytes)
            }
        }
    }
}
