//! Updates as files: the coordinator writes what a node sent to its disk, and reads blocks from there.

use std::{
    fs::File,
    io::{Error, ErrorKind, Result},
    os::unix::fs::FileExt as _,
    path::Path,
};

use owm_update::{HEADER_BYTES_MAX, Header};

use super::{Opened, Spool};

/// Bytes at an update's front that say how long its header is.
const PREFIX_BYTES: usize = 12;

/// Open files, one per update; blocks are read with `pread`, so that threads share them.
#[derive(Debug, Default)]
pub struct FileSpool {
    updates: Vec<(Opened, File)>,
}

impl FileSpool {
    /// Opens these files and reads their headers. A file that is no update, or not as long as its header says, is
    /// `InvalidData`.
    pub fn open<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut spool = Self::default();
        for path in paths {
            let file = File::open(path)?;
            let mut prefix = [0; PREFIX_BYTES];
            file.read_exact_at(&mut prefix, 0)?;
            let bytes = Header::bytes(&prefix).map_err(invalid)?;
            let is = file.metadata()?.len();
            if bytes > HEADER_BYTES_MAX || bytes > is {
                return Err(invalid("the file is shorter than its header"));
            }
            let mut header = vec![0; bytes as usize];
            file.read_exact_at(&mut header, 0)?;
            let (header, table) = Header::parse(&header).map_err(invalid)?;
            if table.total() != is {
                return Err(invalid("the file is not as long as its header says"));
            }
            spool.updates.push((Opened { header, table }, file));
        }
        Ok(spool)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::InvalidData, error)
}

impl Spool for FileSpool {
    fn len(&self) -> usize {
        self.updates.len()
    }

    fn opened(&self, update: usize) -> &Opened {
        &self.updates[update].0
    }

    fn bytes(&self, update: usize, block: usize, into: &mut Vec<u8>) -> Result<()> {
        let (opened, file) = &self.updates[update];
        let range = opened.table.range(block);
        into.resize((range.end - range.start) as usize, 0);
        file.read_exact_at(into, range.start)
    }
}
