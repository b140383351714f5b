//! Random orders of everything that can happen, with a disk that fails at any write, beside a model that keeps the
//! same in memory and never fails.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, seq::IteratorRandom as _};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Orders that are tried, and events of each.
const SEEDS: u64 = 60;
const EVENTS: usize = 40;

/// A job that makes an update.
enum Job {
    Idle,
    Loaded(Option<Residue>, Absorbed),
    Prepared(Encoded, BTreeSet<Sha256>),
}

/// What has to be.
#[derive(Default)]
struct Model {
    current: Option<Residue>,
    returned: BTreeSet<Sha256>,
    /// The task log: updates with the residues that they leave.
    log: BTreeMap<Sha256, Vec<u8>>,
    undecided: BTreeSet<Sha256>,
}

impl Model {
    fn expected(&self) -> Option<Residue> {
        let mut residue = self.current.clone();
        for update in &self.returned {
            residue = Some(with(residue, &self.log[update]));
        }
        residue
    }

    fn commit(&mut self, made: Encoded, absorbs: &BTreeSet<Sha256>) {
        self.returned.retain(|update| !absorbs.contains(update));
        self.current = Some(made.residue);
        self.undecided.insert(made.sha256);
        self.log.insert(made.sha256, made.bytes);
    }
}

struct Play {
    world: World,
    model: Model,
    job: Job,
    rng: ChaCha8Rng,
    round: u64,
    kills: u32,
}

impl Play {
    /// Does `what`, killed at some write now and then; what is said to a store is said again after a kill.
    fn say(&mut self, what: impl Fn(&ResidueStore) -> Result<(), ResidueStoreError>) {
        while self.risky(&what).is_err() {
            self.job = Job::Idle;
        }
    }

    /// The same, once.
    fn risky<T>(
        &mut self,
        what: impl Fn(&ResidueStore) -> Result<T, ResidueStoreError>,
    ) -> Result<T, ResidueStoreError> {
        let writes = if self.rng.random_bool(0.4) {
            self.rng.random_range(1..6)
        } else {
            0
        };
        self.world.store.fuse.set(writes);
        let done = what(&self.world.store);
        self.world.store.fuse.set(0);
        self.kills += u32::from(done.is_err());
        done
    }

    fn event(&mut self) {
        match self.rng.random_range(0..10) {
            0..=2 => self.load(),
            3..=4 => self.prepare(),
            5..=6 => self.commit(),
            7 => self.say_committed(),
            8 => self.decide(),
            _ => self.job = Job::Idle,
        }
    }

    fn load(&mut self) {
        self.round += 1;
        let log: BTreeSet<Sha256> = self.model.log.keys().copied().collect();
        let subject = subject(self.round);
        let load = |store: &ResidueStore| store.load(&subject, &|update| log.contains(&update));
        let loaded = loop {
            if let Ok(loaded) = self.risky(load) {
                break loaded;
            }
        };
        let expected = self.model.expected().map(|residue| residue.sha256());
        let found = loaded.0.as_ref().map(Residue::sha256);
        assert_eq!(found, expected, "round {}", self.round);
        self.job = Job::Loaded(loaded.0, loaded.1);
    }

    fn prepare(&mut self) {
        if let Job::Loaded(before, absorbs) = std::mem::replace(&mut self.job, Job::Idle) {
            let made = encoded(self.round, before);
            let subject = subject(self.round);
            let prepared = self.risky(|store| store.prepare(&subject, &made, absorbs.clone()));
            if prepared.is_ok() {
                self.job = Job::Prepared(made, absorbs.0);
            }
        }
    }

    /// Into the task log; whether the store hears of it then is another event.
    fn commit(&mut self) {
        if let Job::Prepared(made, absorbs) = std::mem::replace(&mut self.job, Job::Idle) {
            self.model.commit(made, &absorbs);
        }
    }

    fn say_committed(&mut self) {
        let any = self.model.log.keys().choose(&mut self.rng).copied();
        if let Some(update) = any {
            self.say(|store| store.committed(&subject(0), update));
        }
    }

    /// The coordinator says what it thinks of an update, perhaps again.
    fn decide(&mut self) {
        let Some(update) = self.model.log.keys().choose(&mut self.rng).copied() else {
            return;
        };
        let is_wanted = self.rng.random_bool(0.3);
        if self.model.undecided.remove(&update) && !is_wanted {
            self.model.returned.insert(update);
        }
        self.say(|store| match is_wanted {
            true => store.accepted(update),
            false => store.put_back(update),
        });
    }
}

#[test]
fn nothing_is_lost_and_nothing_counts_twice_in_any_order() {
    let mut kills = 0;
    for seed in 0..SEEDS {
        let mut play = Play {
            world: world(),
            model: Model::default(),
            job: Job::Idle,
            rng: ChaCha8Rng::seed_from_u64(seed),
            round: 0,
            kills: 0,
        };
        for _ in 0..EVENTS {
            play.event();
        }
        play.load();
        let kept = play.model.undecided.len() + play.model.returned.len();
        let residue = usize::from(play.model.current.is_some());
        assert!(
            play.world.files() <= 1 + residue + kept,
            "seed {seed}: no file is left over"
        );
        kills += play.kills;
    }
    assert!(kills > 50, "the disk failed {kills} times");
}
