//! A run on disk, so that a killed one goes on. Called by the trainer. One file: magic, length of
//! the header, header (JSON), losses, values, both moments, SHA-256 of all before it. Written under
//! another name, synced and renamed, so the file is always a whole one. What must stay true: a run
//! that is resumed makes the bytes that an unbroken one makes.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Base, TrainError, TrainPlan, Trainer};

const MAGIC: &[u8; 8] = b"OWMTRAI1";
/// Longest header, in bytes: real ones have a few hundred.
const HEADER_BYTES_MAX: u64 = 1 << 16;
/// Bytes that are turned into numbers at a time.
const PART_BYTES: usize = 1 << 20;

/// What a state belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    base: [u8; 32],
    tokens: [u8; 32],
    plan: TrainPlan,
}

impl Identity {
    pub(crate) fn new(base: &Base, tokens: &[u32], plan: &TrainPlan) -> Self {
        let mut hash = Sha256::new();
        for part in tokens.chunks(1 << 14) {
            let bytes: Vec<u8> = part.iter().flat_map(|token| token.to_le_bytes()).collect();
            hash.update(&bytes);
        }
        Self {
            base: base.fingerprint(),
            tokens: hash.finalize().into(),
            plan: plan.clone(),
        }
    }

    fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.base != other.base {
            Some("the model")
        } else if self.tokens != other.tokens {
            Some("the text")
        } else if self.plan != other.plan {
            Some("the plan")
        } else {
            None
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    identity: Identity,
    /// Steps done. With the plan's seed it is also the place in the data: there is no other state.
    step: u32,
    values: u64,
}

/// Hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.hash.update(&bytes[..read]);
        Ok(read)
    }
}

/// Refuses what stands where a state is written until it is whole, unless an interrupted run has left it.
pub(super) fn check_way(path: &Path) -> Result<(), TrainError> {
    let partial = unfinished(path);
    let mut begin = Vec::new();
    let read = match fs::symlink_metadata(&partial) {
        Ok(there) if there.is_file() => File::open(&partial)
            .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut begin)),
        Ok(_) => return Err(TrainError::InTheWay(partial)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    match read {
        Ok(_) if MAGIC.starts_with(&begin) => Ok(()),
        Ok(_) => Err(TrainError::InTheWay(partial)),
        Err(source) => Err(write_error(&partial, source)),
    }
}

/// Writes the state of `trainer`.
pub(super) fn save(trainer: &Trainer, path: &Path) -> Result<(), TrainError> {
    check_way(path)?;
    let partial = unfinished(path);
    let written = write(trainer, &partial).and_then(|()| {
        fs::rename(&partial, path).map_err(|source| write_error(path, source))?;
        sync_folder(path).map_err(|source| write_error(path, source))
    });
    if written.is_err() {
        // Whatever stands there is no state; that it may stay is no second fault.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Where something stands until it is whole: beside it, under its whole name and `.partial`, so that two things
/// under way never share one.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    // Without a slash at its end, which would put it inside.
    let path: PathBuf = path.components().collect();
    let mut name = path.into_os_string();
    name.push(".partial");
    name.into()
}

fn write_error(path: &Path, source: io::Error) -> TrainError {
    TrainError::Write {
        path: path.to_owned(),
        source,
    }
}

/// Makes a new name in a folder outlast a power cut.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn write(trainer: &Trainer, path: &Path) -> Result<(), TrainError> {
    let failed = |source| write_error(path, source);
    let header = Header {
        identity: trainer.identity.clone(),
        step: trainer.step_count(),
        values: trainer.trained_values(),
    };
    let header = serde_json::to_vec(&header).map_err(|error| failed(error.into()))?;
    let file = File::create(path).map_err(failed)?;
    let mut out = Hashing {
        inner: BufWriter::new(file),
        hash: Sha256::new(),
    };
    out.write_all(MAGIC).map_err(failed)?;
    out.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(failed)?;
    out.write_all(&header).map_err(failed)?;
    write_numbers(&mut out, &trainer.losses).map_err(failed)?;
    for leaf in &trainer.leaves {
        write_numbers(&mut out, &leaf.values()?).map_err(failed)?;
    }
    for moments in &trainer.moments {
        write_numbers(&mut out, &moments.first).map_err(failed)?;
        write_numbers(&mut out, &moments.second).map_err(failed)?;
    }
    let sum: [u8; 32] = out.hash.clone().finalize().into();
    out.write_all(&sum).map_err(failed)?;
    let file = out
        .inner
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

fn write_numbers(out: &mut impl Write, numbers: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(PART_BYTES);
    for part in numbers.chunks(PART_BYTES / 4) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(|number| number.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Puts a saved state into `trainer`, which must be the same run. On an error the trainer is unfit
/// for use unless the file was refused by its header.
pub(super) fn load(trainer: &mut Trainer, path: &Path) -> Result<(), TrainError> {
    let failed = |source: io::Error| TrainError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut input = Reading {
        input: Hashing {
            inner: BufReader::new(file),
            hash: Sha256::new(),
        },
        path: path.to_owned(),
    };
    let header = input.header()?;
    if let Some(what) = header.identity.difference(&trainer.identity) {
        return Err(TrainError::OtherRun {
            path: path.to_owned(),
            what,
        });
    }
    if header.values != trainer.trained_values() || header.step > trainer.plan.steps {
        return Err(input.damaged("its sizes are not the run's"));
    }
    let numbers = u64::from(header.step) + 3 * header.values;
    if length < numbers.saturating_mul(4) {
        return Err(input.damaged("it is too short"));
    }
    let mut losses = vec![0.0; header.step as usize];
    input.numbers(&mut losses)?;
    for leaf in &mut trainer.leaves {
        let mut read = Ok(());
        leaf.update(|values| read = input.numbers(values))?;
        read?;
    }
    for moments in &mut trainer.moments {
        input.numbers(&mut moments.first)?;
        input.numbers(&mut moments.second)?;
    }
    input.end()?;
    trainer.losses = losses;
    Ok(())
}

struct Reading {
    input: Hashing<BufReader<File>>,
    path: PathBuf,
}

impl Reading {
    fn damaged(&self, what: &str) -> TrainError {
        TrainError::Damaged {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), TrainError> {
        self.input.read_exact(bytes).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                return self.damaged("it ends too early");
            }
            TrainError::Read {
                path: self.path.clone(),
                source,
            }
        })
    }

    fn header(&mut self) -> Result<Header, TrainError> {
        let mut magic = [0; 8];
        self.exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(self.damaged("it is no saved state of this version"));
        }
        let mut length = [0; 8];
        self.exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX {
            return Err(self.damaged("its header is too long"));
        }
        let mut header = vec![0; length as usize];
        self.exact(&mut header)?;
        serde_json::from_slice(&header).map_err(|_| self.damaged("its header is not readable"))
    }

    fn numbers(&mut self, numbers: &mut [f32]) -> Result<(), TrainError> {
        let mut bytes = vec![0; PART_BYTES];
        for part in numbers.chunks_mut(PART_BYTES / 4) {
            let bytes = &mut bytes[..4 * part.len()];
            self.exact(bytes)?;
            let (words, _) = bytes.as_chunks::<4>();
            for (number, word) in part.iter_mut().zip(words) {
                *number = f32::from_le_bytes(*word);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), TrainError> {
        let computed: [u8; 32] = self.input.hash.clone().finalize().into();
        let mut written = [0; 32];
        self.exact(&mut written)?;
        let mut more = [0; 1];
        let rest = self.input.read(&mut more);
        if computed != written || !matches!(rest, Ok(0)) {
            return Err(self.damaged("its SHA-256 is not the one at its end"));
        }
        Ok(())
    }
}
