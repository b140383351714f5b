//! A kill at every moment between two steps: what is on the disk then, and what the next process makes of it.

use owm_proto::{NodeKey, genesis::NetworkId};
use owm_update::{Codec, Encoded, Origin, encode_update};
use tempfile::TempDir;

use super::*;

const ELEMENTS: usize = 5_000;

struct World {
    folder: TempDir,
    store: ResidueStore,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let (residues, updates) = (
        folder.path().join("residues"),
        folder.path().join("updates"),
    );
    fs::create_dir(&updates).unwrap();
    let store = ResidueStore::new(residues, updates);
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

impl World {
    /// A round's update with what goes into it; its file lies where the coordinator's would be fetched from.
    fn round(&self, round: u64, committed: &dyn Fn(Sha256) -> bool) -> Encoded {
        let subject = subject(round);
        let before = self.store.load(&subject, committed).unwrap();
        let step = (0..ELEMENTS).map(|n| ((n + round as usize) as f32).sin());
        let made = encode_update(subject.clone(), Codec::DEFAULT, step.collect(), before).unwrap();
        write_atomically(&self.store.update(made.sha256), &made.bytes).unwrap();
        self.store
            .prepare(&subject, made.sha256, &made.residue)
            .unwrap();
        made
    }

    fn current(&self) -> Option<Sha256> {
        let residue = self.store.load(&subject(0), &|_| false).unwrap();
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
    assert_eq!(world.files(), 0);
    let first = {
        let again = world.round(1, &never);
        assert_eq!(again.bytes, first.bytes, "nothing of it had counted");
        again
    };
    // Committed, and killed before the residue has its name.
    let committed = |update: Sha256| update == first.sha256;
    let loaded = world.store.load(&subject(2), &committed).unwrap().unwrap();
    assert_eq!(loaded.sha256(), first.residue.sha256());
    // Said again after a restart.
    world.store.committed(&subject(1), first.sha256).unwrap();
    assert_eq!(world.current(), Some(first.residue.sha256()));
    let second = world.round(2, &committed);
    assert_eq!(second.header.residue_before, Some(first.residue.sha256()));
    world.store.committed(&subject(2), second.sha256).unwrap();
    assert_eq!(world.current(), Some(second.residue.sha256()));
    assert_eq!(world.files(), 1);
}

/// A committed update, and what its residue has to be once it is put back.
fn rejected(world: &World) -> (Encoded, Sha256) {
    let made = world.round(1, &|_| false);
    world.store.committed(&subject(1), made.sha256).unwrap();
    let update = Update::parse(&made.bytes).unwrap();
    let whole = made.residue.clone().put_back(&update).unwrap().sha256();
    (made, whole)
}

#[test]
fn a_rejected_update_goes_back_once_however_often_that_is_said() {
    let world = world();
    let (made, whole) = rejected(&world);
    for _ in 0..3 {
        world.store.put_back(made.sha256).unwrap();
        assert_eq!(world.current(), Some(whole));
    }
    assert!(!world.store.update(made.sha256).exists());
    assert_eq!(world.files(), 1);
}

#[test]
fn a_kill_while_an_update_goes_back_loses_and_doubles_nothing() {
    let world = world();
    let (made, whole) = rejected(&world);
    let before = made.residue.sha256();
    // Killed with the sum on the disk and the update still there: it counts as not begun.
    let update = Update::parse(&made.bytes).unwrap();
    let sum = made.residue.clone().put_back(&update).unwrap().to_bytes();
    let back = world.store.back(&subject(1), made.sha256);
    write_atomically(&back, &sum).unwrap();
    assert_eq!(world.current(), Some(before));
    world.store.put_back(made.sha256).unwrap();
    assert_eq!(world.current(), Some(whole));
    // Killed with the update gone and the sum not yet in its place: it counts as done.
    fs::rename(world.store.current(&subject(1)), &back).unwrap();
    assert_eq!(world.current(), Some(whole));
    world.store.put_back(made.sha256).unwrap();
    assert_eq!(world.current(), Some(whole));
}

#[test]
fn each_training_has_a_residue_of_its_own() {
    let world = world();
    let (made, _) = rejected(&world);
    let other = Subject {
        sub_model: "owm-code".parse().unwrap(),
        ..subject(1)
    };
    assert!(world.store.load(&other, &|_| true).unwrap().is_none());
    world.store.drop_of(&other).unwrap();
    assert_eq!(world.current(), Some(made.residue.sha256()));
    world.store.drop_of(&subject(5)).unwrap();
    assert_eq!(world.current(), None);
    fs::write(world.store.current(&subject(1)), b"OWMR").unwrap();
    let damaged = world.store.load(&subject(1), &|_| true).unwrap_err();
    assert!(
        matches!(damaged, ResidueStoreError::Damaged { .. }),
        "{damaged}"
    );
}
