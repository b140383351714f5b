//! Files of a model directory, hashed as they are loaded, and the tensors in them. Called by the
//! engine's loader. The bytes that were hashed are the bytes that are used: a file is read once
//! into memory, never mapped, so it cannot change in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    path::Path,
};

use burn::tensor::{Bytes, DType, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::LoadError;

/// Largest JSON file, in bytes: real tokenizers have up to 35 MB.
pub(crate) const JSON_BYTES_MAX: u64 = 128 << 20;
/// Largest weight file, in bytes: twice the largest shard that is usual.
const WEIGHT_BYTES_MAX: u64 = 32 << 30;
/// Most weight files of one model: a 405B model has 191.
const WEIGHT_FILES_MAX: usize = 1024;

/// Reads files of one directory and compares their hashes.
#[derive(Debug)]
pub(crate) struct Directory<'a> {
    path: &'a Path,
    expected: Option<&'a BTreeMap<String, [u8; 32]>>,
}

impl<'a> Directory<'a> {
    pub(crate) fn new(path: &'a Path, expected: Option<&'a BTreeMap<String, [u8; 32]>>) -> Self {
        Self { path, expected }
    }

    /// Reads a file that must be there.
    pub(crate) fn read(&self, file: &str, max: u64) -> Result<Vec<u8>, LoadError> {
        if self
            .expected
            .is_some_and(|expected| !expected.contains_key(file))
        {
            return Err(LoadError::Unlisted {
                file: file.to_owned(),
            });
        }
        let path = self.path.join(file);
        let read = |path: &Path| -> io::Result<(u64, Vec<u8>)> {
            let handle = File::open(path)?;
            let bytes = handle.metadata()?.len();
            let mut content = Vec::new();
            let wanted = usize::try_from(bytes.min(max)).unwrap_or(usize::MAX);
            content
                .try_reserve_exact(wanted)
                .map_err(|_| io::ErrorKind::OutOfMemory)?;
            // One byte more than allowed is enough to see that there are too many.
            handle
                .take(max.saturating_add(1))
                .read_to_end(&mut content)?;
            Ok((bytes, content))
        };
        let (bytes, content) = read(&path).map_err(|source| LoadError::Read { path, source })?;
        if content.len() as u64 > max {
            return Err(LoadError::TooLarge {
                file: file.to_owned(),
                bytes,
                max,
            });
        }
        self.compare(file, &content)?;
        Ok(content)
    }

    /// Reads a file that may be absent. One that the caller's list of hashes does not name is
    /// not part of the model and is left alone.
    pub(crate) fn read_optional(&self, file: &str, max: u64) -> Result<Option<Vec<u8>>, LoadError> {
        let listed = self.expected.map(|expected| expected.contains_key(file));
        let wanted = listed.unwrap_or_else(|| self.path.join(file).is_file());
        if wanted {
            self.read(file, max).map(Some)
        } else {
            Ok(None)
        }
    }

    fn compare(&self, file: &str, content: &[u8]) -> Result<(), LoadError> {
        let Some(expected) = self.expected.and_then(|expected| expected.get(file)) else {
            return Ok(());
        };
        let found: [u8; 32] = Sha256::digest(content).into();
        if found == *expected {
            return Ok(());
        }
        Err(LoadError::HashMismatch {
            file: file.to_owned(),
            expected: hex(expected),
            found: hex(&found),
        })
    }

    /// The weight files in reading order: those of the index, or the single file.
    pub(crate) fn weight_files(&self) -> Result<Vec<String>, LoadError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        const INDEX: &str = "model.safetensors.index.json";
        const SINGLE: &str = "model.safetensors";
        if let Some(bytes) = self.read_optional(INDEX, JSON_BYTES_MAX)? {
            let index: Index =
                serde_json::from_slice(&bytes).map_err(|source| LoadError::Json {
                    file: INDEX.to_owned(),
                    source,
                })?;
            let files: BTreeSet<String> = index.weight_map.into_values().collect();
            if files.len() > WEIGHT_FILES_MAX {
                let files = files.len();
                return Err(LoadError::TooManyFiles {
                    files,
                    max: WEIGHT_FILES_MAX,
                });
            }
            if let Some(file) = files.iter().find(|file| !is_plain_name(file)) {
                return Err(LoadError::BadIndex {
                    file: file.chars().take(128).collect(),
                });
            }
            return Ok(files.into_iter().collect());
        }
        let listed = self
            .expected
            .is_some_and(|expected| expected.contains_key(SINGLE));
        if listed || self.path.join(SINGLE).is_file() {
            return Ok(vec![SINGLE.to_owned()]);
        }
        Err(LoadError::NoWeights)
    }

    /// Reads every weight file and gives its tensors by name, in the file's format. They share
    /// the bytes of their file.
    pub(crate) fn tensors(&self) -> Result<Tensors, LoadError> {
        let mut by_name = BTreeMap::new();
        let files = self.weight_files()?;
        let mut header = None;
        for file in &files {
            let bytes = Bytes::from_elems(self.read(file, WEIGHT_BYTES_MAX)?).shared();
            let parsed =
                SafeTensors::deserialize(&bytes).map_err(|source| LoadError::Safetensors {
                    file: file.clone(),
                    source,
                })?;
            if files.len() == 1 {
                // The parser has checked that they are there: the length, then the JSON.
                let (length, _) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
                header = Some(bytes[..8 + u64::from_le_bytes(*length) as usize].to_vec());
            }
            for (name, view) in parsed.iter() {
                let loaded = Loaded {
                    offset: view.data().as_ptr().addr() - bytes.as_ptr().addr(),
                    file: file.clone(),
                    data: tensor(name, &view, &bytes)?,
                };
                if by_name.insert(name.to_owned(), loaded).is_some() {
                    return Err(LoadError::DuplicateTensor {
                        name: name.to_owned(),
                    });
                }
            }
        }
        Ok(Tensors { by_name, header })
    }
}

/// Tensors that have been read and wait for their place in the model.
#[derive(Debug)]
pub(crate) struct Tensors {
    by_name: BTreeMap<String, Loaded>,
    header: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Loaded {
    file: String,
    /// Where its bytes begin in the file.
    offset: usize,
    data: TensorData,
}

impl Tensors {
    /// Names as their values stand in the files, file after file: the canonical order. Of tensors without values,
    /// which stand where the next one begins, the name decides.
    pub(crate) fn names_in_order(&self) -> Vec<String> {
        let mut names: Vec<(&String, &Loaded)> = self.by_name.iter().collect();
        names.sort_by_key(|(name, loaded)| {
            let end = loaded.offset + loaded.data.bytes().len();
            (&loaded.file, loaded.offset, end, *name)
        });
        names.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// The bytes before the values (length and JSON), if there is one file.
    pub(crate) fn header(&mut self) -> Option<Vec<u8>> {
        self.header.take()
    }

    /// Gives a tensor away, once, in its file's format.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<TensorData, LoadError> {
        let loaded = self
            .by_name
            .remove(name)
            .ok_or_else(|| LoadError::MissingTensor {
                name: name.to_owned(),
            })?;
        if loaded.data.shape().as_slice() != shape {
            return Err(LoadError::WrongShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: loaded.data.shape().to_vec(),
            });
        }
        Ok(loaded.data)
    }

    /// Fails if a tensor was not taken. Two leftovers are known to carry nothing, and are given back: a copy of
    /// the tied head, and rotary frequencies, which follow from the configuration.
    pub(crate) fn finish(self, tied_head: bool) -> Result<BTreeMap<String, TensorData>, LoadError> {
        let is_known = |name: &str| {
            name.ends_with(".rotary_emb.inv_freq") || tied_head && name == "lm_head.weight"
        };
        let mut rest = BTreeMap::new();
        for (name, loaded) in self.by_name {
            if !is_known(&name) {
                let file = loaded.file;
                return Err(LoadError::UnexpectedTensor { name, file });
            }
            rest.insert(name, loaded.data);
        }
        Ok(rest)
    }
}

/// A tensor whose values are all finite. Its bytes are those of the file, unless they stand there
/// at an address that the processor can't read such numbers from.
fn tensor(name: &str, view: &TensorView<'_>, file: &Bytes) -> Result<TensorData, LoadError> {
    let bytes = view.data();
    let (dtype, size, finite) = match view.dtype() {
        Dtype::F32 => (
            DType::F32,
            4,
            all_finite(bytes, 0x7f80_0000, u32::from_le_bytes),
        ),
        Dtype::F16 => (DType::F16, 2, all_finite(bytes, 0x7c00, u16::from_le_bytes)),
        Dtype::BF16 => (
            DType::BF16,
            2,
            all_finite(bytes, 0x7f80, u16::from_le_bytes),
        ),
        other => {
            let found = format!("{other:?}");
            return Err(LoadError::WrongFormat {
                name: name.to_owned(),
                found,
            });
        }
    };
    if !finite {
        return Err(LoadError::NotFinite {
            name: name.to_owned(),
        });
    }
    let start = bytes.as_ptr().addr() - file.as_ptr().addr();
    let aligned = bytes.as_ptr().addr().is_multiple_of(size);
    let shared = file.view(start, start + bytes.len());
    let own = match shared {
        Ok(shared) if aligned => shared,
        _ => Bytes::from_bytes_vec(bytes.to_vec()),
    };
    Ok(TensorData::from_bytes(own, view.shape().to_vec(), dtype))
}

/// Whether no number's exponent is all ones, which marks infinity and what is no number.
fn all_finite<const SIZE: usize, T>(bytes: &[u8], ones: T, read: fn([u8; SIZE]) -> T) -> bool
where
    T: Copy + PartialEq + std::ops::BitAnd<Output = T>,
{
    let (numbers, _) = bytes.as_chunks::<SIZE>();
    !numbers.iter().any(|number| read(*number) & ones == ones)
}

fn is_plain_name(file: &str) -> bool {
    !file.is_empty()
        && !file.starts_with('.')
        && file
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
