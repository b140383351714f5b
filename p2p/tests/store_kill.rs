//! A process that fetches into the store is killed with SIGKILL at seeded moments, again and again, until the
//! file is whole: the bytes are right, and little was fetched twice. The process is this test, started again.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]
#![expect(clippy::print_stdout, reason = "the counts are a result")]

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use owm_p2p::exchange::store::{Store, StoreConfig};
use owm_proto::{FileSpec, Ladder, LadderBuilder, PieceLen, Sha256};
use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Of the file.
const SIZE: u64 = 256 << 20;
/// A byte in the list of what was fetched stands for so many.
const UNIT: u64 = 64 << 10;
/// What a kill may cost beside what is in flight (issue 5).
const LOST_BYTES_MAX: u64 = 64 << 20;
/// What is in flight here: one piece, written and not proved yet.
const PIECE: u64 = 1 << 20;
/// Kills a fetch at most: it has to end.
const KILLS_MAX: u64 = 5;
const FOLDER: &str = "OWM_TEST_FOLDER";
const SEED: &str = "OWM_TEST_SEED";

/// The file that is fetched, and its ladder, in `folder`.
fn publish(folder: &Path) -> Sha256 {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut builder = LadderBuilder::new(PieceLen::new(PIECE).unwrap());
    let mut source = File::create(folder.join("source")).unwrap();
    let mut bytes = vec![0; PIECE as usize];
    for _ in 0..SIZE / PIECE {
        rng.fill(&mut bytes[..]);
        builder.update(&bytes);
        source.write_all(&bytes).unwrap();
    }
    let ladder = builder.finish().unwrap();
    fs::write(folder.join("ladder"), ladder.to_bytes()).unwrap();
    fs::write(folder.join("name"), ladder.spec().sha256().to_string()).unwrap();
    ladder.spec().sha256()
}

#[test]
#[ignore = "started by the tests below, to be killed"]
fn fetches_what_is_missing() {
    let folder = std::env::var_os(FOLDER).expect("set by the tests below");
    let folder = Path::new(&folder);
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let name = fs::read_to_string(folder.join("name")).unwrap();
    let states = fs::read(folder.join("ladder")).unwrap();
    let proof = Some(Sha256::of(&states));
    let spec = FileSpec::new(name.parse().unwrap(), SIZE, Some(PIECE), proof).unwrap();
    let ladder = Arc::new(Ladder::parse(spec, states).unwrap());
    let store = Store::open(StoreConfig::new(folder.join("store"))).unwrap();
    let partial = store.begin(Arc::clone(&ladder)).unwrap();
    let has = partial.pieces();
    let mut missing: Vec<u32> = (0..ladder.pieces()).filter(|p| !has.has(*p)).collect();
    missing.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let source = File::open(folder.join("source")).unwrap();
    let fetched = File::options()
        .append(true)
        .create(true)
        .open(folder.join("fetched"));
    let mut fetched = fetched.unwrap();
    let mut bytes = vec![0; UNIT as usize];
    for piece in missing {
        let mut check = ladder.check(piece);
        for at in ladder.range(piece).step_by(UNIT as usize) {
            source.read_exact_at(&mut bytes, at).unwrap();
            fetched.write_all(b".").unwrap();
            partial.write(at, &bytes).unwrap();
            check.update(&bytes);
        }
        assert!(check.finish());
        partial.proved(piece).unwrap();
    }
    partial.finish().unwrap();
}

fn start(folder: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fetches_what_is_missing", "--ignored"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// One fetch of a published file, killed up to [`KILLS_MAX`] times: the kills, and the bytes fetched twice.
fn fetch_with_kills(folder: &Path, name: Sha256, seed: u64) -> (u64, u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    drop(fs::remove_dir_all(folder.join("store")));
    drop(fs::remove_file(folder.join("fetched")));
    let fetched = || fs::metadata(folder.join("fetched")).map_or(0, |f| f.len() * UNIT);
    let blob = folder.join("store/blobs").join(name.to_string());
    let mut kills = 0;
    loop {
        let before = fetched();
        let mut child = start(folder, rng.random());
        let is_last = kills == KILLS_MAX;
        let until = before + rng.random_range(0..SIZE * 3 / 4);
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "seed {seed}: {status}");
                break true;
            }
            // Never a file under its name that is not whole.
            if let Ok(found) = fs::metadata(&blob) {
                assert_eq!(found.len(), SIZE, "seed {seed}");
            }
            if !is_last && fetched() >= until {
                child.kill().unwrap();
                child.wait().unwrap();
                break false;
            }
            std::thread::yield_now();
        };
        if ended || blob.exists() {
            break;
        }
        kills += 1;
    }
    let twice = fetched() - SIZE;
    let allowed = kills * (LOST_BYTES_MAX + PIECE);
    assert!(
        twice <= allowed,
        "seed {seed}: {twice} bytes fetched twice, {kills} kills"
    );
    let mut builder = LadderBuilder::new(PieceLen::new(PIECE).unwrap());
    builder.update(&fs::read(&blob).unwrap());
    assert_eq!(
        builder.finish().unwrap().spec().sha256(),
        name,
        "seed {seed}"
    );
    (kills, twice)
}

fn kill_seeds(seeds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let name = publish(folder.path());
    let (mut kills, mut twice, mut most) = (0, 0, 0);
    for seed in 0..seeds {
        let (killed, again) = fetch_with_kills(folder.path(), name, seed);
        (kills, twice) = (kills + killed, twice + again);
        most = most.max(again.checked_div(killed).unwrap_or(0));
    }
    println!(
        "{seeds} fetches of {SIZE} bytes, {kills} kills, {twice} bytes fetched twice, at most {most} a kill in one fetch"
    );
}

#[test]
fn a_killed_fetch_ends_with_the_right_file_and_little_was_fetched_twice() {
    kill_seeds(2);
}

#[test]
#[ignore = "minutes: `OWM_TEST_LONG=1 make test`"]
fn long_a_hundred_killed_fetches_end_with_the_right_file() {
    kill_seeds(100);
}
