//! Typed metadata values.
//!
//! Read by `Gguf::parse`, asked for through its typed getters. Arrays of numbers stay the bytes
//! they are in the file, so an array costs no memory beyond the header's own bytes.

use super::{ARRAY_ELEMENTS_MAX, GgufError, STRING_BYTES_MAX, cursor::Cursor};

const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;
/// The shortest string in a file: its 64-bit length alone.
const STRING_BYTES_MIN: u64 = 8;

/// A metadata value. Integers are widened, nothing is rounded.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// An unsigned integer of 8 to 64 bits.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits.
    Signed(i64),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
    /// A bool.
    Bool(bool),
    /// A string.
    Str(&'a str),
    /// An array of strings.
    Strings(Vec<&'a str>),
    /// An array of numbers or bools.
    Numbers(Numbers<'a>),
}

/// An array of numbers of one type, still in the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers<'a> {
    scalar: Scalar,
    bytes: &'a [u8],
}

/// The fixed-size value types, with GGUF's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl<'a> Value<'a> {
    /// Reads a type code and the value after it. `key` is for messages.
    pub(super) fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Self, GgufError> {
        let code = cursor.u32()?;
        match code {
            TYPE_STRING => Ok(Self::Str(read_string(cursor)?)),
            TYPE_ARRAY => Self::read_array(cursor, key),
            _ => {
                let scalar = Scalar::from_code(code).ok_or_else(|| bad(key, code))?;
                let bytes = cursor.take(scalar.bytes() as u64)?;
                scalar.value(bytes).ok_or_else(|| bad(key, code))
            }
        }
    }

    fn read_array(cursor: &mut Cursor<'a>, key: &str) -> Result<Self, GgufError> {
        let code = cursor.u32()?;
        let count = cursor.count("the length of an array", ARRAY_ELEMENTS_MAX)?;
        if code == TYPE_STRING {
            cursor.room_for(count, STRING_BYTES_MIN)?;
            return (0..count)
                .map(|_| read_string(cursor))
                .collect::<Result<Vec<_>, _>>()
                .map(Self::Strings);
        }
        // Arrays of arrays end here too: no model's metadata needs them.
        let scalar = Scalar::from_code(code).ok_or_else(|| bad(key, code))?;
        let bytes = cursor.take(count * scalar.bytes() as u64)?;
        Ok(Self::Numbers(Numbers { scalar, bytes }))
    }
}

impl<'a> Numbers<'a> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.scalar.bytes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The numbers as integers; `None` for those that are none or do not fit.
    pub fn integers(&self) -> impl ExactSizeIterator<Item = Option<i64>> + use<'a> {
        let scalar = self.scalar;
        self.bytes
            .chunks_exact(scalar.bytes())
            .map(move |bytes| match scalar.value(bytes)? {
                Value::Unsigned(number) => i64::try_from(number).ok(),
                Value::Signed(number) => Some(number),
                _ => None,
            })
    }
}

impl Scalar {
    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value in exactly [`Self::bytes`] bytes; `None` for other lengths and for bad bools.
    fn value(self, bytes: &[u8]) -> Option<Value<'static>> {
        Some(match self {
            Self::U8 => Value::Unsigned(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I8 => Value::Signed(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U16 => Value::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I16 => Value::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U32 => Value::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I32 => Value::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U64 => Value::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
            Self::I64 => Value::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
            Self::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            Self::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            Self::Bool => match bytes {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
        })
    }
}

fn read_string<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, GgufError> {
    cursor.string("the length of a string", STRING_BYTES_MAX)
}

fn bad(key: &str, code: u32) -> GgufError {
    GgufError::BadValue {
        key: key.to_owned(),
        code,
    }
}
