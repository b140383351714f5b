//! Scores against a second implementation: plain loops over f32 slices, no burn, no cache, one
//! sequence at a time, written from the architecture's definition. Tolerance: the largest
//! absolute difference of any score is below 1e-3, where scores span several units; both compute
//! in f32 and differ in the order of their sums only.

use crate::{
    ModelConfig,
    engine::{Engine, forward::Sequences},
    tiny::{self, TinyModel, Weights},
};

const TOLERANCE: f32 = 1e-3;

/// Scores after every token, by the definition.
pub(crate) fn reference_scores(
    config: &ModelConfig,
    weights: &Weights,
    tokens: &[u32],
) -> Vec<Vec<f32>> {
    let get = |name: &str| &weights[name].1;
    let embedding = get("model.embed_tokens.weight");
    let head = weights
        .get("lm_head.weight")
        .map_or(embedding, |(_, values)| values);
    let mut stream: Vec<Vec<f32>> = tokens
        .iter()
        .map(|token| {
            let start = *token as usize * config.hidden;
            embedding[start..start + config.hidden].to_vec()
        })
        .collect();
    for layer in 0..config.layers {
        let part = |name: &str| get(&format!("model.layers.{layer}.{name}.weight"));
        let normed: Vec<Vec<f32>> = stream
            .iter()
            .map(|x| norm(x, part("input_layernorm"), config))
            .collect();
        let attended = attention(config, &normed, &part);
        for (x, mixed) in stream.iter_mut().zip(attended) {
            add(x, &product(part("self_attn.o_proj"), &mixed));
            let normed = norm(x, part("post_attention_layernorm"), config);
            let gate = product(part("mlp.gate_proj"), &normed);
            let up = product(part("mlp.up_proj"), &normed);
            let inner: Vec<f32> = gate
                .iter()
                .zip(&up)
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            add(x, &product(part("mlp.down_proj"), &inner));
        }
    }
    stream
        .iter()
        .map(|x| product(head, &norm(x, get("model.norm.weight"), config)))
        .collect()
}

fn attention<'w>(
    config: &ModelConfig,
    normed: &[Vec<f32>],
    part: &dyn Fn(&str) -> &'w Vec<f32>,
) -> Vec<Vec<f32>> {
    let dim = config.head_dim;
    let turned = |name: &str| -> Vec<Vec<f32>> {
        let rows = normed.iter().enumerate();
        rows.map(|(at, x)| turn(config, product(part(name), x), at))
            .collect()
    };
    let (queries, keys) = (turned("self_attn.q_proj"), turned("self_attn.k_proj"));
    let values: Vec<Vec<f32>> = normed
        .iter()
        .map(|x| product(part("self_attn.v_proj"), x))
        .collect();
    let mut mixed = vec![vec![0.0; config.heads * dim]; normed.len()];
    for (at, query) in queries.iter().enumerate() {
        for head in 0..config.heads {
            let kv = head / (config.heads / config.kv_heads);
            let q = &query[head * dim..][..dim];
            let scores: Vec<f32> = keys[..=at]
                .iter()
                .map(|key| dot(q, &key[kv * dim..][..dim]) / (dim as f32).sqrt())
                .collect();
            let high = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - high).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (weight, value) in weights.iter().zip(&values) {
                let out = &mut mixed[at][head * dim..][..dim];
                for (out, value) in out.iter_mut().zip(&value[kv * dim..][..dim]) {
                    *out += weight / total * value;
                }
            }
        }
    }
    mixed
}

/// Rotary position, rotate-half: value `i` pairs with value `i + dim / 2`.
fn turn(config: &ModelConfig, mut x: Vec<f32>, at: usize) -> Vec<f32> {
    let dim = config.head_dim;
    for head in x.chunks_mut(dim) {
        for i in 0..dim / 2 {
            let theta = config.rope_theta as f32;
            let angle = at as f32 * theta.powf(-2.0 * i as f32 / dim as f32);
            let (a, b) = (head[i], head[i + dim / 2]);
            head[i] = a * angle.cos() - b * angle.sin();
            head[i + dim / 2] = b * angle.cos() + a * angle.sin();
        }
    }
    x
}

fn norm(x: &[f32], weight: &[f32], config: &ModelConfig) -> Vec<f32> {
    let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (mean + config.norm_epsilon as f32).sqrt();
    x.iter()
        .zip(weight)
        .map(|(x, weight)| x * scale * weight)
        .collect()
}

fn product(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    matrix.chunks(x.len()).map(|row| dot(row, x)).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < TOLERANCE, "the worst difference is {worst}");
    // A model whose scores are all alike would prove nothing.
    let high = expected.iter().copied().fold(f32::MIN, f32::max);
    let low = expected.iter().copied().fold(f32::MAX, f32::min);
    assert!(high - low > 1.0, "scores span only {low} to {high}");
}

fn random_tokens(seed: u64, count: usize) -> Vec<u32> {
    let mut noise = tiny::noise(seed);
    (0..count)
        .map(|_| tiny::noise_below(&mut noise, 256))
        .collect()
}

fn check_against_reference(model: &TinyModel, engine: &Engine) {
    let tokens = random_tokens(3, 40);
    let expected = reference_scores(&model.config, &model.weights, &tokens);
    // The prompt in one pass, then token by token through the cache.
    let mut sequences = Sequences::new(&engine.0, vec![0], tokens.len());
    let prompt = tokens[..17].to_vec();
    assert_close(&sequences.prompt(&[prompt]).unwrap()[0], &expected[16]);
    for at in 17..tokens.len() {
        assert_close(&sequences.step(&tokens[at..=at]).unwrap()[0], &expected[at]);
    }
    // A prompt of one token takes the single-row path from the start.
    let mut single = Sequences::new(&engine.0, vec![0], 1);
    assert_close(
        &single.prompt(&[tokens[..1].to_vec()]).unwrap()[0],
        &expected[0],
    );
}

#[test]
fn scores_equal_a_second_implementation() {
    let model = TinyModel::new();
    check_against_reference(&model, &model.engine());
}

#[test]
fn scores_equal_with_a_head_of_its_own_and_one_key_head_per_query() {
    let mut config = tiny::config_json();
    config["tie_word_embeddings"] = false.into();
    config["num_key_value_heads"] = 4.into();
    config["head_dim"] = 16.into();
    let model = TinyModel::with_config(&config);
    check_against_reference(&model, &model.engine());
}

#[test]
fn a_prompt_of_several_chunks_scores_as_one_pass_by_the_definition() {
    let model = TinyModel::new();
    let engine = model.engine();
    let tokens = random_tokens(5, 530);
    let expected = reference_scores(&model.config, &model.weights, &tokens);
    let mut sequences = Sequences::new(&engine.0, vec![0], 0);
    let found = sequences.prompt(std::slice::from_ref(&tokens)).unwrap();
    assert_close(&found[0], &expected[529]);
}

#[test]
fn decoding_through_the_cache_equals_a_full_pass_for_every_length() {
    let model = TinyModel::new();
    let engine = model.engine();
    let tokens = random_tokens(11, 24);
    let mut cached = Sequences::new(&engine.0, vec![0], 0);
    for at in 0..tokens.len() {
        let stepped = cached.step(&tokens[at..=at]).unwrap();
        let mut fresh = Sequences::new(&engine.0, vec![0], 0);
        let full = fresh.prompt(&[tokens[..=at].to_vec()]).unwrap();
        assert_close(&stepped[0], &full[0]);
    }
}

#[test]
fn padded_rows_of_a_batch_score_as_if_alone() {
    let model = TinyModel::new();
    let engine = model.engine();
    let (long, short) = (random_tokens(21, 30), random_tokens(22, 4));
    let mut padded = vec![0; 26];
    padded.extend(&short);
    let mut batch = Sequences::new(&engine.0, vec![0, 26], 0);
    let first = batch.prompt(&[long.clone(), padded]).unwrap();
    let second = batch.step(&[9, 10]).unwrap();
    for (row, (prompt, next)) in [(long, 9), (short, 10)].into_iter().enumerate() {
        let mut alone = Sequences::new(&engine.0, vec![0], 0);
        assert_close(&first[row], &alone.prompt(&[prompt]).unwrap()[0]);
        assert_close(&second[row], &alone.step(&[next]).unwrap()[0]);
    }
}
