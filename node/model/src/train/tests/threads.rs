//! However many threads compute, the bytes are the same: on a model and rows that are large enough for the matrix
//! library to share a product out.

use rayon::ThreadPoolBuilder;

use super::*;
use crate::write_fresh;

/// Values of a product from which on burn computes it on several threads (`matmul.rs` of burn-flex: m·n·k).
const SHARED_OUT: usize = 192 * 192 * 192;

/// Rows of one pass, and tokens of a row: every product with a weight is above the bound.
const ROWS: usize = 4;
const SEQUENCE: usize = 128;

fn bytes_with(threads: usize, base: &Arc<Base>, plan: &TrainPlan) -> Vec<u32> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(|| {
        let tokens = tokens_of(base.config(), base.tokenizer(), &[TEXT.repeat(40)]).unwrap();
        bits(&run(
            Trainer::new(base.clone(), tokens, plan.clone()).unwrap()
        ))
    })
}

#[test]
fn a_step_that_several_threads_share_gives_the_bytes_of_one_thread() {
    let dir = tempfile::tempdir().unwrap();
    write_fresh(dir.path(), 3).unwrap();
    let base = Arc::new(Base::load(dir.path(), None).unwrap());
    let hidden = base.config().hidden;
    assert!(ROWS * SEQUENCE * hidden * hidden > SHARED_OUT);
    for mode in [TrainMode::Full, LOW_RANK] {
        // One pass on all threads, and three passes on lanes of their own, the last of them shorter.
        for rows in [ROWS, 3 * ROWS - 1] {
            let plan = TrainPlan {
                steps: 3,
                sequence: SEQUENCE,
                rows,
                pass_rows: ROWS,
                ..plan(mode)
            };
            let alone = bytes_with(1, &base, &plan);
            for threads in [2, 3, 8] {
                let shared = bytes_with(threads, &base, &plan);
                assert!(shared == alone, "{mode:?}, {rows} rows, {threads} threads");
            }
        }
    }
}
