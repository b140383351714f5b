//! Whom a wrong piece speaks against when others write into the same file.

use owm_proto::{Ladder, LadderBuilder, PieceLen};
use tokio::sync::mpsc;

use super::*;
use crate::{
    PeerId,
    exchange::{
        driver::{Banned, testing::alone},
        machine::{Effect, RequestId, Source},
        store::{Partial, Store, StoreConfig},
    },
};

const PIECE: usize = 1 << 20;

/// A file of one piece that is fetched from nobody by itself, into a real store.
struct World {
    shared: Arc<Shared>,
    bans: mpsc::Receiver<Banned>,
    store: Store,
    _folder: tempfile::TempDir,
    ladder: Arc<Ladder>,
    bytes: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let (shared, bans) = alone();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig {
            spare: 0,
            ..StoreConfig::new(folder.path())
        });
        let bytes: Vec<u8> = (0..PIECE).map(|n| (n * 31 + (n >> 9)) as u8).collect();
        let mut builder = LadderBuilder::new(PieceLen::new(PIECE as u64).unwrap());
        builder.update(&bytes);
        let ladder = Arc::new(builder.finish().unwrap());
        let store = store.unwrap();
        let growing = store.begin(Arc::clone(&ladder)).unwrap();
        drop(shared.want(&ladder, Arc::new(growing)));
        Self {
            shared,
            bans,
            store,
            _folder: folder,
            ladder,
            bytes,
        }
    }

    /// The same file in other hands.
    fn other(&self) -> Partial {
        self.store.begin(Arc::clone(&self.ladder)).unwrap()
    }

    /// A peer has the file: what it is asked for, the second part first, so that not all is hashed as it comes.
    fn asked(&self, peer: PeerId) -> Vec<(RequestId, Range<u64>)> {
        let mut core = self.shared.core();
        let offered = Event::Offered {
            source: Source::Peer(peer),
            file: self.ladder.spec().sha256(),
            pieces: None,
            rtt: None,
        };
        core.machine.handle(self.shared.now(), offered);
        let mut asked = Vec::new();
        while let Some(effect) = core.machine.poll_effect() {
            match effect {
                Effect::Request { request, range, .. } => asked.push((request, range)),
                other => panic!("{other:?}"),
            }
        }
        assert!(asked.len() > 1, "in several parts");
        asked.swap(0, 1);
        asked
    }

    async fn gives(&self, (request, range): (RequestId, Range<u64>), flips: u8) {
        let mut bytes = self.bytes[range.start as usize..range.end as usize].to_vec();
        bytes[7] ^= flips;
        self.shared.deliver(request, bytes).await;
    }

    /// Who was named, once everything has been looked at.
    async fn named(&mut self) -> Vec<PeerId> {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        let mut named = Vec::new();
        while let Ok(ban) = self.bans.try_recv() {
            named.push(ban.peer);
        }
        named
    }
}

#[tokio::test]
async fn an_honest_peer_is_not_named_for_what_another_writer_has_put_into_its_piece() {
    for (others_write, lies) in [(true, false), (false, true)] {
        let (mut world, peer) = (World::new(), PeerId::random());
        let mut asked = world.asked(peer).into_iter();
        let second = asked.next().unwrap();
        let at = second.1.start;
        world.gives(second, lies.into()).await;
        let other = world.other();
        if others_write {
            other.write(at + 100, &[0xaa; 50]).unwrap();
        }
        for part in asked {
            world.gives(part, 0).await;
        }
        let named = world.named().await;
        let (file, core) = (world.ladder.spec().sha256(), world.shared.core());
        assert_eq!(core.machine.progress(&file).unwrap().proved, 0);
        drop(core);
        // The same wrong piece names who gave all of it.
        assert_eq!(named, if lies { vec![peer] } else { vec![] });
    }
}

#[tokio::test]
async fn what_others_may_have_written_is_no_evidence() {
    let world = World::new();
    let (one, other) = (world.other(), world.other());
    one.write(0, &world.bytes).unwrap();
    let ranges = || vec![0..100, 100..PIECE as u64];
    assert_eq!(evidence(&one, 0, ranges()).unwrap().len(), 2);
    other.write(5, &[0xaa; 10]).unwrap();
    assert_eq!(evidence(&one, 0, ranges()).unwrap(), []);
    // Somebody looks at it and finds it wrong: it is nobody's as before.
    assert!(!other.settle(0).unwrap());
    one.write(200, &[0xaa; 10]).unwrap();
    assert_eq!(evidence(&one, 0, ranges()).unwrap(), []);
    one.write(0, &world.bytes).unwrap();
    assert!(one.proved(0).unwrap());
    assert_eq!(evidence(&one, 0, ranges()).unwrap().len(), 2, "proved");
}
