//! Where a safetensors file keeps its tensors: the flat order of a step's elements is this file's own data
//! order. Trainers cut their steps by it, [`crate::apply`] finds the bytes by it.
//!
//! Read from the file's first bytes only. Strict: tensors lie without gaps from the first data byte to the
//! last, names are said once; of tensors without elements, which lie at the same place, the name decides.

use std::{collections::BTreeMap, fmt, ops::Range};

use owm_proto::{Sha256, hash::Hasher};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use crate::header::{LoraEpoch, Mode, Targets};

/// Bytes of a safetensors header, as its own libraries bound it.
const JSON_BYTES_MAX: u64 = 100_000_000;

/// The length at the front of a safetensors file.
const LENGTH_BYTES: u64 = 8;

/// How the names of the matrices end that LoRA adapts: the seven of each layer.
const ADAPTED_SUFFIX: &str = "_proj.weight";

/// Numbers that are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl Dtype {
    fn of(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// As the file calls it.
    pub name: String,
    /// What its elements are; `None`: nothing that is trained, so it has none in the flat order.
    pub dtype: Option<Dtype>,
    /// Rows first.
    pub shape: Vec<u64>,
    /// Where its bytes are in the file.
    pub bytes: Range<u64>,
    /// Where its elements are in the flat order of full-weight training; empty if it has none.
    pub elements: Range<u64>,
}

/// The tensors of one file, in data order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<Tensor>,
    data: Range<u64>,
    elements: u64,
    id: Sha256,
}

/// One adapted matrix W, and its B in the flat order of a LoRA epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraTarget {
    /// W's place in [`Layout::tensors`].
    pub tensor: u32,
    /// W's rows, and B's.
    pub rows: u64,
    /// W's columns, and A's.
    pub columns: u64,
    /// B's elements, row by row, `rank` each.
    pub elements: Range<u64>,
}

/// Why a file's header is refused, or does not go with a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// More bytes are needed.
    #[error("the safetensors header is {needed} bytes with its length, {got} are there; read more")]
    Short {
        /// From the file's first byte on.
        needed: u64,
        /// What there is.
        got: u64,
    },
    /// Not a header.
    #[error("this is no safetensors file: {0}")]
    Malformed(String),
    /// A LoRA epoch names something that is no matrix of numbers that are trained.
    #[error(
        "tensor {0} cannot carry a LoRA pair: it must be a matrix of floats with at least `rank` rows and columns"
    )]
    Target(u32),
    /// A LoRA epoch counts other tensors than the file.
    #[error("the LoRA epoch is of a file with {epoch} tensors, this one has {file}")]
    Tensors {
        /// By the epoch.
        epoch: u32,
        /// In the file.
        file: usize,
    },
}

/// A tensor as the JSON has it.
#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// All of the JSON but `__metadata__`, each name once.
struct RawHeader(BTreeMap<String, Raw>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else if tensors.insert(name, map.next_value()?).is_some() {
                        return Err(A::Error::custom("a tensor's name stands twice"));
                    }
                }
                Ok(RawHeader(tensors))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

fn malformed(why: impl fmt::Display) -> LayoutError {
    LayoutError::Malformed(why.to_string())
}

impl Layout {
    /// Reads the header from the file's first bytes; if they are too few the error says how many it takes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LayoutError> {
        let got = bytes.len() as u64;
        let short = |needed| LayoutError::Short { needed, got };
        let length = bytes.first_chunk().ok_or(short(LENGTH_BYTES))?;
        let length = u64::from_le_bytes(*length);
        if length > JSON_BYTES_MAX {
            return Err(malformed(format_args!("a header of {length} bytes")));
        }
        let data = LENGTH_BYTES + length;
        let json = bytes
            .get(LENGTH_BYTES as usize..data as usize)
            .ok_or(short(data))?;
        let RawHeader(raw) = serde_json::from_slice(json).map_err(malformed)?;
        let mut raw: Vec<(String, Raw)> = raw.into_iter().collect();
        raw.sort_by(|(a_name, a), (b_name, b)| {
            (a.data_offsets, a_name).cmp(&(b.data_offsets, b_name))
        });
        let mut layout = Self {
            tensors: Vec::with_capacity(raw.len()),
            data: data..data,
            elements: 0,
            id: Sha256([0; 32]),
        };
        let mut id = Hasher::default();
        for (name, raw) in raw {
            identify(&mut id, &name, &raw);
            layout.push(name, raw)?;
        }
        layout.id = id.finish();
        Ok(layout)
    }

    fn push(&mut self, name: String, raw: Raw) -> Result<(), LayoutError> {
        let (from, to) = raw.data_offsets;
        let Some(bytes) = to.checked_sub(from) else {
            return Err(malformed(format_args!("{name:?} ends before it begins")));
        };
        if self.data.start.checked_add(from) != Some(self.data.end) {
            return Err(malformed(format_args!(
                "a gap or an overlap before {name:?}"
            )));
        }
        let end = self.data.end.checked_add(bytes);
        let end = end.ok_or_else(|| malformed("its tensors end beyond 2^64"))?;
        let dtype = Dtype::of(&raw.dtype);
        let mut elements = 0;
        if let Some(dtype) = dtype {
            let product = raw
                .shape
                .iter()
                .try_fold(1_u64, |n, side| n.checked_mul(*side));
            let expected = product.and_then(|n| n.checked_mul(dtype.bytes() as u64));
            if expected != Some(bytes) {
                return Err(malformed(format_args!(
                    "{name:?} is not as long as its shape"
                )));
            }
            elements = bytes / dtype.bytes() as u64;
        }
        self.tensors.push(Tensor {
            name,
            dtype,
            shape: raw.shape,
            bytes: self.data.end..end,
            elements: self.elements..self.elements + elements,
        });
        self.data.end = end;
        self.elements += elements;
        Ok(())
    }

    /// The tensors, in data order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Where the data is; it ends where the file ends.
    pub fn data(&self) -> Range<u64> {
        self.data.clone()
    }

    /// SHA-256 over each tensor in data order: length of the name (u32, little-endian), name, length of the
    /// type's name (u8), the type's name, number of sides (u8), each side (u64).
    pub const fn id(&self) -> Sha256 {
        self.id
    }

    /// Elements of the flat order in this mode.
    pub fn elements(&self, mode: &Mode) -> Result<u64, LayoutError> {
        match mode {
            Mode::Full => Ok(self.elements),
            Mode::Lora(lora) => {
                let targets = self.lora_targets(lora)?;
                Ok(targets.last().map_or(0, |target| target.elements.end))
            }
        }
    }

    /// The matrices that LoRA adapts in this file, the seven of each layer; `None`: it has none, or too many tensors.
    pub fn adapted(&self) -> Option<Targets> {
        let named = (0..).zip(&self.tensors);
        let named = named.filter(|(_, tensor)| tensor.name.ends_with(ADAPTED_SUFFIX));
        let tensors = u32::try_from(self.tensors.len()).ok()?;
        Targets::new(tensors, named.map(|(place, _)| place))
    }

    /// The matrices that a LoRA epoch adapts, in data order.
    pub fn lora_targets(&self, lora: &LoraEpoch) -> Result<Vec<LoraTarget>, LayoutError> {
        if lora.targets.tensors() as usize != self.tensors.len() {
            return Err(LayoutError::Tensors {
                epoch: lora.targets.tensors(),
                file: self.tensors.len(),
            });
        }
        let rank = u64::from(lora.rank);
        let mut end = 0;
        let mut targets = Vec::new();
        for place in lora.targets.places() {
            let tensor = &self.tensors[place as usize];
            let &[rows, columns] = tensor.shape.as_slice() else {
                return Err(LayoutError::Target(place));
            };
            if tensor.dtype.is_none() || rows < rank || columns < rank {
                return Err(LayoutError::Target(place));
            }
            targets.push(LoraTarget {
                tensor: place,
                rows,
                columns,
                // Not more than W has: no overflow.
                elements: end..end + rows * rank,
            });
            end += rows * rank;
        }
        Ok(targets)
    }
}

fn identify(id: &mut Hasher, name: &str, raw: &Raw) {
    id.update(&(name.len() as u32).to_le_bytes());
    id.update(name.as_bytes());
    id.update(&[raw.dtype.len() as u8]);
    id.update(raw.dtype.as_bytes());
    id.update(&[raw.shape.len() as u8]);
    for side in &raw.shape {
        id.update(&side.to_le_bytes());
    }
}
