//! Bytes that come twice, or at the same time to the same place: what was hashed before them does not count.

use owm_proto::{LadderBuilder, PieceLen};

use super::*;
use crate::exchange::{
    PieceSet,
    files::{Target as _, memory::MemoryShelf},
    machine::Tuning,
};

const MIB: usize = 1 << 20;
const REQUEST: usize = 64 << 10;

/// A file of two pieces of 1 MiB that is wanted, and its bytes.
fn wanted() -> (Core, Sha256, Vec<u8>) {
    let bytes: Vec<u8> = (0..2 * MIB).map(|n| (n * 31 + (n >> 9)) as u8).collect();
    let mut builder = LadderBuilder::new(PieceLen::new(MIB as u64).unwrap());
    builder.update(&bytes);
    let ladder = Arc::new(builder.finish().unwrap());
    let file = ladder.spec().sha256();
    let growing = MemoryShelf::default().begin(&ladder).unwrap().unwrap();
    let mut core = Core::new(Machine::new(Tuning::default(), 1));
    let wanted = Wanted {
        ladder,
        growing,
        pieces: HashMap::new(),
        outcome: watch::channel(Outcome::Open).0,
        users: 1,
    };
    core.wanted.insert(file, wanted);
    (core, file, bytes)
}

fn put(core: &mut Core, file: Sha256, at: usize, bytes: &[u8]) {
    let mut portion = core.portion(file, at as u64, 0..bytes.len()).unwrap();
    portion.do_it(bytes).unwrap();
    core.written(&mut portion);
}

/// What the machine would be told of a piece, as `proving` finds it.
fn is_right(core: &mut Core, file: Sha256, number: u32) -> bool {
    let wanted = core.wanted.get_mut(&file).unwrap();
    let piece = wanted.pieces.remove(&number).unwrap();
    let (mut check, rest) = piece.rest(&wanted.ladder, number).unwrap();
    let mut left = vec![0; (rest.end - rest.start) as usize];
    wanted.growing.read_back(rest.start, &mut left).unwrap();
    check.update(&left);
    check.finish()
}

#[test]
fn bytes_in_order_are_hashed_as_they_come() {
    let (mut core, file, bytes) = wanted();
    for at in (MIB..2 * MIB).step_by(REQUEST) {
        put(&mut core, file, at, &bytes[at..at + REQUEST]);
    }
    let piece = &core.wanted[&file].pieces[&1];
    assert_eq!(piece.hashed, 2 * MIB as u64, "nothing is read back");
    assert!(is_right(&mut core, file, 1));
}

#[test]
fn bytes_that_come_again_are_not_taken_for_those_that_were_hashed() {
    let (mut core, file, bytes) = wanted();
    let wrong = vec![0xaa; REQUEST];
    put(&mut core, file, 0, &wrong);
    // Somebody else brings the piece from its beginning.
    for at in (0..MIB).step_by(REQUEST) {
        put(&mut core, file, at, &bytes[at..at + REQUEST]);
    }
    assert!(is_right(&mut core, file, 0));
    // The other way round: what was right has been written over.
    for at in (MIB..2 * MIB).step_by(REQUEST) {
        put(&mut core, file, at, &bytes[at..at + REQUEST]);
    }
    put(&mut core, file, MIB, &wrong);
    assert!(!is_right(&mut core, file, 1));
    assert_eq!(core.wanted[&file].growing.proven(), PieceSet::none(2));
}

#[test]
fn parts_that_come_out_of_order_are_read_back() {
    let (mut core, file, bytes) = wanted();
    for at in (0..MIB).step_by(REQUEST).rev() {
        put(&mut core, file, at, &bytes[at..at + REQUEST]);
    }
    assert!(is_right(&mut core, file, 0));
}
