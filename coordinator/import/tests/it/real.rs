//! The published SmolLM2 weights, imported: golden hashes and golden tokens.
//!
//! Needs the published GGUF file, whose path `make test` puts into `OWM_SMOLLM2_GGUF`.

use std::path::PathBuf;

use owm_model_import::{import_gguf, smollm2};
use tokenizers::Tokenizer;

#[test]
#[ignore = "needs OWM_SMOLLM2_GGUF (make test sets it and runs this)"]
fn real_weights_become_the_golden_directory() {
    let source = PathBuf::from(std::env::var_os("OWM_SMOLLM2_GGUF").expect("OWM_SMOLLM2_GGUF"));
    assert_eq!(source.metadata().unwrap().len(), smollm2::GGUF_SIZE);
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("smollm2");
    let imported = import_gguf(&source, &out, &mut |_| {}).unwrap();
    assert!(
        imported.note.contains(smollm2::GGUF_SHA256),
        "{}",
        imported.note
    );
    let hashes: Vec<_> = imported
        .files
        .iter()
        .map(|file| format!("{} {}", file.name, file.sha256))
        .collect();
    assert_eq!(
        hashes,
        [
            "config.json 5e7d5d77482c38ac4f9b43a6ace2003d29582d42a86cb71ac12ec1cde39cdf69",
            "generation_config.json bf11c748195c1370f827583a870b92b2a9ba4346d3e9c2b8e12fa210395711b3",
            "model.safetensors 1226e9a3d1734bd32ae1c05e51835310c68d44125a615e6484a02ebaec43914c",
            "tokenizer.json f29ac2e7d5d7035f8a175376f5d1fc7e1db3618f8bd0377aa7b45d32b8872d8c",
            "tokenizer_config.json 70229210a85fe377211909e6fc705207a1794e6ff8f17a18ee90ec26a40e862f",
        ]
    );
    assert_eq!(
        (imported.parameters, imported.context_length),
        (134_515_008, 8192)
    );
    let tokenizer = Tokenizer::from_file(out.join("tokenizer.json")).unwrap();
    let encoded = tokenizer.encode("The capital of France is", false).unwrap();
    assert_eq!(encoded.get_ids(), [504, 3575, 282, 4649, 314]);
}
