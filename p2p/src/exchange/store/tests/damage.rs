//! Logs and files that are not what they should be.

use super::*;

/// A file of four pieces, of which 0 and 2 are logged, as a killed process left it.
fn killed() -> (Place, Sample) {
    let (place, sample) = (Place::new(), Sample::new(4 * PIECE, 1));
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    sample.fetch(&partial, 0);
    sample.fetch(&partial, 2);
    partial.sync().unwrap();
    let after = place.after_a_kill();
    (after, sample)
}

/// Goes on; which pieces had to be fetched.
fn goes_on(place: &Place, sample: &Sample) -> Vec<u32> {
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    let fetched = sample.fetch_missing(&partial);
    partial.finish().unwrap();
    sample.check_whole(place);
    assert_eq!(place.blobs_of(sample).len(), 1);
    fetched
}

#[test]
fn a_damaged_log_costs_the_pieces_it_named_and_never_the_file() {
    let (place, sample) = killed();
    let log = fs::read(place.store.pieces(&sample.sha256())).unwrap();
    let entries = log.len() - 16;
    for at in 0..log.len() {
        let after = place.after_a_kill();
        let mut damaged = log.clone();
        damaged[at] ^= 0x40;
        fs::write(after.store.pieces(&sample.sha256()), damaged).unwrap();
        let expected: &[u32] = match at {
            // Without a header that is right, all that lies there is looked at.
            _ if at < entries => &[1, 3],
            _ if at < entries + 8 => &[0, 1, 2, 3],
            _ => &[1, 2, 3],
        };
        assert_eq!(goes_on(&after, &sample), expected, "byte {at}");
    }
}

#[test]
fn a_log_that_ends_in_the_middle_of_an_entry_is_gone_on_with() {
    let (place, sample) = killed();
    let path = place.store.pieces(&sample.sha256());
    let log = fs::read(&path).unwrap();
    for (length, expected) in [
        (log.len() - 1, &[1, 2, 3][..]),
        (log.len() - 8, &[1, 2, 3]),
        (log.len() - 16, &[0, 1, 2, 3]),
        (log.len() - 17, &[1, 3]),
        (0, &[1, 3]),
    ] {
        let after = place.after_a_kill();
        fs::write(after.store.pieces(&sample.sha256()), &log[..length]).unwrap();
        // Torn, then killed again after another piece.
        let partial = after.store.begin(Arc::clone(&sample.ladder)).unwrap();
        sample.fetch(&partial, 3);
        partial.sync().unwrap();
        let after = after.after_a_kill();
        let expected: Vec<u32> = expected.iter().copied().filter(|p| *p != 3).collect();
        assert_eq!(goes_on(&after, &sample), expected, "{length} bytes");
    }
}

#[test]
fn the_log_of_another_file_is_not_believed() {
    let (place, sample) = killed();
    let other = Sample::new(4 * PIECE, 2);
    let partial = place.store.begin(Arc::clone(&other.ladder)).unwrap();
    for piece in 0..4 {
        other.fetch(&partial, piece);
    }
    partial.sync().unwrap();
    let log = fs::read(place.store.pieces(&other.sha256())).unwrap();
    fs::write(place.store.pieces(&sample.sha256()), log).unwrap();
    let after = place.after_a_kill();
    let partial = after.store.begin(Arc::clone(&sample.ladder)).unwrap();
    assert_eq!(sample.fetch_missing(&partial), [1, 3]);
    partial.finish().unwrap();
    sample.check_whole(&after);
}

#[test]
fn a_logged_piece_that_is_damaged_on_the_disk_is_fetched_again() {
    let (place, sample) = killed();
    let part = place.store.part(&sample.sha256());
    let mut bytes = fs::read(&part).unwrap();
    bytes[2 * PIECE as usize + 5] ^= 1;
    fs::write(&part, &bytes).unwrap();
    assert_eq!(goes_on(&place.after_a_kill(), &sample), [1, 2, 3]);
    // And so is one that is cut off.
    bytes.truncate(PIECE as usize - 1);
    fs::write(&part, &bytes).unwrap();
    assert_eq!(goes_on(&place.after_a_kill(), &sample), [0, 1, 2, 3]);
}

#[test]
fn a_kill_between_the_new_name_and_the_logs_end_leaves_a_whole_file() {
    let (place, sample) = (Place::new(), Sample::new(3 * PIECE, 1));
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    sample.fetch_missing(&partial);
    partial.sync().unwrap();
    let log = fs::read(place.store.pieces(&sample.sha256())).unwrap();
    partial.finish().unwrap();
    fs::write(place.store.pieces(&sample.sha256()), log).unwrap();
    // Neither had the record of its state been written.
    fs::remove_file(place.store.record(&sample.sha256())).unwrap();
    let after = place.after_a_kill();
    assert_eq!(after.blobs_of(&sample), [sample.sha256().to_string()]);
    assert!(
        after
            .store
            .verify(&sample.sha256(), &|_| {})
            .unwrap()
            .is_some()
    );
    sample.check_whole(&after);
}

#[test]
fn a_half_download_of_a_former_version_is_gone_on_with() {
    let (place, sample) = (Place::new(), Sample::new(4 * PIECE, 1));
    let half = &sample.bytes[..2 * PIECE as usize + 7];
    fs::write(place.store.part(&sample.sha256()), half).unwrap();
    assert_eq!(goes_on(&place, &sample), [2, 3]);
}

#[test]
fn a_file_that_changed_on_the_disk_is_not_served_any_more() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("other bytes", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[7] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("cut off", |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(9).unwrap();
        }),
        ("another file", |path| {
            let other = path.with_extension("other");
            fs::write(&other, vec![1; 3 * PIECE as usize]).unwrap();
            fs::rename(other, path).unwrap();
        }),
        ("gone", |path| fs::remove_file(path).unwrap()),
    ];
    for (what, change) in changes {
        let (place, sample) = (Place::new(), Sample::new(3 * PIECE, 1));
        let held = sample.bring(&place.store);
        sample.check_whole(&place);
        change(held.path());
        assert!(place.store.complete(&sample.sha256()).is_none(), "{what}");
        let mut byte = [0];
        if let Err(error) = place.store.read(&held, 7, &mut byte) {
            assert!(
                matches!(error, StoreError::Changed { .. }),
                "{what}: {error}"
            );
        } else {
            // The old file is still what is read.
            assert!(what == "another file" || what == "gone");
            assert_eq!(byte[0], sample.bytes[7]);
        }
        // Neither the next process.
        let next = store(place.folder.path(), None);
        assert!(next.complete(&sample.sha256()).is_none(), "{what}");
        let verified = next.verified().unwrap();
        assert!(!verified.contains(&sample.sha256()), "{what}");
        match next.verify(&sample.sha256(), &|_| {}) {
            Ok(found) => assert!(found.is_none() && what == "gone"),
            Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "{error}"),
        }
    }
}

#[test]
fn a_hard_link_is_no_change() {
    let (place, sample) = (Place::new(), Sample::new(3 * PIECE, 1));
    let held = sample.bring(&place.store);
    let link = place.folder.path().join("link");
    fs::hard_link(held.path(), &link).unwrap();
    sample.check_whole(&place);
    let next = store(place.folder.path(), None);
    assert!(next.complete(&sample.sha256()).is_some());
    fs::remove_file(link).unwrap();
    sample.check_whole(&place);
}

#[test]
fn a_file_that_this_store_has_not_verified_is_hashed_before_it_is_served() {
    let (place, sample) = (Place::new(), Sample::new(3 * PIECE, 1));
    assert!(
        place
            .store
            .verify(&sample.sha256(), &|_| {})
            .unwrap()
            .is_none()
    );
    fs::write(place.store.blob(&sample.sha256()), &sample.bytes).unwrap();
    assert!(place.store.complete(&sample.sha256()).is_none());
    assert!(
        place
            .store
            .verify(&sample.sha256(), &|_| {})
            .unwrap()
            .is_some()
    );
    sample.check_whole(&place);
    let next = store(place.folder.path(), None);
    assert!(
        next.complete(&sample.sha256()).is_some(),
        "it is remembered"
    );
}

#[test]
fn opening_the_folder_leaves_the_log_of_a_file_that_begins_just_now_alone() {
    let place = Place::new();
    let sample = Sample::new(3 * PIECE, 1);
    let path = place.store.pieces(&sample.sha256());
    // Another handle has made its log, and its part not yet.
    let log = PieceLog::open(&path, sample.ladder.spec())
        .unwrap()
        .unwrap();
    drop(store(place.folder.path(), None));
    assert!(path.exists(), "its lock keeps others out of this file");
    drop(log);
    drop(store(place.folder.path(), None));
    assert!(!path.exists(), "one that nobody holds belongs to no file");
}

#[test]
fn what_turned_out_to_be_something_else_is_thrown_away_and_begun_anew() {
    let place = Place::new();
    let sample = Sample::new(2 * PIECE, 1);
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    partial.write(0, &[9; 100]).unwrap();
    partial.discard().unwrap();
    assert_eq!(place.blobs_of(&sample), Vec::<String>::new());
    partial.write(0, &[9; 100]).unwrap_err();
    let again = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    assert_eq!(again.written(), 0);
    drop(partial);
    // The former holder's end takes nothing of the new one.
    assert_eq!(place.blobs_of(&sample).len(), 2);
}
