//! The piece log of a growing file: which pieces are proved and synced. A header that says which file, then
//! eight bytes a piece, only ever appended. Its maker is [`super::partial`].
//! Must stay true: a torn or damaged end costs only the pieces that it named.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use owm_proto::{FileSpec, PieceLen, Sha256};

use super::record::Stamp;
use crate::exchange::PieceSet;

const MAGIC: &[u8; 16] = b"owm piece log 1\n";
/// Magic, SHA-256 of the file, its size, its piece length, the ladder's SHA-256 (zeroes without one), and the
/// first bytes of the SHA-256 of all that.
const HEADER_BYTES: usize = 16 + 32 + 8 + 8 + 32 + CHECK_BYTES;
/// The piece and its check.
const ENTRY_BYTES: usize = 4 + CHECK_BYTES;
/// Bytes of a check: damage is found with it, not malice; pieces are hashed again anyway.
const CHECK_BYTES: usize = 4;

/// An open log; no other process has it meanwhile.
#[derive(Debug)]
pub(super) struct PieceLog {
    file: File,
    header: [u8; HEADER_BYTES],
}

/// What a log said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// There is none yet.
    Fresh,
    /// It is not this file's, or its header is damaged.
    Foreign,
    /// These pieces, and then what is no entry: a kill or a damaged disk.
    Torn(PieceSet),
    /// These pieces.
    Pieces(PieceSet),
}

impl PieceLog {
    /// Opens or makes it; `None`: another process has it.
    pub(super) fn open(path: &Path, spec: &FileSpec) -> io::Result<Option<Self>> {
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)?;
            if !is_ours(&file)? {
                return Ok(None);
            }
            // Its former holder may have taken it away between the two: then the lock is on nothing.
            if is_at(&file, path)? {
                let header = header(spec);
                return Ok(Some(Self { file, header }));
            }
        }
    }

    /// Takes away a log that belongs to no file; one that somebody holds stays.
    pub(super) fn remove_left(path: &Path) -> io::Result<()> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if is_ours(&file)? && is_at(&file, path)? {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Reads it; `pieces` is how many the file has.
    pub(super) fn read(&mut self, pieces: u32) -> io::Result<Read> {
        // Each piece stands in it once.
        let most = HEADER_BYTES + ENTRY_BYTES * pieces as usize;
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&self.file).take(most as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(Read::Fresh);
        }
        let Some(entries) = bytes.strip_prefix(&self.header) else {
            return Ok(Read::Foreign);
        };
        let mut named = PieceSet::none(pieces);
        for entry in entries.chunks(ENTRY_BYTES) {
            let piece = entry.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
            let is_right = |piece| *entry == self.entry(piece) && named.add(piece);
            if !piece.is_some_and(is_right) {
                return Ok(Read::Torn(named));
            }
        }
        Ok(Read::Pieces(named))
    }

    /// Starts over with these pieces, whose bytes are synced.
    pub(super) fn rewrite(&mut self, pieces: &PieceSet) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        let mut bytes = self.header.to_vec();
        bytes.extend(pieces.iter().flat_map(|piece| self.entry(piece)));
        self.file.write_all(&bytes)?;
        self.file.sync_data()
    }

    /// Adds pieces whose bytes are synced.
    pub(super) fn append(&mut self, pieces: &[u32]) -> io::Result<()> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|p| self.entry(*p)).collect();
        let end = self.file.seek(SeekFrom::End(0))?;
        let written = self
            .file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half an entry would hide all that follow.
            self.file.set_len(end)?;
        }
        written
    }

    fn entry(&self, piece: u32) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..4].copy_from_slice(&piece.to_be_bytes());
        let check = Sha256::of(&[&self.header[..], &entry[..4]].concat());
        entry[4..].copy_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        entry
    }
}

/// Locks it; `false`: somebody else has.
fn is_ours(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether `path` still leads to this open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = Stamp::from(file.metadata()?);
    match Stamp::of(path) {
        Ok(there) => Ok(own.is_inode_of(&there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn header(spec: &FileSpec) -> [u8; HEADER_BYTES] {
    let piece_len = spec.piece_len().map_or(0, PieceLen::bytes);
    let ladder = spec.ladder_sha256().map_or([0; 32], |sha256| sha256.0);
    let said = [
        &MAGIC[..],
        spec.sha256().as_bytes(),
        &spec.size().to_be_bytes(),
        &piece_len.to_be_bytes(),
        &ladder,
    ]
    .concat();
    let check = Sha256::of(&said);
    let mut header = [0; HEADER_BYTES];
    header[..said.len()].copy_from_slice(&said);
    header[said.len()..].copy_from_slice(&check.as_bytes()[..CHECK_BYTES]);
    header
}
