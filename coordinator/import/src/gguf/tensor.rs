//! What a header says about one tensor.
//!
//! Read by `Gguf::parse`. A `TensorInfo` that exists has at least one element, whole blocks in
//! every row, and a byte length that fits 64 bits; `Gguf` has checked its place in the file.

use super::{DIMENSIONS_MAX, GgufError, cursor::Cursor};

/// Values in one block of a quantised encoding (GGML's `QK`, the same for all three).
pub(super) const BLOCK_VALUES: usize = 32;

/// How a tensor's numbers are encoded, with GGML's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    Bf16,
    /// 4 bits per value, one scale for each 32.
    Q4_0,
    /// 4 bits per value, one scale and one minimum for each 32.
    Q4_1,
    /// 8 bits per value, one scale for each 32.
    Q8_0,
}

/// One tensor: encoding, shape and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Encoding of the numbers.
    pub encoding: TensorType,
    /// Dimensions, slowest first (`[rows, columns]`): GGUF lists them the other way round.
    pub shape: Vec<u64>,
    /// Where the data begins in the file, in bytes.
    pub offset: u64,
    /// Length of the data, in bytes.
    pub bytes: u64,
}

impl TensorType {
    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// GGML's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// Whether reading it gives back rounded numbers rather than the ones once written.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Q4_0 | Self::Q4_1 | Self::Q8_0)
    }

    /// Values in one block.
    pub fn block_values(self) -> usize {
        if self.is_quantised() { BLOCK_VALUES } else { 1 }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + BLOCK_VALUES / 2,
            Self::Q4_1 => 4 + BLOCK_VALUES / 2,
            Self::Q8_0 => 2 + BLOCK_VALUES,
        }
    }
}

impl TensorInfo {
    /// Reads the entry after a tensor's name. The offset is still relative to the data section.
    pub(super) fn read(cursor: &mut Cursor<'_>, name: &str) -> Result<Self, GgufError> {
        let shape_error = |why| GgufError::Shape {
            tensor: name.to_owned(),
            why,
        };
        let dimension_count = cursor.u32()?;
        if dimension_count == 0 || dimension_count > DIMENSIONS_MAX {
            return Err(shape_error("not 1 to 4 dimensions"));
        }
        let mut shape = Vec::with_capacity(dimension_count as usize);
        let mut values = 1_u64;
        for _ in 0..dimension_count {
            let dimension = cursor.u64()?;
            values = values
                .checked_mul(dimension)
                .filter(|values| *values > 0)
                .ok_or_else(|| shape_error("no elements, or more than 64 bits can count"))?;
            shape.push(dimension);
        }
        shape.reverse();
        let code = cursor.u32()?;
        let encoding = TensorType::from_code(code).ok_or_else(|| GgufError::TensorType {
            tensor: name.to_owned(),
            code,
        })?;
        let block_values = encoding.block_values() as u64;
        let columns = shape.last().copied().unwrap_or_default();
        if !columns.is_multiple_of(block_values) {
            return Err(shape_error("rows are not whole blocks"));
        }
        let bytes = (values / block_values)
            .checked_mul(encoding.block_bytes() as u64)
            .ok_or_else(|| shape_error("more bytes than 64 bits can count"))?;
        let offset = cursor.u64()?;
        Ok(Self {
            encoding,
            shape,
            offset,
            bytes,
        })
    }

    /// Values in one row (the last dimension).
    pub fn columns(&self) -> u64 {
        self.shape
            .last()
            .copied()
            .expect("a tensor has at least one dimension")
    }

    /// Number of values.
    pub fn values(&self) -> u64 {
        self.bytes / self.encoding.block_bytes() as u64 * self.encoding.block_values() as u64
    }

    /// Number of rows (all dimensions but the last).
    pub fn rows(&self) -> u64 {
        self.values() / self.columns()
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.bytes / self.rows()
    }
}
