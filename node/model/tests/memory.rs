//! What training and measuring take, beside what is estimated. The kernel's figure is the process's: one at a time.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use owm_model::{
    AdamW, Base, Decay, DeviceChoice, Engine, FreshShape, LoadOptions, TrainMode, TrainPlan,
    Trainer, evaluate_tokens, write_fresh_of,
};

/// As in owm-node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Not so deep that a step takes long, and wide enough that all parts count.
const SHAPE: FreshShape = FreshShape {
    layers: 3,
    ..FreshShape::WIDE
};
const SEQUENCE: usize = 512;

fn kernel(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.unwrap().trim().strip_suffix("kB").unwrap().trim();
    kib.parse::<u64>().unwrap() * 1_024
}

/// What `work` takes at most beside what is there already.
fn taken(work: impl FnOnce()) -> u64 {
    // The peak counts from now on.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = kernel("VmRSS:");
    work();
    kernel("VmHWM:").saturating_sub(before)
}

/// Held by the test that measures.
static ALONE: Mutex<()> = Mutex::new(());

fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_fresh_of(folder.path(), SHAPE, 7).unwrap();
    folder
}

fn tokens() -> Vec<u32> {
    (0..=8 * SEQUENCE as u32).map(|n| n * n % 251).collect()
}

fn trained(mode: TrainMode, pass_rows: usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = model();
    let base = Arc::new(Base::load(folder.path(), None).unwrap());
    let plan = TrainPlan {
        mode,
        steps: 2,
        sequence: SEQUENCE,
        rows: 4,
        pass_rows,
        optimizer: AdamW::default(),
        warmup: 0,
        decay: Decay::Constant,
        clip_norm: Some(1.0),
        seed: 1,
    };
    let threads = rayon::current_num_threads();
    let estimate = base.config().training_bytes(&plan, threads);
    assert_eq!(base.config().parameters(), base.parameters());
    let taken = taken(|| {
        let mut trainer = Trainer::new(base, tokens(), plan).unwrap();
        let mut go_on = || ControlFlow::Continue(());
        let mut each = |_: &Trainer, _| ControlFlow::Continue(());
        assert!(trainer.run(&mut go_on, &mut each).unwrap());
        trainer.finish().unwrap();
    });
    close("training", taken, estimate);
}

/// Not below, and not so far above that a run which fits is refused.
fn close(what: &str, taken: u64, estimate: u64) {
    assert!(
        taken <= estimate,
        "{what} took {taken} bytes, {estimate} were estimated"
    );
    assert!(
        estimate <= 3 * taken,
        "{what} took {taken} bytes, {estimate} were estimated"
    );
}

#[test]
fn full_training_takes_no_more_than_is_estimated() {
    trained(TrainMode::Full, 2);
}

#[test]
fn low_rank_training_takes_no_more_than_is_estimated() {
    let seed = [3; 32];
    trained(TrainMode::LowRank { rank: 8, seed }, 1);
}

#[test]
fn measuring_takes_no_more_than_is_estimated() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = model();
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        expected_sha256: None,
    };
    let engine = Engine::load(folder.path(), &options).unwrap();
    let estimate = engine.config().measuring_bytes(2 * SEQUENCE);
    let taken = taken(|| {
        let mut go_on = |_, _| ControlFlow::Continue(());
        let tokens = tokens();
        let found = evaluate_tokens(&engine, &tokens, 4_096, 2 * SEQUENCE, &mut go_on);
        assert!(found.unwrap().is_some());
    });
    close("measuring", taken, estimate);
}
