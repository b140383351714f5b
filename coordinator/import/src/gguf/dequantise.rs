//! Turns encoded tensor bytes into single-precision numbers.
//!
//! Called by `from_gguf` for a few rows at a time. The formulas are GGML's block layouts: a block
//! of 32 values holds a half-precision scale `d` (and, for Q4_1, a minimum `m`), then its codes;
//! with 4-bit codes the low nibbles are values 0..16 and the high nibbles values 16..32.
//! Arithmetic is single precision, multiply then add, so that every machine gives the same bits.

use half::{bf16, f16};

use super::{TensorType, tensor::BLOCK_VALUES};

const HALF_BLOCK: usize = BLOCK_VALUES / 2;

/// Appends the numbers in `bytes` to `out`. Bytes after the last whole block are ignored, so give
/// whole rows.
pub fn dequantise(encoding: TensorType, bytes: &[u8], out: &mut Vec<f32>) {
    match encoding {
        TensorType::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            out.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
        }
        TensorType::F16 => {
            let (values, _) = bytes.as_chunks::<2>();
            out.extend(
                values
                    .iter()
                    .map(|value| f16::from_le_bytes(*value).to_f32()),
            );
        }
        TensorType::Bf16 => {
            let (values, _) = bytes.as_chunks::<2>();
            out.extend(
                values
                    .iter()
                    .map(|value| bf16::from_le_bytes(*value).to_f32()),
            );
        }
        TensorType::Q4_0 => blocks::<18>(bytes, out, |block, values| {
            let scale = half_at(block, 0);
            nibbles(&block[2..], values, |code| (f32::from(code) - 8.0) * scale);
        }),
        TensorType::Q4_1 => blocks::<20>(bytes, out, |block, values| {
            let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
            nibbles(&block[4..], values, |code| {
                f32::from(code) * scale + minimum
            });
        }),
        TensorType::Q8_0 => blocks::<34>(bytes, out, |block, values| {
            let scale = half_at(block, 0);
            for (value, code) in values.iter_mut().zip(&block[2..]) {
                *value = f32::from(code.cast_signed()) * scale;
            }
        }),
    }
}

fn blocks<const N: usize>(
    bytes: &[u8],
    out: &mut Vec<f32>,
    decode: impl Fn(&[u8; N], &mut [f32; BLOCK_VALUES]),
) {
    let (blocks, _) = bytes.as_chunks::<N>();
    let mut values = [0.0; BLOCK_VALUES];
    for block in blocks {
        decode(block, &mut values);
        out.extend_from_slice(&values);
    }
}

/// Decodes 16 bytes of codes; `decode` is called once per code, its 16 results are looked up.
fn nibbles(codes: &[u8], values: &mut [f32; BLOCK_VALUES], decode: impl Fn(u8) -> f32) {
    let mut table = [0.0; 16];
    for (code, value) in (0_u8..).zip(&mut table) {
        *value = decode(code);
    }
    let (low, high) = values.split_at_mut(HALF_BLOCK);
    for ((low, high), code) in low.iter_mut().zip(high).zip(codes) {
        *low = table[usize::from(code & 0x0f)];
        *high = table[usize::from(code >> 4)];
    }
}

/// The half-precision number at byte `at` of a block, widened.
fn half_at<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
