//! SHA-256 as a chain of states that can be taken up and left at any multiple of 64 bytes, over `sha2`'s
//! compression function. Only the ladder uses it; everything else hashes with [`crate::hash`].

use sha2::block_api::compress256;

use crate::hash::Sha256;

/// Bytes of one state.
pub(super) const STATE_BYTES: usize = 32;

/// Bytes of one SHA-256 block.
const BLOCK_BYTES: usize = 64;

/// SHA-256's initial state (FIPS 180-4, 5.3.3), big-endian.
pub(super) const IV: [u8; STATE_BYTES] = [
    0x6a, 0x09, 0xe6, 0x67, 0xbb, 0x67, 0xae, 0x85, 0x3c, 0x6e, 0xf3, 0x72, 0xa5, 0x4f, 0xf5, 0x3a,
    0x51, 0x0e, 0x52, 0x7f, 0x9b, 0x05, 0x68, 0x8c, 0x1f, 0x83, 0xd9, 0xab, 0x5b, 0xe0, 0xcd, 0x19,
];

/// A running state and the bytes that do not fill a block yet.
#[derive(Clone)]
pub(super) struct Chain {
    state: [u32; 8],
    block: [u8; BLOCK_BYTES],
    filled: usize,
}

impl From<[u8; STATE_BYTES]> for Chain {
    fn from(state: [u8; STATE_BYTES]) -> Self {
        let (words, _) = state.as_chunks::<4>();
        Self {
            state: std::array::from_fn(|i| u32::from_be_bytes(words[i])),
            block: [0; BLOCK_BYTES],
            filled: 0,
        }
    }
}

impl Chain {
    /// Takes `bytes` after those before.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        if self.filled > 0 {
            let take = bytes.len().min(BLOCK_BYTES - self.filled);
            self.block[self.filled..][..take].copy_from_slice(&bytes[..take]);
            self.filled += take;
            bytes = &bytes[take..];
            if self.filled < BLOCK_BYTES {
                return;
            }
            compress256(&mut self.state, &[self.block]);
            self.filled = 0;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        if !blocks.is_empty() {
            compress256(&mut self.state, blocks);
        }
        self.block[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    /// The state here, if the bytes so far fill their blocks.
    pub(super) fn state(&self) -> Option<[u8; STATE_BYTES]> {
        (self.filled == 0).then(|| self.bytes())
    }

    /// The digest of a file of `size` bytes that ends here.
    pub(super) fn digest(mut self, size: u64) -> Sha256 {
        let mut padding = [0; 2 * BLOCK_BYTES];
        padding[0] = 0x80;
        // One 0x80, at least eight bytes of length, up to the end of a block.
        let to_length = if self.filled < BLOCK_BYTES - 8 {
            BLOCK_BYTES - 8 - self.filled
        } else {
            2 * BLOCK_BYTES - 8 - self.filled
        };
        padding[to_length..][..8].copy_from_slice(&size.wrapping_mul(8).to_be_bytes());
        self.update(&padding[..to_length + 8]);
        Sha256(self.bytes())
    }

    fn bytes(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        for (at, word) in bytes.chunks_exact_mut(4).zip(self.state) {
            at.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}
