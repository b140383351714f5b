//! Millisatoshi, satoshi and integer factors, with checked arithmetic only (spec §11). No float
//! ever touches an amount.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Millisatoshi per satoshi.
pub const MSAT_PER_SAT: u64 = 1_000;

/// An amount in millisatoshi (1/1000 of a satoshi).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Msat(pub u64);

/// An amount in satoshi.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sats(pub u64);

/// A factor in thousandths: 2.5 is `Permille(2500)`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Permille(pub u32);

/// An amount that does not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the amount overflows: {0}")]
pub struct Overflow(pub &'static str);

impl Permille {
    /// The factor 1.
    pub const ONE: Self = Self(1_000);
}

impl Msat {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// The sum, if it fits.
    pub fn checked_add(self, other: Self) -> Result<Self, Overflow> {
        self.0.checked_add(other.0).map(Self).ok_or(Overflow("sum"))
    }

    /// The difference, if it isn't negative.
    pub fn checked_sub(self, other: Self) -> Result<Self, Overflow> {
        self.0
            .checked_sub(other.0)
            .map(Self)
            .ok_or(Overflow("difference"))
    }

    /// Whole satoshi, rounded down; what the founding columns store.
    pub const fn floor_sats(self) -> Sats {
        Sats(self.0 / MSAT_PER_SAT)
    }

    /// `self` times all factors, the product in u128, floored once at the end.
    pub fn times(self, factors: &[Permille]) -> Result<Self, Overflow> {
        let mut product = u128::from(self.0);
        let mut divisor = 1_u128;
        for factor in factors {
            product = product
                .checked_mul(u128::from(factor.0))
                .ok_or(Overflow("product in u128"))?;
            divisor = divisor
                .checked_mul(1_000)
                .ok_or(Overflow("divisor in u128"))?;
        }
        u64::try_from(product / divisor)
            .map(Self)
            .map_err(|_| Overflow("product in u64"))
    }
}

impl Sats {
    /// The same amount in millisatoshi.
    pub fn to_msat(self) -> Result<Msat, Overflow> {
        self.0
            .checked_mul(MSAT_PER_SAT)
            .map(Msat)
            .ok_or(Overflow("satoshi in millisatoshi"))
    }
}

impl fmt::Display for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sats, rest) = (self.0 / MSAT_PER_SAT, self.0 % MSAT_PER_SAT);
        if rest == 0 {
            write!(f, "{sats} sats")
        } else {
            write!(f, "{sats}.{rest:03} sats")
        }
    }
}

impl fmt::Display for Sats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sats", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_multiply_exactly_and_floor_once() {
        let base = Msat(10_000);
        assert_eq!(
            base.times(&[Permille(2_500), Permille::ONE]),
            Ok(Msat(25_000))
        );
        assert_eq!(
            Msat(1).times(&[Permille(999), Permille(1_002)]),
            Ok(Msat(1))
        );
        assert!(Msat(u64::MAX).times(&[Permille(2_000)]).is_err());
    }

    #[test]
    fn amounts_never_wrap() {
        assert!(Msat(u64::MAX).checked_add(Msat(1)).is_err());
        assert!(Msat(1).checked_sub(Msat(2)).is_err());
        assert!(Sats(u64::MAX).to_msat().is_err());
        assert_eq!(Msat(1_999).floor_sats(), Sats(1));
        assert_eq!(Msat(25_500).to_string(), "25.500 sats");
    }
}
