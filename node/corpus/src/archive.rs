//! A package's archive (gzipped tar) to documents by shard. Called by the fetcher with bytes whose SHA-256
//! is the listed one. Bounded all the same: nothing is unpacked to disk, sizes and counts have limits.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::Path,
};

use flate2::read::GzDecoder;

use crate::{Document, document::deduplicate, json};

/// Text of one archive at most, in bytes.
const TOTAL_BYTES_MAX: u64 = 256 << 20;
/// Largest file that is read, in bytes: a larger source file was made by a program.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Entries of one archive at most.
const ENTRIES_MAX: usize = 50_000;

/// An archive cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the archive {name} cannot be read: delete it from the cache and fetch it again")]
pub struct ArchiveError {
    /// Which.
    pub(crate) name: String,
    /// Where the reader stopped.
    pub(crate) source: io::Error,
}

/// Documents by shard. `shard` says which of a path's documents belong together; `None`: not text of
/// this corpus.
pub(crate) fn read(
    name: &str,
    bytes: &[u8],
    shard: &dyn Fn(&Path) -> Option<String>,
) -> Result<BTreeMap<String, Vec<Document>>, ArchiveError> {
    let failed = |source| ArchiveError {
        name: name.to_owned(),
        source,
    };
    let unpacked = GzDecoder::new(bytes).take(TOTAL_BYTES_MAX);
    let mut archive = tar::Archive::new(unpacked);
    let mut shards: BTreeMap<String, Vec<Document>> = BTreeMap::new();
    for entry in archive.entries().map_err(failed)?.take(ENTRIES_MAX) {
        let entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        if !entry.header().entry_type().is_file() || entry.size() > FILE_BYTES_MAX {
            continue;
        }
        let Some(shard) = shard(&path) else {
            continue;
        };
        let mut bytes = Vec::new();
        entry
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let text = if is_json {
            json::text(&text).unwrap_or_default()
        } else {
            text
        };
        let document = Document::new(path.to_string_lossy(), &text);
        if !document.text.is_empty() {
            shards.entry(shard).or_default().push(document);
        }
    }
    for documents in shards.values_mut() {
        deduplicate(documents);
    }
    Ok(shards)
}

/// `owm-geo`: country profiles lie in a folder per region.
pub(crate) fn region(path: &Path) -> Option<String> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    match parts[..] {
        [_, region, _] if path.extension().is_some_and(|kind| kind == "json") => {
            Some(region.to_owned())
        }
        _ => None,
    }
}

/// `owm-code`: Rust sources but for what programs wrote.
pub(crate) fn is_source(path: &Path) -> bool {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let text = path.to_string_lossy();
    is_rust
        && !["bindings", "generated", "unicode_tables", "tables.rs"]
            .iter()
            .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        ));
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn an_archive_s_files_become_documents_by_shard() {
        let bytes = packed(&[
            ("package/package.json", "{\"name\": \"x\"}"),
            (
                "package/europe/fr.json",
                "{\"Capital\": {\"text\": \"Paris\"}}",
            ),
            (
                "package/europe/copy.json",
                "{\"Capital\": {\"text\": \"Paris\"}}",
            ),
            (
                "package/africa/eg.json",
                "{\"Capital\": {\"text\": \"Cairo\"}}",
            ),
        ]);
        let shards = read("test", &bytes, &region).unwrap();
        let names: Vec<&String> = shards.keys().collect();
        assert_eq!(names, ["africa", "europe"]);
        assert_eq!(shards["europe"].len(), 1);
        assert_eq!(shards["africa"][0].text, "Capital: Cairo\n");
        assert!(read("test", &bytes[..bytes.len() / 2], &region).is_err());
    }

    #[test]
    fn generated_sources_are_left_out() {
        assert!(is_source(Path::new("serde-1.0/src/de/mod.rs")));
        assert!(!is_source(Path::new("x-1.0/src/bindings.rs")));
        assert!(!is_source(Path::new("x-1.0/Cargo.toml")));
    }
}
