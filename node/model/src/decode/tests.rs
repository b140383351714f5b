//! What a step promises: its scores depend on a sequence's tokens only, to the bit.

use burn::tensor::TensorData;

use super::{DecodeCache, Decoder, team::Team};
use crate::{llama::cache::KvCache, tiny::TinyModel};

fn decoder(model: &TinyModel, threads: usize) -> Decoder {
    let mut take = |name: &str, _: &[usize]| {
        let (shape, values) = &model.weights[name];
        Ok::<_, String>(TensorData::new(values.clone(), shape.clone()))
    };
    let mut made = Decoder::build(&model.config, &mut take, 1, str::to_owned).unwrap();
    // The tiny model would get one thread.
    made.team = Team::new(threads);
    made
}

/// Bits of all scores of 24 steps, `[step][row][token]`, for sequences whose tokens follow `seeds`.
fn steps(model: &TinyModel, decoder: &Decoder, seeds: &[u32]) -> Vec<Vec<Vec<u32>>> {
    let padding = vec![0; seeds.len()];
    let mut empty = KvCache::new(&model.config, 0);
    let mut cache = DecodeCache::take(&mut empty, &model.config, &padding).unwrap();
    let step = |at: u32| {
        let tokens: Vec<u32> = seeds
            .iter()
            .map(|seed| (at * 31 + seed * 7) % 250)
            .collect();
        let scores = decoder.step(&tokens, &mut cache);
        let bits = |row: Vec<f32>| row.into_iter().map(f32::to_bits).collect();
        scores.into_iter().map(bits).collect()
    };
    (0..24).map(step).collect()
}

#[test]
fn the_number_of_threads_cannot_be_seen_in_the_scores() {
    let model = TinyModel::new();
    let expected = steps(&model, &decoder(&model, 1), &[1, 2, 3]);
    for threads in [2, 3, 5] {
        let found = steps(&model, &decoder(&model, threads), &[1, 2, 3]);
        assert!(found == expected, "{threads} threads");
    }
}

#[test]
fn a_sequence_scores_the_same_beside_any_others() {
    let model = TinyModel::new();
    let decoder = decoder(&model, 2);
    let seeds = [4, 9, 1, 6, 2, 8, 3];
    let together = steps(&model, &decoder, &seeds);
    for (row, seed) in seeds.iter().enumerate() {
        for (at, alone) in steps(&model, &decoder, &[*seed]).iter().enumerate() {
            assert!(together[at][row] == alone[0], "sequence {row}, step {at}");
        }
    }
}
