//! Quotas, pins, and what goes first.

use super::*;

/// Bytes of a file here: below one piece, so without a ladder.
const FILE: u64 = PIECE - 1;

/// A store with room for three files, and four of them.
fn three() -> (Place, [Sample; 4]) {
    let place = Place::with_quota(Some(3 * FILE));
    let samples = [1, 2, 3, 4].map(|seed| Sample::new(FILE, seed));
    (place, samples)
}

fn has(place: &Place, samples: &[Sample]) -> Vec<bool> {
    let verified = place.store.verified().unwrap();
    let has = samples.iter().map(|s| verified.contains(&s.sha256()));
    has.collect()
}

#[test]
fn under_a_quota_the_file_used_longest_ago_goes() {
    let (place, samples) = three();
    for sample in &samples[..3] {
        drop(sample.bring(&place.store));
    }
    assert!(place.store.complete(&samples[0].sha256()).is_some(), "used");
    samples[3].bring(&place.store);
    assert_eq!(has(&place, &samples), [true, false, true, true]);
    assert_eq!(place.store.usage().unwrap().whole, 3 * FILE);
}

#[test]
fn another_process_knows_which_was_used_longest_ago() {
    let (place, samples) = three();
    for sample in &samples[..3] {
        drop(sample.bring(&place.store));
    }
    let age = |sample: &Sample, seconds| {
        let record = place.store.record(&sample.sha256());
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let file = fs::File::options().write(true).open(record).unwrap();
        file.set_modified(time).unwrap();
    };
    age(&samples[0], 30);
    age(&samples[1], 10);
    age(&samples[2], 20);
    let next = store(place.folder.path(), Some(3 * FILE));
    let idle: Vec<_> = next.idle().unwrap().iter().map(|i| i.sha256).collect();
    assert_eq!(idle, [1, 2, 0].map(|i: usize| samples[i].sha256()));
    // Using one is remembered for the process after that.
    drop(next.complete(&samples[1].sha256()));
    let next = store(place.folder.path(), Some(3 * FILE));
    let idle: Vec<_> = next.idle().unwrap().iter().map(|i| i.sha256).collect();
    assert_eq!(idle, [2, 0, 1].map(|i: usize| samples[i].sha256()));
}

#[test]
fn pinned_kept_open_and_laid_out_files_stay_and_the_refusal_says_what_to_do() {
    let (place, samples) = three();
    for sample in &samples[..3] {
        drop(sample.bring(&place.store));
    }
    place.store.pin(&samples[0].sha256()).unwrap();
    place.store.keep([samples[1].sha256()].into());
    let held = place.store.complete(&samples[2].sha256()).unwrap();
    let begin = || place.store.begin(Arc::clone(&samples[3].ladder));
    let text = begin().unwrap_err().to_string();
    for part in ["786429", "raise it by 262143 bytes", "[caps] disk", "unpin"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(has(&place, &samples), [true, true, true, false]);
    let link = place.folder.path().join("link");
    fs::hard_link(held.path(), &link).unwrap();
    drop(held);
    assert!(begin().is_err(), "laid out");
    fs::remove_file(link).unwrap();
    let partial = begin().unwrap();
    samples[3].fetch_missing(&partial);
    partial.finish().unwrap();
    assert_eq!(has(&place, &samples), [true, true, false, true]);
}

#[test]
fn pins_outlive_the_process_and_end_when_they_are_taken_back() {
    let (place, samples) = three();
    drop(samples[0].bring(&place.store));
    place.store.pin(&samples[0].sha256()).unwrap();
    let next = store(place.folder.path(), None);
    assert_eq!(next.pinned().unwrap(), [samples[0].sha256()].into());
    assert!(next.gc().unwrap().is_empty());
    assert!(next.unpin(&samples[0].sha256()).unwrap());
    assert!(!next.unpin(&samples[0].sha256()).unwrap());
    let gone = next.gc().unwrap();
    assert_eq!((gone.len(), gone[0].bytes, gone[0].whole), (1, FILE, true));
    assert!(place.blobs_of(&samples[0]).is_empty());
}

#[test]
fn files_that_still_grow_count_with_what_they_will_take() {
    let samples = [1, 2, 3].map(|seed| Sample::new(FILE, seed));
    // It has a ladder of three states.
    let large = Sample::new(3 * PIECE, 9);
    let place = Place::with_quota(Some(3 * PIECE + 96));
    let growing = place.store.begin(Arc::clone(&large.ladder)).unwrap();
    let error = place
        .store
        .begin(Arc::clone(&samples[0].ladder))
        .unwrap_err();
    assert!(matches!(error, StoreError::Quota { .. }), "{error}");
    // One that is given up goes for another.
    large.fetch(&growing, 1);
    drop(growing);
    drop(samples[0].bring(&place.store));
    drop(samples[1].bring(&place.store));
    samples[2].bring(&place.store);
    assert_eq!(has(&place, &samples), [true, true, true]);
    assert_eq!(place.store.usage().unwrap().growing, 0);
}
