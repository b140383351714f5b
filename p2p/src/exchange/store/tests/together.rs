//! Two that fetch the same file into the same place.

use super::*;

#[test]
fn what_somebody_else_wrote_over_a_checked_piece_is_not_taken_for_it() {
    let (place, sample) = (Place::new(), Sample::new(3 * PIECE, 1));
    let one = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    let other = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    one.write(0, sample.piece(0)).unwrap();
    // The first has hashed what it wrote; then bytes of the second come, which it has not checked yet.
    other.write(5, &[0xaa; 10]).unwrap();
    assert!(!one.proved(0).unwrap(), "other bytes lie there");
    assert!(!one.pieces().has(0));
    sample.fetch(&one, 0);
    assert!(other.write(5, &[0xaa; 10]).is_err(), "nothing over it now");
    // If both wrote what is right, it is proved although each wrote only a part.
    let at = PIECE as usize / 2;
    one.write(PIECE, &sample.piece(1)[..at]).unwrap();
    other
        .write(PIECE + at as u64, &sample.piece(1)[at..])
        .unwrap();
    assert!(other.proved(1).unwrap());
    sample.fetch(&one, 2);
    one.finish().unwrap();
    drop((one, other));
    sample.check_whole(&place);
}

#[test]
fn many_writers_at_once_leave_a_right_file() {
    let (place, sample) = (Place::new(), Sample::new(8 * PIECE + 7, 2));
    let partial = place.store.begin(Arc::clone(&sample.ladder)).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let (store, sample) = (&place.store, &sample);
            scope.spawn(move || {
                let own = store.begin(Arc::clone(&sample.ladder)).unwrap();
                for piece in 0..sample.ladder.pieces() {
                    let at = sample.ladder.range(piece).start;
                    // One of them writes rubbish first and never says that anything is proved.
                    let bytes = match writer {
                        0 => vec![0; sample.piece(piece).len()],
                        _ => sample.piece(piece).to_vec(),
                    };
                    // Refused when the piece is proved already, or looked at.
                    let is_written = own.write(at, &bytes).is_ok();
                    if writer > 0 && is_written {
                        own.proved(piece).unwrap();
                    }
                }
            });
        }
    });
    // Whatever is called proved is right; the rest is fetched as ever.
    for piece in partial.pieces().iter() {
        assert!(partial.check(piece).unwrap(), "piece {piece}");
    }
    sample.fetch_missing(&partial);
    partial.finish().unwrap();
    sample.check_whole(&place);
}
