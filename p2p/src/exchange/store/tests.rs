//! The store against files that really lie on a disk: growing, resuming, damage, room. A kill is played by
//! copying the folder while it is in use; `tests/store_kill.rs` really kills.

mod damage;
mod disk;
mod room;
mod together;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use owm_proto::{LadderBuilder, PieceLen};

use super::*;

/// The shortest allowed piece.
const PIECE: u64 = 256 << 10;

/// A folder and a store in it.
struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        Self::with_quota(None)
    }

    fn with_quota(quota: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), quota);
        Self { folder, store }
    }

    /// What a process finds that starts after this one was killed here and now.
    fn after_a_kill(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["blobs", "records", "pins"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            for entry in fs::read_dir(self.folder.path().join(name)).unwrap() {
                let entry = entry.unwrap();
                let to = folder.path().join(name).join(entry.file_name());
                fs::copy(entry.path(), to).unwrap();
            }
        }
        let store = store(folder.path(), None);
        Self { folder, store }
    }

    /// What lies here under a file's name: it, or what it grows in.
    fn blobs_of(&self, sample: &Sample) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("blobs")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let sha256 = sample.sha256().to_string();
        let mut names: Vec<_> = names.filter(|name| name.starts_with(&sha256)).collect();
        names.sort();
        names
    }
}

fn store(folder: &Path, quota: Option<u64>) -> Store {
    let config = StoreConfig {
        quota,
        spare: 0,
        ..StoreConfig::new(folder)
    };
    Store::open(config).unwrap()
}

/// A file's bytes and its ladder.
struct Sample {
    bytes: Vec<u8>,
    ladder: Arc<Ladder>,
}

impl Sample {
    fn new(size: u64, seed: u8) -> Self {
        let bytes: Vec<u8> = (0..size)
            .map(|i| (i / 251) as u8 ^ i as u8 ^ seed)
            .collect();
        let mut builder = LadderBuilder::new(PieceLen::new(PIECE).unwrap());
        builder.update(&bytes);
        let ladder = Arc::new(builder.finish().unwrap());
        Self { bytes, ladder }
    }

    fn sha256(&self) -> Sha256 {
        self.ladder.spec().sha256()
    }

    fn piece(&self, piece: u32) -> &[u8] {
        let range = self.ladder.range(piece);
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// Fetches one piece, checks it and says so.
    fn fetch(&self, partial: &Partial, piece: u32) {
        let at = self.ladder.range(piece).start;
        partial.write(at, self.piece(piece)).unwrap();
        assert!(partial.check(piece).unwrap());
        assert!(partial.proved(piece).unwrap());
    }

    fn fetch_missing(&self, partial: &Partial) -> Vec<u32> {
        let has = partial.pieces();
        let missing = (0..self.ladder.pieces()).filter(|p| !has.has(*p));
        let missing: Vec<_> = missing.collect();
        for piece in &missing {
            self.fetch(partial, *piece);
        }
        missing
    }

    /// All of it, from nothing.
    fn bring(&self, store: &Store) -> StoredFile {
        let partial = store.begin(Arc::clone(&self.ladder)).unwrap();
        self.fetch_missing(&partial);
        partial.finish().unwrap()
    }

    fn check_whole(&self, place: &Place) {
        let file = place.store.complete(&self.sha256()).unwrap();
        let mut read = vec![0; self.bytes.len()];
        place.store.read(&file, 0, &mut read).unwrap();
        assert!(read == self.bytes);
        let path = place.folder.path().join("blobs");
        assert_eq!(
            fs::read(path.join(self.sha256().to_string())).unwrap(),
            self.bytes
        );
    }
}

#[test]
fn a_file_grows_in_any_order_and_gets_its_name_only_when_it_is_whole() {
    for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 4 * PIECE, 4 * PIECE + 77] {
        let (place, sample) = (Place::new(), Sample::new(size, 1));
        let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
        for piece in (0..sample.ladder.pieces()).rev() {
            let error = partial.finish().unwrap_err();
            assert!(matches!(error, StoreError::NotProved { .. }), "{error}");
            assert!(place.store.complete(&sample.sha256()).is_none());
            sample.fetch(&partial, piece);
        }
        assert_eq!(partial.finish().unwrap().size(), size);
        sample.check_whole(&place);
        assert_eq!(
            place.blobs_of(&sample),
            [sample.sha256().to_string()],
            "{size}"
        );
        assert!(place.store.verified().unwrap().contains(&sample.sha256()));
    }
}

#[test]
fn a_file_that_may_not_have_its_name_yet_keeps_all_its_pieces() {
    static ENDS: AtomicBool = AtomicBool::new(false);
    let (folder, sample) = (tempfile::tempdir().unwrap(), Sample::new(3 * PIECE, 1));
    let config = StoreConfig {
        before_rename: Some(|| {
            let ends = ENDS.load(Ordering::SeqCst);
            let why = ends.then(|| io::Error::other("the end"));
            why.map_or(Ok(()), Err)
        }),
        spare: 0,
        ..StoreConfig::new(folder.path())
    };
    let store = Store::open(config).unwrap();
    let partial = store.begin(Arc::clone(&sample.ladder)).unwrap();
    sample.fetch_missing(&partial);
    ENDS.store(true, Ordering::SeqCst);
    assert!(matches!(partial.finish(), Err(StoreError::Io { .. })));
    assert!(store.complete(&sample.sha256()).is_none());
    ENDS.store(false, Ordering::SeqCst);
    let partial = store.begin(Arc::clone(&sample.ladder)).unwrap();
    assert!(sample.fetch_missing(&partial).is_empty());
    partial.finish().unwrap();
    sample.check_whole(&Place { folder, store });
}

#[test]
fn only_proved_bytes_are_served_and_nothing_is_written_over_them() {
    let (place, sample) = (Place::new(), Sample::new(3 * PIECE, 1));
    assert!(place.store.partial(&sample.sha256()).is_none());
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    partial.write(0, sample.piece(0)).unwrap();
    sample.fetch(&partial, 1);
    let served = place.store.partial(&sample.sha256()).unwrap();
    let read = |from: u64, to: u64| {
        let mut bytes = vec![0; (to - from) as usize];
        let read = served.read_proved(from, &mut bytes);
        read.map(|()| assert_eq!(bytes, sample.bytes[from as usize..to as usize]))
    };
    assert!(read(PIECE, 2 * PIECE).is_ok() && read(PIECE + 5, PIECE + 6).is_ok());
    for (from, to) in [
        (0, 1),
        (PIECE - 1, PIECE + 1),
        (2 * PIECE - 1, 2 * PIECE + 1),
    ] {
        let error = read(from, to).unwrap_err();
        assert!(matches!(error, StoreError::NotProved { .. }), "{error}");
    }
    for at in [PIECE, PIECE - 1, 2 * PIECE - 1, 3 * PIECE - 1, u64::MAX - 1] {
        let error = partial.write(at, &[9; 2]).unwrap_err();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
    }
    assert!(partial.write(PIECE - 2, &[9; 2]).is_ok());
}

#[test]
fn after_a_kill_synced_pieces_are_there_and_the_others_are_fetched_again() {
    let (place, sample) = (Place::new(), Sample::new(5 * PIECE + 1, 1));
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    sample.fetch(&partial, 4);
    sample.fetch(&partial, 1);
    partial.sync().unwrap();
    // Written, not proved: not in the log, however long it lies there.
    partial.write(2 * PIECE, sample.piece(2)).unwrap();
    let after = place.after_a_kill();
    let partial = after.store.begin(Arc::clone(&sample.ladder)).unwrap();
    assert_eq!(partial.pieces().iter().collect::<Vec<_>>(), [1, 4]);
    assert_eq!(sample.fetch_missing(&partial), [0, 2, 3, 5]);
    partial.finish().unwrap();
    sample.check_whole(&after);
}

#[test]
fn what_is_proved_is_synced_by_itself_and_when_it_is_dropped() {
    let (place, sample) = (Place::new(), Sample::new(2 * PIECE, 1));
    let log = place.store.pieces(&sample.sha256());
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    let before = fs::metadata(&log).unwrap().len();
    sample.fetch(&partial, 0);
    // The store's own thread, within a second.
    while fs::metadata(&log).unwrap().len() == before {
        std::thread::yield_now();
    }
    sample.fetch(&partial, 1);
    drop(partial);
    // That thread may have been the last to hold it.
    while fs::metadata(&log).unwrap().len() < before + 16 {
        std::thread::yield_now();
    }
}

#[test]
fn two_manifests_that_name_one_file_fetch_it_once() {
    let (place, sample) = (Place::new(), Sample::new(2 * PIECE, 1));
    let one = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    let two = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    sample.fetch(&one, 0);
    assert_eq!(sample.fetch_missing(&two), [1]);
    two.finish().unwrap();
    // The other one may finish it too, and who comes later has nothing to do.
    assert_eq!(one.finish().unwrap().size(), 2 * PIECE);
    drop((one, two));
    let error = place.store.begin(Arc::clone(&sample.ladder)).unwrap_err();
    assert!(matches!(error, StoreError::Whole { .. }), "{error}");
    sample.check_whole(&place);
}

#[test]
fn another_process_that_fetches_the_same_file_is_told_to_wait() {
    let (place, sample) = (Place::new(), Sample::new(2 * PIECE, 1));
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    let other = store(place.folder.path(), None);
    let error = other.begin(Arc::clone(&sample.ladder)).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    let idle = other.idle().unwrap();
    let is_idle = idle.iter().any(|idle| idle.sha256 == sample.sha256());
    assert!(!is_idle, "it is in use there");
    sample.fetch(&partial, 1);
    drop(partial);
    let partial = loop {
        match other.begin(Arc::clone(&sample.ladder)) {
            // The other's thread may still be syncing.
            Err(StoreError::Busy { .. }) => std::thread::yield_now(),
            begun => break begun.unwrap(),
        }
    };
    assert_eq!(sample.fetch_missing(&partial), [0]);
    partial.finish().unwrap();
    sample.check_whole(&place);
}

#[test]
fn a_small_file_is_put_whole_if_it_is_right() {
    let (place, sample) = (Place::new(), Sample::new(4 * PIECE, 1));
    let bytes = sample.ladder.to_bytes();
    let sha256 = sample.ladder.spec().ladder_sha256().unwrap();
    let spec = FileSpec::new(sha256, bytes.len() as u64, None, None).unwrap();
    let error = place.store.put(spec, &[0; 128]).unwrap_err();
    assert!(matches!(error, StoreError::NotProved { .. }), "{error}");
    for _ in 0..2 {
        let file = place.store.put(spec, &bytes).unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), bytes);
    }
}

#[test]
fn a_ladder_stays_with_its_file_and_goes_with_it() {
    let (place, sample) = (Place::new(), Sample::new(3 * PIECE, 1));
    let spec = sample.ladder.spec();
    assert!(place.store.ladder(spec).is_none());
    drop(sample.bring(&place.store));
    assert_eq!(place.store.ladder(spec).as_ref(), Some(&*sample.ladder));
    // It stays as long as the file.
    place.store.keep([sample.sha256()].into());
    assert!(place.store.gc().unwrap().is_empty());
    // A damaged one is none.
    let path = place.store.blob(&spec.ladder_sha256().unwrap());
    fs::write(&path, [7; 96]).unwrap();
    assert!(place.store.ladder(spec).is_none());
    place.store.keep(BTreeSet::new());
    assert_eq!(place.store.gc().unwrap().len(), 2);
}

#[test]
fn whoever_announces_files_hears_of_changes() {
    let (place, sample) = (Place::new(), Sample::new(PIECE, 1));
    let mut changes = place.store.changes();
    sample.bring(&place.store);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    place.store.discard(&sample.sha256()).unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(!place.store.verified().unwrap().contains(&sample.sha256()));
}

/// A peer may ask for anything.
#[test]
fn a_read_beyond_the_end_is_refused_and_the_file_stays() {
    let (place, sample) = (Place::new(), Sample::new(2 * PIECE + 5, 1));
    let file = sample.bring(&place.store);
    let mut byte = [0];
    for offset in [file.size(), file.size() + 1, u64::MAX] {
        let refused = place.store.read(&file, offset, &mut byte).unwrap_err();
        assert!(matches!(refused, StoreError::NotProved { .. }), "{refused}");
    }
    sample.check_whole(&place);
}

#[test]
fn a_small_file_whose_last_step_was_not_reached_is_put_again() {
    let (place, bytes) = (Place::new(), b"a ladder".to_vec());
    let spec = FileSpec::new(Sha256::of(&bytes), bytes.len() as u64, None, None).unwrap();
    let partial = place.store.begin(Arc::new(Ladder::none(spec).unwrap()));
    let partial = partial.unwrap();
    partial.write(0, &bytes).unwrap();
    assert!(partial.proved(0).unwrap());
    partial.sync().unwrap();
    drop(partial);
    let file = place.store.put(spec, &bytes).unwrap();
    assert_eq!(file.sha256(), Sha256::of(&bytes));
}
