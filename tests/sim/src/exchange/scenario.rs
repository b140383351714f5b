//! What a seed's fetch is made of: files, and who has them.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use owm_p2p::exchange::machine::Tuning;
use owm_proto::{Ladder, LadderBuilder, PieceLen};

use crate::dice::Dice;

/// Bytes of a piece in all scenarios.
const PIECE: u64 = 256 << 10;

/// How a source behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Has all, gives it.
    Honest,
    /// Has a part, and gets more with time.
    Partial,
    /// Gives wrong bytes so many thousandths of the times it is asked.
    Liar {
        /// Thousandths.
        permille: u64,
    },
    /// One byte a second.
    Trickle,
    /// Takes requests and says nothing.
    Silent,
    /// Says BUSY so many thousandths of the times.
    Busy {
        /// Thousandths.
        permille: u64,
    },
    /// Says it has all and has nothing.
    Boaster,
    /// Ends requests in the middle so many thousandths of the times.
    Failing {
        /// Thousandths.
        permille: u64,
    },
    /// Leaves for good when most of the file is there.
    Vanishing,
    /// Comes and goes.
    Restless,
    /// A web seed.
    Web {
        /// Whether its bytes are wrong.
        is_wrong: bool,
    },
}

/// One source.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// How it behaves.
    pub kind: Kind,
    /// Bytes per second.
    pub rate: u64,
    /// One way.
    pub delay: Duration,
}

/// A seed's fetch.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where all chance comes from.
    pub seed: u64,
    /// Which of [`ladders`].
    pub files: Vec<usize>,
    /// Who has them; the first one is honest and comes back if it goes.
    pub sources: Vec<Spec>,
    /// Thousandths of the pieces that are there at the start.
    pub have_permille: u64,
    /// Limits.
    pub tuning: Tuning,
}

/// So many of [`ladders`] are small enough for a thousand seeds; the last one is for measuring.
const DRAWN: usize = 8;

/// The files that scenarios choose from.
pub fn ladders() -> &'static [Arc<Ladder>] {
    static LADDERS: OnceLock<Vec<Arc<Ladder>>> = OnceLock::new();
    LADDERS.get_or_init(|| {
        let sizes: [u64; DRAWN + 1] = [
            0,
            1,
            PIECE - 1,
            PIECE,
            3 * PIECE + 1,
            7 * PIECE,
            12 * PIECE + 99,
            24 * PIECE,
            128 * PIECE,
        ];
        let built = sizes.iter().zip(1_u8..).map(|(size, salt)| {
            let mut builder = LadderBuilder::new(PieceLen::new(PIECE).expect("allowed"));
            builder.update(&vec![salt; *size as usize]);
            Arc::new(builder.finish().expect("few pieces"))
        });
        built.collect()
    })
}

impl Scenario {
    /// What this seed is about.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 0);
        let count = if dice.chance(700) {
            1
        } else {
            dice.within(2, 3)
        };
        let all: Vec<usize> = (0..DRAWN).collect();
        let mut files = dice.some(&all, count as usize);
        // Mostly the larger ones: there is more to go wrong.
        if dice.chance(700) {
            files[0] = all.len() - 1 - dice.index(3);
            files.sort_unstable();
            files.dedup();
        }
        let restless = dice.chance(150);
        let anchor = Spec {
            kind: if restless {
                Kind::Restless
            } else {
                Kind::Honest
            },
            rate: dice.within(30_000, 1_000_000),
            delay: Duration::from_millis(dice.within(1, 150)),
        };
        let mut sources = vec![anchor];
        // In every tenth seed all others lie.
        let all_lie = dice.chance(100);
        for _ in 0..dice.within(0, 9) {
            let kind = if all_lie {
                Kind::Liar { permille: 1_000 }
            } else {
                draw_kind(&mut dice)
            };
            sources.push(Spec {
                kind,
                rate: dice.within(10_000, 1_500_000),
                delay: Duration::from_millis(dice.within(1, 300)),
            });
        }
        let limit = [1 << 20, 4 << 20, 64 << 20][dice.index(3)];
        // Drawn apart, so that what else a seed is about stays as it was.
        let mut apart = Dice::new(seed, 2);
        let few_above = if apart.chance(400) {
            apart.within(20_000, 1_000_000)
        } else {
            Tuning::default().few_above
        };
        let tuning = Tuning {
            outstanding_total_max: limit,
            few_above,
            ..Tuning::default()
        };
        Self {
            seed,
            files,
            sources,
            have_permille: if dice.chance(300) {
                dice.within(1, 999)
            } else {
                0
            },
            tuning,
        }
    }
}

fn draw_kind(dice: &mut Dice) -> Kind {
    let permille = dice.within(50, 1_000);
    match dice.within(0, 12) {
        0 | 1 => Kind::Honest,
        2 => Kind::Partial,
        3 | 4 => Kind::Liar { permille },
        5 => Kind::Trickle,
        6 => Kind::Silent,
        7 => Kind::Busy { permille },
        8 => Kind::Boaster,
        9 => Kind::Failing { permille },
        10 => Kind::Vanishing,
        11 => Kind::Restless,
        _ => Kind::Web {
            is_wrong: dice.chance(300),
        },
    }
}
