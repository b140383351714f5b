//! Numbers as a file keeps them, exactly: every f16 and bf16 is an f32, and back it is rounded once, to nearest,
//! ties to even. Own code: conversions from f64 in libraries drop bits that decide ties.

use crate::layout::Dtype;

/// A float of 16 bits: how many bits of fraction it has, and its smallest normal exponent.
struct Narrow {
    fraction: u32,
    exponent_min: i32,
}

const F16: Narrow = Narrow {
    fraction: 10,
    exponent_min: -14,
};

const BF16: Narrow = Narrow {
    fraction: 7,
    exponent_min: -126,
};

/// The element that the bytes are.
pub(super) fn from_bytes(dtype: Dtype, bytes: &[u8]) -> f32 {
    match (dtype, bytes) {
        (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (Dtype::F16, &[a, b]) => from_f16(u16::from_le_bytes([a, b])),
        (Dtype::Bf16, &[a, b]) => f32::from_bits(u32::from(u16::from_le_bytes([a, b])) << 16),
        _ => unreachable!("as many bytes as the type has"),
    }
}

/// Writes `value`, rounded, over the element that the bytes are; gives whether its bits are others now, `None`
/// if it would not be finite.
pub(super) fn to_bytes(dtype: Dtype, value: f64, bytes: &mut [u8]) -> Option<bool> {
    if dtype == Dtype::F32 {
        let new = value as f32;
        return new.is_finite().then(|| put(bytes, new.to_le_bytes()));
    }
    let narrow = if dtype == Dtype::F16 { F16 } else { BF16 };
    Some(put(bytes, narrow.round(value)?.to_le_bytes()))
}

fn put<const N: usize>(bytes: &mut [u8], new: [u8; N]) -> bool {
    let changed = *bytes != new;
    bytes.copy_from_slice(&new);
    changed
}

fn from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let fraction = u32::from(bits & 0x3ff);
    match u32::from(bits >> 10 & 0x1f) {
        // A whole number of 2^-24: exact.
        0 => f32::from_bits((fraction as f32 / 16_777_216.0).to_bits() | sign),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        exponent => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

impl Narrow {
    /// The nearest one, of two equally near the even one; `None` if it would not be finite.
    fn round(&self, value: f64) -> Option<u16> {
        let bits = value.to_bits();
        let sign = u32::from((bits >> 63) as u16);
        let exponent = (bits >> 52 & 0x7ff) as i32 - 1_023;
        if exponent == 1_024 {
            return None;
        }
        let significand = bits & ((1 << 52) - 1) | 1 << 52;
        // Below the smallest normal exponent, bits are lost one by one.
        let lost = (self.exponent_min - exponent).max(0) as u32;
        let shift = 52 - self.fraction + lost;
        let magnitude = if shift > 54 {
            0
        } else {
            let kept = significand >> shift;
            let rest = significand & ((1 << shift) - 1);
            let half = 1 << (shift - 1);
            let up = u64::from(rest > half || (rest == half && kept & 1 == 1));
            let steps = i64::from((exponent - self.exponent_min).max(0)) as u64;
            // The leading bit of `kept` counts as the first exponent; a carry goes into the next one.
            (steps << self.fraction) + kept + up
        };
        let infinite = ((1_u64 << (15 - self.fraction)) - 1) << self.fraction;
        (magnitude < infinite).then_some((magnitude as u32 | sign << 15) as u16)
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;

    fn f16_of(value: f64) -> Option<u16> {
        F16.round(value)
    }

    #[test]
    fn every_f16_and_bf16_comes_back_as_it_was() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            for (dtype, value) in [(Dtype::F16, half.to_f32()), (Dtype::Bf16, brain.to_f32())] {
                let read = from_bytes(dtype, &bytes);
                if value.is_nan() {
                    assert!(read.is_nan());
                    continue;
                }
                assert_eq!(read.to_bits(), value.to_bits(), "{dtype:?} {bits:#x}");
                let mut written = [0; 2];
                let new = to_bytes(dtype, f64::from(value), &mut written);
                assert_eq!(new.is_some(), value.is_finite());
                assert!(new.is_none() || written == bytes, "{dtype:?} {bits:#x}");
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_a_bit_far_below_decides() {
        let one = 0x3c00;
        let ulp = 2.0_f64.powi(-10);
        assert_eq!(f16_of(1.0 + ulp / 2.0), Some(one));
        assert_eq!(f16_of(1.0 + ulp / 2.0 + f64::EPSILON), Some(one + 1));
        assert_eq!(f16_of(1.0 + ulp * 1.5), Some(one + 2));
        assert_eq!(f16_of(1.0 + ulp * 1.5 - f64::EPSILON), Some(one + 1));
        assert_eq!(f16_of(2.0_f64.powi(-25)), Some(0));
        assert_eq!(f16_of(-2.0_f64.powi(-25) * 1.000_1), Some(0x8001));
        assert_eq!(f16_of(65_519.999), Some(0x7bff));
        assert_eq!(f16_of(65_520.0), None);
        assert_eq!(f16_of(f64::MIN_POSITIVE), Some(0));
        assert_eq!(f16_of(-0.0), Some(0x8000));
    }

    proptest! {
        #[test]
        fn an_f32_is_rounded_as_another_library_rounds_it(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            let (half, brain) = (f16::from_f32(value), bf16::from_f32(value));
            let half = half.is_finite().then(|| half.to_bits());
            let brain = brain.is_finite().then(|| brain.to_bits());
            prop_assert_eq!(F16.round(f64::from(value)), half);
            prop_assert_eq!(BF16.round(f64::from(value)), brain);
        }

        #[test]
        fn near_the_middle_of_two_f16_the_nearer_is_taken(bits in 0..0x7bff_u16, off in -2..=2_i8) {
            let (low, high) = (f16::from_bits(bits).to_f64(), f16::from_bits(bits + 1).to_f64());
            let middle = f64::midpoint(low, high);
            let value = middle + f64::from(off) * middle * f64::EPSILON;
            let expected = match off.signum() {
                -1 => bits,
                1 => bits + 1,
                _ => bits + (bits & 1),
            };
            prop_assert_eq!(F16.round(value), Some(expected));
        }
    }
}
