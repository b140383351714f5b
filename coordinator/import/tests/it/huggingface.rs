//! Hugging Face directories are taken unchanged, or refused whole.

use std::{fs, path::Path};

use owm_model_import::{ImportError, Imported, import_hf_dir, tiny};
use tempfile::TempDir;

/// The tiny model as a source directory, changed by `change`, then imported.
fn import(change: impl FnOnce(&Path)) -> (TempDir, Result<Imported, ImportError>) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    tiny::write_tiny(&source).unwrap();
    change(&source);
    let result = import_hf_dir(&source, &directory.path().join("out"), &mut |_| {});
    (directory, result)
}

fn check_refused(wanted: &str, change: impl FnOnce(&Path)) {
    let (directory, result) = import(change);
    let text = format!("{:#}", anyhow::Error::from(result.expect_err(wanted)));
    assert!(text.contains(wanted), "wanted {wanted:?} in {text:?}");
    let left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["source"]);
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Moves the weights behind an index that names `file`.
fn split(source: &Path, file: &str) {
    fs::rename(
        source.join("model.safetensors"),
        source.join("part.safetensors"),
    )
    .unwrap();
    let index = format!(r#"{{"weight_map":{{"model.norm.weight":"{file}"}}}}"#);
    fs::write(source.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn files_are_copied_bit_for_bit_and_others_stay_behind() {
    let (directory, result) =
        import(|source| fs::write(source.join("pytorch_model.bin"), "x").unwrap());
    let imported = result.unwrap();
    let written = tiny::write_tiny(&directory.path().join("again")).unwrap();
    assert_eq!(imported.files, written.files);
    assert_eq!(imported.parameters, written.parameters);
    assert_eq!(imported.note, "the published safetensors files, unchanged");
}

#[test]
fn weights_in_several_files_are_found_through_their_index() {
    let (_directory, result) = import(|source| split(source, "part.safetensors"));
    let imported = result.unwrap();
    let names: Vec<_> = imported
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert!(names.contains(&"part.safetensors") && names.contains(&"model.safetensors.index.json"));
}

#[test]
fn an_index_cannot_reach_outside_its_directory() {
    check_refused("outside the directory", |source| {
        split(source, "../part.safetensors");
    });
    check_refused("outside the directory", |source| {
        split(source, "/part.safetensors");
    });
    check_refused("outside the directory", |source| {
        split(source, ".part.safetensors");
    });
}

#[test]
fn directories_that_would_be_computed_wrongly_are_refused() {
    let config = |from: &'static str, to: &'static str| {
        move |source: &Path| edit(&source.join("config.json"), from, to)
    };
    check_refused("architecture \"qwen2\"", config("\"llama\"", "\"qwen2\""));
    check_refused(
        "biases",
        config("\"attention_bias\": false", "\"attention_bias\": true"),
    );
    check_refused(
        "scaled rotary",
        config(
            "\"rope_scaling\": null",
            "\"rope_scaling\": {\"factor\": 8}",
        ),
    );
    check_refused("activation", config("silu", "gelu"));
    check_refused(
        "calls for",
        config("\"vocab_size\": 259", "\"vocab_size\": 260"),
    );
    check_refused(
        "is missing",
        config("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5"),
    );
    check_refused(
        "has no place",
        config("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3"),
    );
    check_refused(
        "is missing",
        config("embeddings\": true", "embeddings\": false"),
    );
    check_refused("config.json cannot be understood", config("{", "["));
}

#[test]
fn incomplete_directories_are_refused() {
    check_refused("tokenizer.json", |source| {
        fs::remove_file(source.join("tokenizer.json")).unwrap();
    });
    check_refused("tokenizer.json", |source| {
        fs::write(source.join("tokenizer.json"), "{}").unwrap();
    });
    check_refused("index.json", |source| {
        fs::remove_file(source.join("model.safetensors")).unwrap();
    });
    check_refused("is not a sound safetensors file", |source| {
        let path = source.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    });
}
