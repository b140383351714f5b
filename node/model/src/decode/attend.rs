//! Grouped-query attention of a decode step. A key head of one sequence, with the query heads that
//! share it, is one piece of work: its list of keys and values belongs to whoever does that.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    Decoder, Step,
    kernel::{self, Rows, Weights},
};

impl Decoder {
    /// Turns queries and keys to their positions, appends keys and values to the cache, and mixes
    /// values by the softmax of the scores.
    pub(super) fn attend(&self, step: &Step<'_>, layer: usize, dealt: &AtomicUsize) {
        let pieces = step.tokens.len() * self.config.kv_heads;
        loop {
            let piece = dealt.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return;
            }
            let (row, head) = (piece / self.config.kv_heads, piece % self.config.kv_heads);
            self.attend_head(step, layer, row, head);
        }
    }

    fn attend_head(&self, step: &Step<'_>, layer: usize, row: usize, head: usize) {
        let config = &self.config;
        let (dim, kv) = (config.head_dim, config.kv_heads);
        let group = config.heads / kv;
        let turns = &step.turns[row];
        let mut queries = Rows::new(group, dim);
        for i in 0..group {
            let query = &mut queries.row_mut(i)[..dim];
            step.qkv.read(row, (head * group + i) * dim, query);
            turn(query, turns);
            let scale = (dim as f32).sqrt().recip();
            for q in query.iter_mut() {
                *q *= scale;
            }
        }
        let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
        step.qkv.read(row, (config.heads + head) * dim, &mut key);
        step.qkv
            .read(row, (config.heads + kv + head) * dim, &mut value);
        turn(&mut key, turns);
        step.cache.with(layer, row, head, |list| {
            list.append(&key, &value);
            let tokens = list.keys.len() / dim;
            let mut scores = vec![0.0; group * tokens];
            kernel::products(Weights::F32(&list.keys), dim, &queries, &mut scores);
            let mut mixed = vec![0.0; dim];
            for (i, scores) in scores.chunks_mut(tokens).enumerate() {
                kernel::softmax(scores);
                kernel::mix(scores, &list.values, &mut mixed);
                step.mixed.write(row, (head * group + i) * dim, &mixed);
            }
        });
    }
}

/// Rotate-half: value `i` of a head turns with value `i + dim / 2`.
fn turn(x: &mut [f32], turns: &[(f32, f32)]) {
    let (low, high) = x.split_at_mut(turns.len());
    for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(turns) {
        (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
    }
}
