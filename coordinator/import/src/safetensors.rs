//! The safetensors format: an 8-byte length, a JSON header, the tensors one after another.
//!
//! `from_gguf` and `tiny` write headers, `from_hf` checks foreign ones. A header that `Header::read`
//! accepts describes the file completely: tensors follow each other without gaps to its last byte.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    path::Path,
};

use serde::{
    Deserialize, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};

use crate::{ImportError, llama::Part};

/// Longest header, in bytes. A model with 16,384 tensors needs about 2.5 MiB.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Bytes of the length before the header.
const LENGTH_BYTES: u64 = 8;
/// The tensor data begins at a multiple of this, in bytes.
const ALIGNMENT: usize = 8;
const METADATA_KEY: &str = "__metadata__";

/// What a header says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) data_offsets: [u64; 2],
}

/// A checked header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tensors: BTreeMap<String, Entry>,
}

/// The header of a half-precision file with `parts` in this order, with its length before it and
/// spaces after it. `origin` is kept in the file's metadata.
pub(crate) fn header_f16(parts: &[Part], origin: &str) -> Vec<u8> {
    let json = serde_json::to_vec(&HeaderJson { parts, origin })
        .expect("a header has string keys and whole numbers");
    let padded = json.len().next_multiple_of(ALIGNMENT);
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&json);
    bytes.resize(bytes.len() + padded - json.len(), b' ');
    bytes
}

/// Appends one tensor's values as half precision; `Err` if one is no finite half-precision number.
/// `halves` and `bytes` are buffers to use again.
pub(crate) fn write_f16(
    values: &[f32],
    halves: &mut Vec<half::f16>,
    bytes: &mut Vec<u8>,
    target: &mut impl Write,
) -> Result<(), WriteF16Error> {
    use half::slice::HalfFloatSliceExt;
    halves.clear();
    halves.resize(values.len(), half::f16::ZERO);
    halves.convert_from_f32_slice(values);
    bytes.clear();
    for half in halves.iter() {
        if !half.is_finite() {
            return Err(WriteF16Error::Range);
        }
        bytes.extend_from_slice(&half.to_le_bytes());
    }
    target.write_all(bytes).map_err(WriteF16Error::Io)
}

/// Why values could not be written as half precision.
#[derive(Debug)]
pub(crate) enum WriteF16Error {
    /// One does not fit.
    Range,
    /// The file system's reason.
    Io(std::io::Error),
}

impl Header {
    /// Reads and checks the header of the file at `path`, called `name` in messages.
    pub(crate) fn read(path: &Path, name: &str) -> Result<Self, ImportError> {
        let io_error = |error| ImportError::io("read", path)(error);
        let mut file = File::open(path).map_err(io_error)?;
        let file_len = file.metadata().map_err(io_error)?.len();
        let unsound = |why: &str| ImportError::Safetensors {
            file: name.to_owned(),
            why: why.to_owned(),
        };
        if file_len < LENGTH_BYTES {
            return Err(unsound("it is shorter than a header"));
        }
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length).map_err(io_error)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX || length > file_len - LENGTH_BYTES {
            return Err(unsound("its header's length is impossible"));
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json).map_err(io_error)?;
        Self::parse(&json, file_len - LENGTH_BYTES - length).map_err(|why| unsound(&why))
    }

    /// Parses header JSON for `data_len` bytes of tensors.
    fn parse(json: &[u8], data_len: u64) -> Result<Self, String> {
        let header: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut ranges = Vec::with_capacity(header.tensors.len());
        for (name, entry) in &header.tensors {
            let [start, end] = entry.data_offsets;
            let wanted = entry
                .shape
                .iter()
                .try_fold(dtype_bytes(&entry.dtype)?, |bytes, dimension| {
                    bytes.checked_mul(*dimension)
                });
            if start > end || wanted != Some(end - start) {
                return Err(format!("tensor {name:?} has another length than its shape"));
            }
            ranges.push((start, end));
        }
        ranges.sort_unstable();
        let mut at = 0;
        for (start, end) in ranges {
            if start != at {
                return Err("its tensors overlap or leave gaps".to_owned());
            }
            at = end;
        }
        if at != data_len {
            return Err(format!(
                "its tensors take {at} bytes and {data_len} follow the header"
            ));
        }
        Ok(header)
    }
}

/// Bytes of one element.
fn dtype_bytes(dtype: &str) -> Result<u64, String> {
    Ok(match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" => 8,
        other => return Err(format!("{other:?} is no element type that can be read")),
    })
}

#[derive(Debug)]
struct HeaderJson<'a> {
    parts: &'a [Part],
    origin: &'a str,
}

impl Serialize for HeaderJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.parts.len() + 1))?;
        let metadata = BTreeMap::from([("format", "pt"), ("owm.origin", self.origin)]);
        map.serialize_entry(METADATA_KEY, &metadata)?;
        let mut at = 0;
        for part in self.parts {
            let start = at;
            at += part.values() * 2;
            let (dtype, shape) = ("F16".to_owned(), part.shape.clone());
            map.serialize_entry(
                &part.name,
                &Entry {
                    dtype,
                    shape,
                    data_offsets: [start, at],
                },
            )?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads tensors, skips the metadata, refuses names that occur twice.
#[derive(Debug)]
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a safetensors header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA_KEY {
                map.next_value::<BTreeMap<String, String>>()?;
                continue;
            }
            let entry = map.next_value()?;
            if tensors.insert(name, entry).is_some() {
                return Err(serde::de::Error::custom("a tensor occurs twice"));
            }
        }
        Ok(Header { tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, data_len: u64, wanted: &str) {
        match Header::parse(json.as_bytes(), data_len) {
            Ok(header) => assert_eq!(wanted, format!("{} tensors", header.tensors.len())),
            Err(why) => assert!(why.contains(wanted), "{why}"),
        }
    }

    #[test]
    fn a_header_must_describe_the_file_without_gaps() {
        let a = r#""a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}"#;
        check(
            &format!(r#"{{"__metadata__":{{"format":"pt"}},{a}}}"#),
            12,
            "1 tensors",
        );
        check(&format!("{{{a}}}"), 13, "13 follow");
        check(&format!("{{{a},{a}}}"), 12, "occurs twice");
        check(
            r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}}"#,
            6,
            "leave gaps",
        );
        check(
            r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[6,2]}}"#,
            6,
            "another length",
        );
        check(
            r#"{"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,4]}}"#,
            4,
            "element type",
        );
        let huge = u64::MAX;
        check(
            &format!(r#"{{"a":{{"dtype":"F32","shape":[{huge},{huge}],"data_offsets":[0,0]}}}}"#),
            0,
            "another length",
        );
    }
}
