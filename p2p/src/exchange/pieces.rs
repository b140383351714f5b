//! A set of a file's pieces, one bit each: what is proved, what somebody says he has.

/// Which of a file's pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceSet {
    bits: Vec<u64>,
    pieces: u32,
    count: u32,
}

impl PieceSet {
    /// None of `pieces`.
    pub fn none(pieces: u32) -> Self {
        Self {
            bits: vec![0; pieces.div_ceil(64) as usize],
            pieces,
            count: 0,
        }
    }

    /// All of `pieces`.
    pub fn all(pieces: u32) -> Self {
        let mut set = Self::none(pieces);
        for (at, word) in set.bits.iter_mut().enumerate() {
            let rest = pieces - at as u32 * 64;
            *word = if rest >= 64 {
                u64::MAX
            } else {
                (1 << rest) - 1
            };
        }
        set.count = pieces;
        set
    }

    /// As it travels: the first piece in the lowest bit of the first byte, the bits beyond the last one 0.
    /// `None` if the length or those bits are wrong.
    pub fn from_bytes(bytes: &[u8], pieces: u32) -> Option<Self> {
        if bytes.len() != pieces.div_ceil(8) as usize {
            return None;
        }
        let mut set = Self::none(pieces);
        for (at, byte) in bytes.iter().enumerate() {
            set.bits[at / 8] |= u64::from(*byte) << (at % 8 * 8);
        }
        let spare = (set.bits.len() as u32 * 64).saturating_sub(pieces);
        if set
            .bits
            .last()
            .is_some_and(|last| last.leading_zeros() < spare)
        {
            return None;
        }
        set.count = set.bits.iter().map(|word| word.count_ones()).sum();
        Some(set)
    }

    /// As [`PieceSet::from_bytes`] reads it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .bits
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        bytes.truncate(self.pieces.div_ceil(8) as usize);
        bytes
    }

    /// Whether this one is in it.
    pub fn has(&self, piece: u32) -> bool {
        piece < self.pieces && self.bits[piece as usize / 64] >> (piece % 64) & 1 == 1
    }

    /// Adds one; whether it is new. One beyond the file never is.
    pub fn add(&mut self, piece: u32) -> bool {
        if piece >= self.pieces || self.has(piece) {
            return false;
        }
        self.bits[piece as usize / 64] |= 1 << (piece % 64);
        self.count += 1;
        true
    }

    /// Takes one out; whether it was in.
    pub fn remove(&mut self, piece: u32) -> bool {
        if !self.has(piece) {
            return false;
        }
        self.bits[piece as usize / 64] &= !(1 << (piece % 64));
        self.count -= 1;
        true
    }

    /// How many are in it.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many the file has.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Whether all are in it.
    pub fn is_full(&self) -> bool {
        self.count == self.pieces
    }

    /// Those in it, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bits.iter().enumerate().flat_map(|(at, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                word &= word.wrapping_sub(1);
                (bit < 64).then_some(at as u32 * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_its_bytes_and_none_lies_beyond_the_file() {
        for pieces in [0, 1, 7, 8, 9, 63, 64, 65, 200] {
            let mut set = PieceSet::none(pieces);
            for piece in (0..pieces).step_by(3) {
                assert!(set.add(piece));
                assert!(!set.add(piece));
            }
            assert!(!set.add(pieces));
            let listed: Vec<u32> = set.iter().collect();
            assert_eq!(listed, (0..pieces).step_by(3).collect::<Vec<_>>());
            let bytes = set.to_bytes();
            assert_eq!(PieceSet::from_bytes(&bytes, pieces), Some(set));
            let all = PieceSet::all(pieces);
            assert!(all.is_full() && all.iter().count() == pieces as usize);
            assert_eq!(PieceSet::from_bytes(&all.to_bytes(), pieces), Some(all));
            assert_eq!(
                PieceSet::from_bytes(&[&bytes[..], &[0]].concat(), pieces),
                None
            );
            if !pieces.is_multiple_of(8) {
                let mut beyond = bytes.clone();
                *beyond.last_mut().unwrap() |= 0x80;
                assert_eq!(PieceSet::from_bytes(&beyond, pieces), None);
            }
        }
    }

    #[test]
    fn what_is_taken_out_is_gone() {
        let mut set = PieceSet::all(70);
        assert!(set.remove(69) && !set.remove(69) && !set.remove(70));
        assert_eq!((set.count(), set.has(69), set.has(68)), (69, false, true));
    }
}
