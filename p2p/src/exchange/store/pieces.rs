//! A set of a file's pieces, one bit each.

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
        (0..self.pieces).filter(|piece| self.has(*piece))
    }
}
