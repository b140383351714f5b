//! What can go wrong with the store. Every message says what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use owm_proto::Sha256;

/// Why the store can't do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder can't be used.
    #[error("{}: {source}; check that the folder belongs to this user and has room", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is full.
    #[error(
        "the disk is full: {needed} bytes are needed, {free} are free under {}; make room, or move the \
         data folder ([node] data): what is there stays, it goes on from there", folder.display()
    )]
    DiskFull {
        /// Bytes still to come, and what is spared.
        needed: u64,
        /// Bytes there are.
        free: u64,
        /// Where.
        folder: PathBuf,
    },
    /// The system allows no file of this size.
    #[error(
        "this system allows no file of {size} bytes under {} (a limit of the process, see `ulimit -f` \
         and LimitFSIZE=, or of the file system); raise it, or move the data folder ([node] data): what \
         is there stays, it goes on from there", folder.display()
    )]
    FileTooLarge {
        /// Bytes there should be.
        size: u64,
        /// Where.
        folder: PathBuf,
    },
    /// The operator's cap is too low.
    #[error(
        "the disk cap is too low: with this file {needed} bytes would be used, [caps] disk allows {cap}: \
         raise it by {} bytes, or unpin models (owm-node models unpin)", needed - cap
    )]
    Quota {
        /// Bytes used afterwards.
        needed: u64,
        /// The cap.
        cap: u64,
    },
    /// The file changed on the disk after it was verified.
    #[error(
        "{} changed on the disk after it was verified; it is no longer served: look with `owm-node models \
         verify`, get it again with `owm-node models fetch`", path.display()
    )]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// The file is not what its name says.
    #[error(
        "{} is damaged: its SHA-256 is {found}; get it again with `owm-node models fetch`", path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What its bytes hash to.
        found: Sha256,
    },
    /// Nothing to fetch.
    #[error("{sha256} is here already; use it")]
    Whole {
        /// Which.
        sha256: Sha256,
    },
    /// Another process writes this file.
    #[error("another process fetches {sha256} into this folder; wait for it")]
    Busy {
        /// Which.
        sha256: Sha256,
    },
    /// Asked for bytes that are not proved, or to finish before all are.
    #[error("not all of these bytes of {sha256} are proved; fetch and check them first")]
    NotProved {
        /// Which.
        sha256: Sha256,
    },
    /// Bytes outside of the file, or over a proved piece.
    #[error(
        "bytes {offset} + {len} of {sha256} may not be written: they are proved already or not in it"
    )]
    NotWritable {
        /// Which.
        sha256: Sha256,
        /// From here.
        offset: u64,
        /// So many.
        len: u64,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
