//! Loading: what is accepted, and that everything else is refused with its reason.

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    ChatMessage, ChatRole, ConfigError, DeviceChoice, Engine, LoadError, LoadOptions, Prompt,
    PromptError, Sampling,
    tiny::{self, Format, TinyModel},
};

fn load(model: &TinyModel) -> Result<Engine, LoadError> {
    load_expecting(model, None)
}

fn load_expecting(
    model: &TinyModel,
    expected_sha256: Option<BTreeMap<String, [u8; 32]>>,
) -> Result<Engine, LoadError> {
    let device = DeviceChoice::Cpu;
    Engine::load(
        model.path(),
        &LoadOptions {
            device,
            expected_sha256,
        },
    )
}

fn refused(model: &TinyModel) -> LoadError {
    load(model)
        .map(|_| ())
        .expect_err("this model must be refused")
}

fn hashes(model: &TinyModel, files: &[&str]) -> BTreeMap<String, [u8; 32]> {
    let hash = |file: &&str| ((*file).to_owned(), Sha256::digest(model.read(file)).into());
    files.iter().map(hash).collect()
}

const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

#[test]
fn the_description_says_what_is_loaded_and_where() {
    let model = TinyModel::new();
    let description = model.engine().description();
    let expected: usize = model.weights.values().map(|(_, values)| values.len()).sum();
    assert_eq!(description.parameters, expected as u64);
    assert_eq!(description.context_length, tiny::CONTEXT as u32);
    assert_eq!(
        (description.architecture, description.backend),
        ("llama", "burn-flex+decode/f32")
    );
    assert_eq!(description.device_reason, "the CPU was asked for");
}

#[test]
fn half_formats_and_several_files_load_alike() {
    let model = TinyModel::new();
    let greedy = |model: &TinyModel| {
        let job = tiny::job(&[65, 66, 67], 8, Sampling::GREEDY);
        load(model)
            .unwrap()
            .generate(&job, &mut |_| std::ops::ControlFlow::Continue(()))
            .unwrap()
    };
    for format in [Format::F16, Format::Bf16] {
        // Rounded first, so that both files hold the same numbers.
        let mut rounded = model.weights.clone();
        for value in rounded.values_mut().flat_map(|(_, values)| values) {
            *value = match format {
                Format::F16 => half::f16::from_f32(*value).to_f32(),
                _ => half::bf16::from_f32(*value).to_f32(),
            };
        }
        model.write(
            "model.safetensors",
            &tiny::safetensors(&rounded, Format::F32),
        );
        let full = greedy(&model);
        model.write("model.safetensors", &tiny::safetensors(&rounded, format));
        assert_eq!(greedy(&model).tokens, full.tokens, "{format:?}");
    }
    let whole = greedy(&model);
    let format = Format::Bf16;
    let mut first = model.weights.clone();
    let second = first.split_off("model.layers.1.mlp.up_proj.weight");
    model.write(
        "model-00001-of-00002.safetensors",
        &tiny::safetensors(&first, format),
    );
    model.write(
        "model-00002-of-00002.safetensors",
        &tiny::safetensors(&second, format),
    );
    let file_of = |name: &String| {
        let number = if first.contains_key(name) { 1 } else { 2 };
        (
            name.clone(),
            json!(format!("model-0000{number}-of-00002.safetensors")),
        )
    };
    let map: serde_json::Map<_, _> = model.weights.keys().map(file_of).collect();
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    model.write("model.safetensors.index.json", index.as_bytes());
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    assert_eq!(greedy(&model).tokens, whole.tokens);
    model.write(
        "model-00001-of-00002.safetensors",
        &tiny::safetensors(&second, format),
    );
    assert!(matches!(refused(&model), LoadError::DuplicateTensor { .. }));
}

#[test]
fn hashes_are_compared_with_the_bytes_that_are_loaded() {
    let model = TinyModel::new();
    load_expecting(&model, Some(hashes(&model, &FILES))).unwrap();
    for file in FILES {
        let mut wrong = hashes(&model, &FILES);
        wrong.get_mut(file).unwrap()[31] ^= 1;
        let error = load_expecting(&model, Some(wrong)).unwrap_err();
        assert!(
            matches!(&error, LoadError::HashMismatch { file: named, .. } if named == file),
            "{error}"
        );
    }
    let error = load_expecting(&model, Some(hashes(&model, &FILES[..2]))).unwrap_err();
    assert!(
        matches!(error, LoadError::NoWeights | LoadError::Unlisted { .. }),
        "{error}"
    );
    let error = load_expecting(&model, Some(hashes(&model, &FILES[1..]))).unwrap_err();
    assert!(matches!(error, LoadError::Unlisted { file } if file == "config.json"));
}

#[test]
fn files_that_the_hashes_do_not_name_are_left_alone() {
    let model = TinyModel::new();
    model.write("tokenizer_config.json", b"not JSON at all");
    model.write("model.safetensors.index.json", b"nor this");
    load_expecting(&model, Some(hashes(&model, &FILES))).unwrap();
    assert!(matches!(refused(&model), LoadError::Json { .. }));
}

#[test]
fn a_damaged_weight_file_is_refused() {
    let model = TinyModel::new();
    let whole = model.read("model.safetensors");
    for bytes in [
        &[][..],
        &whole[..7],
        &whole[..200],
        &whole[..whole.len() - 1],
    ] {
        model.write("model.safetensors", bytes);
        let error = refused(&model);
        assert!(matches!(error, LoadError::Safetensors { .. }), "{error:?}");
    }
    let mut huge_header = whole.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    model.write("model.safetensors", &huge_header);
    assert!(matches!(refused(&model), LoadError::Safetensors { .. }));
    let mut weights = model.weights.clone();
    weights.get_mut("model.norm.weight").unwrap().1[3] = f32::NAN;
    model.write(
        "model.safetensors",
        &tiny::safetensors(&weights, Format::F32),
    );
    assert!(
        matches!(refused(&model), LoadError::NotFinite { name } if name == "model.norm.weight")
    );
}

#[test]
fn missing_misshapen_and_strange_tensors_are_refused() {
    let model = TinyModel::new();
    let name = "model.layers.2.self_attn.k_proj.weight";
    let write = |weights: &tiny::Weights| {
        model.write(
            "model.safetensors",
            &tiny::safetensors(weights, Format::F32),
        );
    };
    let mut missing = model.weights.clone();
    missing.remove(name);
    write(&missing);
    assert!(matches!(refused(&model), LoadError::MissingTensor { name: found } if found == name));

    let mut misshapen = model.weights.clone();
    misshapen.get_mut(name).unwrap().0.reverse();
    write(&misshapen);
    assert!(matches!(refused(&model), LoadError::WrongShape { name: found, .. } if found == name));

    let mut strange = model.weights.clone();
    strange.insert(
        "model.layers.0.self_attn.q_proj.bias".into(),
        (vec![32], vec![0.0; 32]),
    );
    write(&strange);
    assert!(matches!(
        refused(&model),
        LoadError::UnexpectedTensor { .. }
    ));

    // Copies of the tied head are harmless.
    let mut tied = model.weights.clone();
    let embedding = tied["model.embed_tokens.weight"].clone();
    tied.insert("lm_head.weight".into(), embedding);
    write(&tied);
    load(&model).unwrap();
}

#[test]
fn an_incomplete_or_escaping_directory_is_refused() {
    for file in &FILES[..2] {
        let model = TinyModel::new();
        std::fs::remove_file(model.path().join(file)).unwrap();
        assert!(matches!(refused(&model), LoadError::Read { .. }));
    }
    let model = TinyModel::new();
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    assert!(matches!(refused(&model), LoadError::NoWeights));
    for file in ["../secret", "/etc/passwd", "a/b.safetensors", "", ".hidden"] {
        let index = json!({"weight_map": {"x": file}}).to_string();
        model.write("model.safetensors.index.json", index.as_bytes());
        assert!(
            matches!(refused(&model), LoadError::BadIndex { .. }),
            "{file}"
        );
    }
}

#[test]
fn configurations_that_are_not_computed_are_refused() {
    let change = |field: &str, value: serde_json::Value| {
        let model = TinyModel::new();
        let mut config = tiny::config_json();
        config[field] = value;
        model.write("config.json", config.to_string().as_bytes());
        match refused(&model) {
            LoadError::Config(error) => error,
            other => panic!("{field}: {other:?}"),
        }
    };
    let error = change("model_type", json!("mamba"));
    assert!(matches!(&error, ConfigError::UnknownArchitecture { found } if found == "mamba"));
    assert!(error.to_string().contains("mamba"), "{error}");
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(1u64 << 40)),
        ("num_hidden_layers", json!(100_000)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(8)),
        ("vocab_size", json!(1u64 << 33)),
        ("max_position_embeddings", json!(null)),
        ("eos_token_id", json!(9999)),
    ] {
        let error = change(field, value);
        assert!(
            matches!(error, ConfigError::OutOfRange { .. }),
            "{field}: {error}"
        );
    }
    for (field, value) in [
        ("num_key_value_heads", json!(3)),
        ("num_attention_heads", json!(5)),
        ("head_dim", json!(7)),
        ("rms_norm_eps", json!(-1.0)),
        ("rope_theta", json!(0.0)),
    ] {
        let error = change(field, value);
        assert!(
            matches!(error, ConfigError::Inconsistent(_)),
            "{field}: {error}"
        );
    }
    for (field, value) in [
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0}),
        ),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
    ] {
        let error = change(field, value);
        assert!(
            matches!(error, ConfigError::Unsupported { .. }),
            "{field}: {error}"
        );
    }
    assert!(matches!(
        change("hidden_size", json!("32")),
        ConfigError::Json(_)
    ));
}

#[test]
fn a_foreign_vocabulary_is_refused() {
    let model = TinyModel::new();
    for bytes in [&b"{}"[..], b"[]", b"not JSON", br#"{"added_tokens": [7]}"#] {
        model.write("tokenizer.json", bytes);
        assert!(matches!(refused(&model), LoadError::Json { .. }));
    }
    let mut metaspace = tiny::tokenizer_json();
    metaspace["decoder"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    model.write("tokenizer.json", metaspace.to_string().as_bytes());
    assert!(matches!(refused(&model), LoadError::TokenizerDecoder));
    let mut outside = tiny::tokenizer_json();
    outside["model"]["vocab"]["zz"] = json!(100_000);
    model.write("tokenizer.json", outside.to_string().as_bytes());
    assert!(matches!(
        refused(&model),
        LoadError::TokenizerVocabulary { id: 100_000, .. }
    ));
}

#[test]
fn end_tokens_of_the_generation_config_count_too() {
    let model = TinyModel::new();
    model.write("generation_config.json", br#"{"eos_token_id": [258, 256]}"#);
    assert_eq!(load(&model).unwrap().config().end_tokens, [256, 258]);
    model.write("generation_config.json", br#"{"eos_token_id": 70000}"#);
    assert!(matches!(refused(&model), LoadError::Config(_)));
}

#[test]
fn prompts_that_do_not_fit_are_refused() {
    let engine = TinyModel::new().engine();
    let raw = |text: String| engine.encode_prompt(&Prompt::Raw(text));
    let max = tiny::CONTEXT - 1;
    assert_eq!(raw("x".repeat(max)).unwrap().len(), max);
    let error = raw("x".repeat(max + 1)).unwrap_err();
    assert!(
        matches!(error, PromptError::TooLong { tokens, max: m } if tokens == max + 1 && m == max)
    );
    assert!(matches!(raw(String::new()), Err(PromptError::Empty)));
    assert!(matches!(
        raw("x".repeat(2 << 20)),
        Err(PromptError::TooManyBytes { .. })
    ));
    let long = ChatMessage {
        role: ChatRole::User,
        content: "y".repeat(max),
    };
    let error = engine.encode_prompt(&Prompt::Chat(vec![long])).unwrap_err();
    assert!(matches!(error, PromptError::TooLong { .. }));
}

#[test]
fn the_gpu_is_an_error_where_it_is_not_built() {
    let model = TinyModel::new();
    let with = |device| {
        Engine::load(
            model.path(),
            &LoadOptions {
                device,
                expected_sha256: None,
            },
        )
    };
    // With the feature, this machine may or may not have one: then only `Auto` must always work.
    if cfg!(not(feature = "gpu")) {
        assert!(matches!(with(DeviceChoice::Gpu), Err(LoadError::Device(_))));
    }
    assert!(
        !with(DeviceChoice::Auto)
            .unwrap()
            .description()
            .device_reason
            .is_empty()
    );
}
