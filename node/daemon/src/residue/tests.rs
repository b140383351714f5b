//! Every order of commits, verdicts and kills against a model in memory: the same residue goes into the next update.

mod orders;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use owm_proto::{NodeKey, genesis::NetworkId};
use owm_update::{Codec, Origin, encode_update};
use tempfile::TempDir;

use super::*;

/// Lets the disk fail from one write on.
#[derive(Clone, Debug, Default)]
pub(super) struct Fuse(Arc<AtomicU32>);

impl Fuse {
    /// Writes fail from the nth on; 0: none does.
    fn set(&self, nth: u32) {
        self.0.store(nth, Ordering::Relaxed);
    }

    pub(super) fn burn(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            1 => Err(io::Error::other("killed")),
            left => {
                self.0.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

struct World {
    folder: TempDir,
    store: ResidueStore,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let store = ResidueStore::new(folder.path().join("residues"));
    World { folder, store }
}

fn subject(round: u64) -> Subject {
    Subject {
        network: NetworkId(Sha256([1; 32])),
        round,
        sub_model: "owm-geo".parse().unwrap(),
        base: Sha256([2; 32]),
        layout: Sha256([3; 32]),
        mode: Mode::Full,
        origin: Origin::Node {
            node: NodeKey::from_seed(&[4; 32]).public(),
            samples: 1,
            steps: 1,
            clip: 1e9,
        },
    }
}

fn encoded(round: u64, before: Option<Residue>) -> Encoded {
    const ELEMENTS: usize = 300;
    let step = (0..ELEMENTS).map(|n| ((n + 7 * round as usize) as f32).sin());
    encode_update(subject(round), Codec::DEFAULT, step.collect(), before).unwrap()
}

/// What is left of `before` (nothing at all, if it is `None`) once `update` comes back.
fn with(before: Option<Residue>, update: &[u8]) -> Residue {
    let update = Update::parse(update).unwrap();
    let before = before.unwrap_or_else(|| nothing(&subject(0), &update).unwrap());
    before.put_back(&update).unwrap()
}

impl World {
    /// A round's update, made and prepared.
    fn round(&self, round: u64, committed: &dyn Fn(Sha256) -> bool) -> Encoded {
        let (before, absorbs) = self.store.load(&subject(round), committed).unwrap();
        let made = encoded(round, before);
        self.store.prepare(&subject(round), &made, absorbs).unwrap();
        made
    }

    fn current(&self) -> Option<Sha256> {
        let (residue, _) = self.store.load(&subject(0), &|_| false).unwrap();
        residue.map(|residue| residue.sha256())
    }

    fn files(&self) -> usize {
        let entries = fs::read_dir(self.folder.path().join("residues"));
        entries.map_or(0, Iterator::count)
    }
}

#[test]
fn a_kill_before_the_commit_leaves_the_old_residue_and_one_after_it_the_new() {
    let world = world();
    let never = |_: Sha256| false;
    let first = world.round(1, &never);
    assert_eq!(
        world.current(),
        None,
        "not committed: as if it had never been"
    );
    assert_eq!(world.files(), 1, "the book");
    let again = world.round(1, &never);
    assert_eq!(again.bytes, first.bytes, "nothing of it had counted");
    // Committed, and killed before the store hears it.
    let committed = |update: Sha256| update == first.sha256;
    let (loaded, _) = world.store.load(&subject(2), &committed).unwrap();
    assert_eq!(
        loaded.map(|loaded| loaded.sha256()),
        Some(first.residue.sha256())
    );
    // Said again after a restart.
    world.store.committed(&subject(1), first.sha256).unwrap();
    assert_eq!(world.current(), Some(first.residue.sha256()));
    let second = world.round(2, &committed);
    assert_eq!(second.header.residue_before, Some(first.residue.sha256()));
    world.store.committed(&subject(2), second.sha256).unwrap();
    assert_eq!(world.current(), Some(second.residue.sha256()));
    for update in [first.sha256, second.sha256] {
        world.store.accepted(update).unwrap();
    }
    assert_eq!(world.files(), 2, "the book and the residue");
}

#[test]
fn a_verdict_that_comes_before_the_store_heard_of_the_commit_loses_nothing() {
    let world = world();
    let made = world.round(1, &|_| false);
    world.store.put_back(made.sha256).unwrap();
    let whole = with(Some(made.residue), &made.bytes).sha256();
    for _ in 0..2 {
        world.store.committed(&subject(1), made.sha256).unwrap();
        assert_eq!(world.current(), Some(whole));
    }
}

#[test]
fn an_update_that_comes_back_while_the_next_is_made_is_in_the_one_after() {
    for is_prepared in [false, true] {
        let world = world();
        let first = world.round(1, &|_| false);
        world.store.committed(&subject(1), first.sha256).unwrap();
        let second = if is_prepared {
            let second = world.round(2, &|_| false);
            world.store.put_back(first.sha256).unwrap();
            second
        } else {
            let (before, absorbs) = world.store.load(&subject(2), &|_| false).unwrap();
            world.store.put_back(first.sha256).unwrap();
            let second = encoded(2, before);
            world.store.prepare(&subject(2), &second, absorbs).unwrap();
            second
        };
        world.store.committed(&subject(2), second.sha256).unwrap();
        let whole = with(Some(second.residue), &first.bytes).sha256();
        assert_eq!(world.current(), Some(whole));
        // What has come back is in the third, and no longer beside it.
        let third = world.round(3, &|_| false);
        assert_eq!(third.header.residue_before, Some(whole));
        world.store.committed(&subject(3), third.sha256).unwrap();
        world.store.put_back(first.sha256).unwrap();
        assert_eq!(world.current(), Some(third.residue.sha256()));
    }
}

#[test]
fn each_training_has_a_residue_of_its_own() {
    let world = world();
    let made = world.round(1, &|_| false);
    world.store.committed(&subject(1), made.sha256).unwrap();
    let other = Subject {
        sub_model: "owm-code".parse().unwrap(),
        ..subject(1)
    };
    assert!(world.store.load(&other, &|_| true).unwrap().0.is_none());
    world.store.drop_of(&other).unwrap();
    assert_eq!(world.current(), Some(made.residue.sha256()));
    let stem = stem(&subject(1));
    let path = world.store.residue_path(&stem, made.residue.sha256());
    fs::write(&path, b"OWMR").unwrap();
    let damaged = world.store.load(&subject(1), &|_| true).unwrap_err();
    assert!(
        matches!(damaged, ResidueStoreError::Damaged { .. }),
        "{damaged}"
    );
    world.store.drop_of(&subject(5)).unwrap();
    assert_eq!((world.current(), world.files()), (None, 0));
    world.store.put_back(made.sha256).unwrap();
    assert_eq!(world.current(), None, "its training is over");
}
