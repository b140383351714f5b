//! A bounded reader of GGUF version 3 headers.
//!
//! Called by `from_gguf` and by the fuzz target. Everything in a GGUF file is foreign: each count
//! and length is checked against a named limit *and* against the bytes that are really there before
//! anything is reserved for it, so that no input makes the reader panic or allocate more than a
//! small multiple of the bytes it was given. Strings and arrays borrow from those bytes.
//! The layout was taken from the GGUF specification (little-endian, version 3).

mod cursor;
pub mod dequantise;
mod tensor;
mod value;

use std::collections::BTreeMap;

use self::cursor::Cursor;
pub use self::{
    tensor::{TensorInfo, TensorType},
    value::{Numbers, Value},
};

/// Longest header (everything before the tensor data) that is read, in bytes. A vocabulary of
/// 256,000 tokens with its merges takes about 12 MiB.
pub const HEADER_BYTES_MAX: u64 = 64 << 20;
/// Most metadata entries. Real files have 20 to 60.
pub const METADATA_ENTRIES_MAX: u64 = 4096;
/// Most tensors. The largest published models have about 2,000.
pub const TENSORS_MAX: u64 = 16_384;
/// Longest metadata key or tensor name, in bytes (the specification allows 65,535 for keys; real
/// ones stay below 64).
pub const NAME_BYTES_MAX: u64 = 256;
/// Longest string value, in bytes. Chat templates are the longest, at a few tens of KiB.
pub const STRING_BYTES_MAX: u64 = 1 << 20;
/// Most elements in one array. The longest real ones are merges, about half a million.
pub const ARRAY_ELEMENTS_MAX: u64 = 1 << 21;
/// Most dimensions of a tensor (GGML's own limit).
pub const DIMENSIONS_MAX: u32 = 4;
/// Largest alignment of tensor data, in bytes. 32 is the default; 64 KiB is the largest page.
pub const ALIGNMENT_MAX: u64 = 64 << 10;

/// The alignment when `general.alignment` is absent, in bytes (from the specification).
const ALIGNMENT_DEFAULT: u64 = 32;
const MAGIC: &[u8] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT_KEY: &str = "general.alignment";

/// Why a file could not be read as GGUF.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error(
        "not a GGUF file: it does not begin with the bytes \"GGUF\"; check which file was given"
    )]
    NotGguf,
    /// A version this reader does not know.
    #[error("GGUF version {found} cannot be read, only version 3 can; convert the file again")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The file ends inside its header.
    #[error(
        "the file ends early: byte {at} needs {wanted} more bytes and {left} are there; fetch it again"
    )]
    Truncated {
        /// Offset of the read, in bytes.
        at: u64,
        /// Bytes that the header asks for there.
        wanted: u64,
        /// Bytes that are there.
        left: u64,
    },
    /// The header is longer than [`HEADER_BYTES_MAX`].
    #[error(
        "the header is longer than the limit of {HEADER_BYTES_MAX} bytes; this is no model this importer knows"
    )]
    HeaderTooLong,
    /// A count or length above its limit.
    #[error(
        "{what} is {found}, above the limit of {limit}; the file is damaged or not meant for this importer"
    )]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The number in the file.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A string that is not UTF-8.
    #[error("the string at byte {at} is not UTF-8; the file is damaged")]
    NotUtf8 {
        /// Offset of the string's bytes.
        at: u64,
    },
    /// A metadata value of a type this reader does not know, an array of arrays, or a bad bool.
    #[error(
        "metadata value {key:?} has an unreadable type or content (code {code}); the file is damaged or newer than version 3"
    )]
    BadValue {
        /// The metadata key.
        key: String,
        /// The type code (or the byte of a bool).
        code: u32,
    },
    /// The same key or tensor twice.
    #[error("{name:?} occurs twice; the file is damaged")]
    Duplicate {
        /// The key or tensor name.
        name: String,
    },
    /// An alignment that is no power of two, or above [`ALIGNMENT_MAX`].
    #[error("alignment {found} is not a power of two up to {ALIGNMENT_MAX}; the file is damaged")]
    Alignment {
        /// The alignment in the file.
        found: u64,
    },
    /// A tensor in an encoding this reader cannot turn into numbers.
    #[error(
        "tensor {tensor:?} has encoding {code}, and only F32, F16, BF16, Q4_0, Q4_1 and Q8_0 can be read; choose a file in one of those"
    )]
    TensorType {
        /// The tensor's name.
        tensor: String,
        /// GGML's code of the encoding.
        code: u32,
    },
    /// A shape that cannot be: no elements, too many, or rows that are no whole blocks.
    #[error("tensor {tensor:?} has an impossible shape ({why}); the file is damaged")]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Tensor data outside the file, misaligned, or shared with another tensor.
    #[error(
        "the data of tensor {tensor:?} {why}; the file is cut short or damaged: fetch it again"
    )]
    Data {
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A metadata key that is needed and absent.
    #[error(
        "metadata key {key:?} is missing; the file was made by a converter this importer does not know"
    )]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value of another type than its key calls for.
    #[error(
        "metadata value {key:?} is not {wanted}; the file was made by a converter this importer does not know"
    )]
    WrongType {
        /// The key.
        key: String,
        /// What was expected.
        wanted: &'static str,
    },
}

/// A parsed header: metadata and the list of tensors, borrowed from the header's bytes.
#[derive(Debug)]
pub struct Gguf<'a> {
    metadata: BTreeMap<&'a str, Value<'a>>,
    tensors: BTreeMap<&'a str, TensorInfo>,
}

impl<'a> Gguf<'a> {
    /// Parses the header in `bytes`: the first [`HEADER_BYTES_MAX`] bytes of a file of `file_len`
    /// bytes, or all of it if it is shorter. Tensor data is not touched, but every tensor's range
    /// is known to lie inside the file afterwards.
    pub fn parse(bytes: &'a [u8], file_len: u64) -> Result<Self, GgufError> {
        Self::parse_header(bytes, file_len).map_err(|error| match error {
            GgufError::Truncated { .. } if (bytes.len() as u64) < file_len => {
                GgufError::HeaderTooLong
            }
            other => other,
        })
    }

    fn parse_header(bytes: &'a [u8], file_len: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.take(4)? != MAGIC {
            return Err(GgufError::NotGguf);
        }
        let version = cursor.u32()?;
        if version != VERSION {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = cursor.count("the number of tensors", TENSORS_MAX)?;
        let entry_count = cursor.count("the number of metadata entries", METADATA_ENTRIES_MAX)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entry_count {
            let key = cursor.string("the length of a metadata key", NAME_BYTES_MAX)?;
            let value = Value::read(&mut cursor, key)?;
            if metadata.insert(key, value).is_some() {
                return Err(GgufError::Duplicate {
                    name: key.to_owned(),
                });
            }
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = cursor.string("the length of a tensor name", NAME_BYTES_MAX)?;
            let info = TensorInfo::read(&mut cursor, name)?;
            if tensors.insert(name, info).is_some() {
                return Err(GgufError::Duplicate {
                    name: name.to_owned(),
                });
            }
        }
        let mut gguf = Self { metadata, tensors };
        gguf.place_tensors(cursor.at(), file_len)?;
        Ok(gguf)
    }

    /// Turns offsets relative to the data section into offsets in the file, and checks them.
    fn place_tensors(&mut self, header_len: u64, file_len: u64) -> Result<(), GgufError> {
        let alignment = self.u64_opt(ALIGNMENT_KEY)?.unwrap_or(ALIGNMENT_DEFAULT);
        if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
            return Err(GgufError::Alignment { found: alignment });
        }
        let data_start = header_len.next_multiple_of(alignment);
        let mut ranges = Vec::with_capacity(self.tensors.len());
        for (name, info) in &mut self.tensors {
            let bad = |why| GgufError::Data {
                tensor: (*name).to_owned(),
                why,
            };
            if !info.offset.is_multiple_of(alignment) {
                return Err(bad("is not aligned"));
            }
            info.offset = info
                .offset
                .checked_add(data_start)
                .ok_or_else(|| bad("is out of range"))?;
            let end = info
                .offset
                .checked_add(info.bytes)
                .ok_or_else(|| bad("is out of range"))?;
            if end > file_len {
                return Err(bad("reaches past the end of the file"));
            }
            ranges.push((info.offset, end, *name));
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if let [(_, end, _), (start, _, name)] = pair
                && start < end
            {
                let tensor = (*name).to_owned();
                return Err(GgufError::Data {
                    tensor,
                    why: "overlaps another tensor's",
                });
            }
        }
        Ok(())
    }

    /// The tensors by name, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&'a str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (*name, info))
    }

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// A metadata value, whatever its type.
    pub fn value(&self, key: &str) -> Option<&Value<'a>> {
        self.metadata.get(key)
    }

    /// A string that must be there.
    pub fn str(&self, key: &str) -> Result<&'a str, GgufError> {
        self.str_opt(key)?.ok_or_else(|| missing(key))
    }

    /// A string that may be absent.
    pub fn str_opt(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(key, "a string")),
        }
    }

    /// A whole number that must be there.
    pub fn u64(&self, key: &str) -> Result<u64, GgufError> {
        self.u64_opt(key)?.ok_or_else(|| missing(key))
    }

    /// A whole number (of any integer type, not negative) that may be absent.
    pub fn u64_opt(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let number = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(number)) => Some(*number),
            Some(Value::Signed(number)) => u64::try_from(*number).ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| wrong(key, "a whole number"))
    }

    /// A single-precision number that must be there.
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.f32_opt(key)?.ok_or_else(|| missing(key))
    }

    /// A single-precision number that may be absent.
    pub fn f32_opt(&self, key: &str) -> Result<Option<f32>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(number)) => Ok(Some(*number)),
            Some(_) => Err(wrong(key, "a 32-bit float")),
        }
    }

    /// A bool that may be absent.
    pub fn bool_opt(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(wrong(key, "a bool")),
        }
    }

    /// An array of strings that must be there.
    pub fn strings(&self, key: &str) -> Result<&[&'a str], GgufError> {
        match self.metadata.get(key) {
            None => Err(missing(key)),
            Some(Value::Strings(strings)) => Ok(strings),
            Some(_) => Err(wrong(key, "an array of strings")),
        }
    }

    /// An array of numbers that must be there.
    pub fn numbers(&self, key: &str) -> Result<Numbers<'a>, GgufError> {
        match self.metadata.get(key) {
            None => Err(missing(key)),
            Some(Value::Numbers(numbers)) => Ok(*numbers),
            Some(_) => Err(wrong(key, "an array of numbers")),
        }
    }
}

fn missing(key: &str) -> GgufError {
    GgufError::MissingKey {
        key: key.to_owned(),
    }
}

fn wrong(key: &str, wanted: &'static str) -> GgufError {
    GgufError::WrongType {
        key: key.to_owned(),
        wanted,
    }
}
