//! A tiny stand-in model with seeded random weights.
//!
//! Called by the devnet where the real weights cannot be had, and by most tests. The architecture
//! is SmolLM2's; the weights come from the rule below and nothing else, so that every machine
//! writes the same bytes. It was never trained and answers nonsense, and [`TINY_NOTE`] says so.
//!
//! **The rule.** Each tensor has a SplitMix64 generator whose state starts as the first 8 bytes
//! (little-endian) of the SHA-256 of `"{SEED}\n{tensor name}"`. One 64-bit output gives one value:
//! the sum of its four 16-bit parts, centred and scaled to the tensor's standard deviation. Norms
//! are 1.
//!
//! **The private channel.** Random weights with a tied head would repeat their input and prefer
//! no byte over another. Dimensions 0 and 1 of the residual stream are kept out of all random
//! weights. Every embedding has the same value in dimension 0; one neuron of the last layer turns
//! it into a positive value in dimension 1, where embeddings of printable bytes are positive and
//! those of other bytes and special tokens negative. So text comes out mostly printable, and the
//! end token is rare.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{
    ImportError, Imported,
    directory::{Model, write_model},
    llama::{Llama, Part, SpecialIds},
    staging::hex,
    tokenizer::{ByteLevelBpe, byte_characters},
};

/// What to say wherever the tiny model is shown.
pub const TINY_NOTE: &str = "a tiny stand-in with seeded random weights; no quality claimed";
/// Number of special tokens; the id of byte `b` is `SPECIAL_TOKENS + b`.
pub const SPECIAL_TOKENS: u64 = 3;

/// Changes whenever the rule or a constant in this file does.
const SEED: &str = "owm tiny model 1";
/// Their ids are SmolLM2's: end of text 0, start of message 1, end of message 2.
const SPECIAL: [&str; SPECIAL_TOKENS as usize] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + \
    '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Standard deviation of the embeddings: small beside what the layers add, so that the tied head
/// does not repeat the input.
const EMBEDDING_SPREAD: f32 = 0.1;
/// Gain over 1/sqrt(inputs) of the query and key projections: makes attention choose.
const ATTENTION_GAIN: f32 = 1.5;
/// Gain of the down projection, which makes up for what the gate takes away.
const DOWN_GAIN: f32 = 2.0;
/// Width of the private channel, in dimensions.
const CHANNEL: usize = 2;
/// Dimension 0 of every embedding.
const CONSTANT: f32 = 1.0;
/// Gate and up weights of the channel's neuron.
const NEURON_IN: f32 = 4.0;
/// Down weight of the channel's neuron.
const NEURON_OUT: f32 = 1.0;
/// Weight of the final norm, which sets how far apart the logits lie.
const FINAL_NORM: f32 = 2.0;
/// Weight of the final norm in dimension 1, which sets how much printable bytes are preferred.
const FINAL_NORM_CHANNEL: f32 = 6.0;
/// Four 16-bit parts have a standard deviation of 65536 / sqrt(3); this is its inverse.
const PARTS_SCALE: f32 = 2.642_86e-5;
/// The mean of the sum of four 16-bit parts.
const PARTS_MEAN: i32 = 2 * 0xffff;

/// Writes the tiny model into the new directory `out_dir`, which must not exist or be empty.
pub fn write_tiny(out_dir: &Path) -> Result<Imported, ImportError> {
    let llama = shape();
    let bytes = byte_characters().map(String::from);
    let tokens = SPECIAL
        .into_iter()
        .chain(bytes.iter().map(String::as_str))
        .collect();
    let tokenizer = ByteLevelBpe::without_merges(tokens, SPECIAL_TOKENS, CHAT_TEMPLATE);
    let model = Model {
        llama: &llama,
        tokenizer: &tokenizer,
        note: TINY_NOTE,
    };
    write_model(out_dir, &model, &mut |_| {}, |part, sink| {
        let values = weights(&llama, part);
        sink.push(part, &values)
    })
}

/// Everything that decides the tiny model's bytes, in words and numbers. Its SHA-256
/// ([`recipe_sha256`]) is the key under which a written model may be cached.
pub fn recipe() -> String {
    let Llama {
        layers,
        context,
        hidden,
        feed_forward,
        heads,
        key_value_heads,
        ..
    } = shape();
    format!(
        "{SEED}; llama, {layers} layers, hidden {hidden}, feed-forward {feed_forward}, {heads} \
         heads, {key_value_heads} key-value heads, context {context}, 256 bytes after \
         {SPECIAL_TOKENS} special tokens, half precision; SplitMix64 from SHA-256 of seed and \
         tensor name; {EMBEDDING_SPREAD} {ATTENTION_GAIN} {DOWN_GAIN} {CONSTANT} {NEURON_IN} \
         {NEURON_OUT} {FINAL_NORM} {FINAL_NORM_CHANNEL}"
    )
}

/// SHA-256 of [`recipe`], 64 hexadecimal digits.
pub fn recipe_sha256() -> String {
    hex(&Sha256::digest(recipe()))
}

fn shape() -> Llama {
    Llama {
        layers: 4,
        context: 2048,
        hidden: 128,
        feed_forward: 352,
        heads: 4,
        key_value_heads: 2,
        head: 32,
        vocabulary: SPECIAL_TOKENS + 256,
        rope_theta: 10_000.0,
        rms_epsilon: 1e-5,
        tied: true,
        special: SpecialIds {
            bos: Some(1),
            eos: Some(2),
            pad: Some(2),
            unknown: Some(0),
        },
    }
}

/// All values of one tensor.
fn weights(llama: &Llama, part: &Part) -> Vec<f32> {
    let count = part.values() as usize;
    let columns = part.shape.last().map_or(1, |columns| *columns as usize);
    if part.name == "model.norm.weight" {
        let mut values = vec![FINAL_NORM; count];
        values[1] = FINAL_NORM_CHANNEL;
        return values;
    }
    if part.shape.len() == 1 {
        return vec![1.0; count];
    }
    let per_input = 1.0 / (columns as f32).sqrt();
    let is = |suffix: &str| part.name.ends_with(suffix);
    let spread = match () {
        () if is("embed_tokens.weight") => EMBEDDING_SPREAD,
        () if is("q_proj.weight") || is("k_proj.weight") => ATTENTION_GAIN * per_input,
        () if is("down_proj.weight") => DOWN_GAIN * per_input,
        () => per_input,
    };
    let mut values = random(&part.name, count, spread);
    if is("embed_tokens.weight") {
        for (token, row) in values.chunks_exact_mut(columns).enumerate() {
            row[..CHANNEL].copy_from_slice(&[CONSTANT, preference(token)]);
        }
        return values;
    }
    // Layers neither write into the channel nor read from it …
    if is("o_proj.weight") || is("down_proj.weight") {
        values[..CHANNEL * columns].fill(0.0);
    } else {
        values
            .chunks_exact_mut(columns)
            .for_each(|row| row[..CHANNEL].fill(0.0));
    }
    // … but for neuron 0 of the last one.
    if part
        .name
        .starts_with(&format!("model.layers.{}.mlp.", llama.layers - 1))
    {
        if is("down_proj.weight") {
            values
                .chunks_exact_mut(columns)
                .for_each(|row| row[0] = 0.0);
            values[columns] = NEURON_OUT;
        } else {
            values[..columns].fill(0.0);
            values[0] = NEURON_IN;
        }
    }
    values
}

/// Dimension 1 of a token's embedding: how much it is preferred.
fn preference(token: usize) -> f32 {
    let byte = token
        .checked_sub(SPECIAL.len())
        .and_then(|byte| u8::try_from(byte).ok());
    match byte {
        Some(b'a'..=b'z' | b' ') => 0.5,
        Some(b' '..=b'~') => 0.25,
        Some(b'\n') => 0.1,
        _ => -0.5,
    }
}

/// `count` values of the rule above.
fn random(name: &str, count: usize, spread: f32) -> Vec<f32> {
    let digest = Sha256::digest(format!("{SEED}\n{name}"));
    let mut state = digest
        .iter()
        .take(8)
        .rev()
        .fold(0, |state, byte| state << 8 | u64::from(*byte));
    let scale = spread * PARTS_SCALE;
    std::iter::repeat_with(|| {
        let parts = split_mix(&mut state);
        let sum: i32 = (0..4)
            .map(|part| i32::from((parts >> (16 * part)) as u16))
            .sum();
        (sum - PARTS_MEAN) as f32 * scale
    })
    .take(count)
    .collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_mix_gives_its_published_sequence() {
        let mut state = 1_234_567;
        let first: Vec<_> = (0..3).map(|_| split_mix(&mut state)).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }
}
