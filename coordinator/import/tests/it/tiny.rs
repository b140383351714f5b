//! The tiny model is the same everywhere, and every byte can be said with it.

use owm_model_import::tiny;
use safetensors::SafeTensors;
use tokenizers::Tokenizer;

#[test]
fn the_tiny_model_is_the_same_bytes_on_every_machine() {
    let directory = tempfile::tempdir().unwrap();
    let imported = tiny::write_tiny(&directory.path().join("tiny")).unwrap();
    let hashes: Vec<_> = imported
        .files
        .iter()
        .map(|file| format!("{} {}", file.name, file.sha256))
        .collect();
    assert_eq!(
        hashes,
        [
            "config.json 62b6ebf54ba013ae5985834e70a4a61bb75ddb4654ef748fc0c919947e980b63",
            "generation_config.json bf11c748195c1370f827583a870b92b2a9ba4346d3e9c2b8e12fa210395711b3",
            "model.safetensors d58aebecdef990b24307742554912afa287ab8ef1e58bb2702c045b75261f77f",
            "tokenizer.json c27c5faaeb0977a796f53a9759d2a823b9a155006707567d26b9ba466a40f677",
            "tokenizer_config.json 6eca13063734e7c32a3d80c32105322942e019b1d3201ad88d2dc25f2b32ddb2",
        ]
    );
    assert_eq!(imported.parameters, 771_584);
    assert_eq!(imported.note, tiny::TINY_NOTE);
}

/// A changed recipe needs a changed `SEED`, so that no cache serves old bytes: both goldens in this
/// file change together.
#[test]
fn the_recipe_is_the_one_the_golden_bytes_were_made_with() {
    assert_eq!(
        tiny::recipe_sha256(),
        "1f56c3bc6c36bd3588a56faac0ed969c46576efe0513056aecba524b0f9e7120"
    );
}

#[test]
fn text_becomes_its_bytes_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("tiny");
    tiny::write_tiny(&out).unwrap();
    let tokenizer = Tokenizer::from_file(out.join("tokenizer.json")).unwrap();
    let text = "a\n é 42 😀";
    let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    let bytes: Vec<u32> = text
        .bytes()
        .map(|byte| tiny::SPECIAL_TOKENS as u32 + u32::from(byte))
        .collect();
    assert_eq!(ids, bytes);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    let ids = tokenizer
        .encode("<|im_start|>x<|im_end|>", false)
        .unwrap()
        .get_ids()
        .to_vec();
    assert_eq!(ids, [1, 3 + u32::from(b'x'), 2]);
}

#[test]
fn weights_are_spread_as_the_rule_says() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("tiny");
    tiny::write_tiny(&out).unwrap();
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (values, _) = tensors
        .tensor("model.layers.0.mlp.up_proj.weight")
        .map(|tensor| tensor.data().as_chunks::<2>())
        .unwrap();
    let values: Vec<f64> = values
        .iter()
        .map(|value| half::f16::from_le_bytes(*value).to_f64())
        .collect();
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for row in values.chunks_exact(128) {
        assert_eq!(row[..2], [0.0, 0.0], "the channel is not read");
        for value in &row[2..] {
            (sum, squares, count) = (sum + value, squares + value * value, count + 1.0);
        }
    }
    let wanted = 1.0 / 128.0;
    assert!((sum / count).abs() < 0.001, "mean {}", sum / count);
    assert!(
        (squares / count / wanted - 1.0).abs() < 0.02,
        "variance {}",
        squares / count
    );
}
