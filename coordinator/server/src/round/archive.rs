//! Where a round's files lie: a folder for each round, with the updates that were taken, the delta and the server's
//! residue. Enough, with the round's record, to compute it again. Nothing here is served.
//! Must stay true: a file has its name only when its bytes are whole and on the disk.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use owm_proto::{Sha256, hash::Hasher};
use owm_update::Residue;

use super::RoundError;

/// How the folders begin in which candidates are computed.
const SCRATCH: &str = ".computing-";

/// Bytes that are hashed at once.
const READ_BYTES: usize = 1 << 20;

/// The folder of all rounds.
#[derive(Clone, Debug)]
pub struct Archive {
    dir: PathBuf,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> RoundError {
    move |source| RoundError::File {
        path: path.to_owned(),
        source,
    }
}

impl Archive {
    /// In the folder `dir`, made when it is needed.
    pub fn in_folder(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// A round's folder.
    pub fn folder(&self, round: u64) -> PathBuf {
        self.dir.join(round.to_string())
    }

    /// An update that a round has taken.
    pub fn update(&self, round: u64, sha256: &Sha256) -> PathBuf {
        self.folder(round).join(format!("{sha256}.owmu"))
    }

    fn residue_path(&self, sha256: &Sha256) -> PathBuf {
        self.dir.join(format!("{sha256}.owmr"))
    }

    /// Makes a round's folder. Blocks.
    pub fn make(&self, round: u64) -> Result<PathBuf, RoundError> {
        let folder = self.folder(round);
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        Ok(folder)
    }

    /// Keeps an update that lies in the spool, if it is not kept yet. `false`: it is in neither. Blocks.
    pub fn keep_update(
        &self,
        round: u64,
        sha256: &Sha256,
        spooled: &Path,
    ) -> Result<bool, RoundError> {
        let to = self.update(round, sha256);
        if to.exists() {
            return Ok(true);
        }
        let folder = self.make(round)?;
        match fs::hard_link(spooled, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            // Another coordinator was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // Another file system.
            Err(_) => {
                let bytes = match fs::read(spooled) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                    bytes => bytes.map_err(failed(spooled))?,
                };
                write(&to, |file| file.write_all(&bytes))?;
            }
            Ok(()) => {}
        }
        sync(&folder)?;
        Ok(true)
    }

    /// A folder of its own for one computation, gone with the value: two coordinators at one round never write one file.
    /// Blocks.
    pub fn scratch(&self, round: u64) -> Result<tempfile::TempDir, RoundError> {
        let folder = self.make(round)?;
        let mut builder = tempfile::Builder::new();
        builder
            .prefix(SCRATCH)
            .tempdir_in(&folder)
            .map_err(failed(&folder))
    }

    /// Whether the bytes of an update that was taken are still those. Blocks.
    pub fn is_whole(&self, round: u64, sha256: &Sha256) -> Result<bool, RoundError> {
        let path = self.update(round, sha256);
        let mut file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(failed(&path))?,
        };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer).map_err(failed(&path))? {
                0 => return Ok(hasher.finish() == *sha256),
                read => hasher.update(&buffer[..read]),
            }
        }
    }

    /// Removes what interrupted computations have left in the folder of a round that is over. Blocks.
    pub fn tidy(&self, round: u64) -> Result<(), RoundError> {
        let folder = self.folder(round);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed(&folder))?,
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                fs::remove_dir_all(entry.path()).map_err(failed(&folder))?;
            }
        }
        Ok(())
    }

    /// Keeps a residue under its hash. Blocks.
    pub fn keep_residue(&self, residue: &Residue) -> Result<Sha256, RoundError> {
        let sha256 = residue.sha256();
        let path = self.residue_path(&sha256);
        if !path.exists() {
            fs::create_dir_all(&self.dir).map_err(failed(&self.dir))?;
            write(&path, |file| {
                residue.parts().try_for_each(|part| file.write_all(&part))
            })?;
        }
        Ok(sha256)
    }

    /// Takes a residue away, if it is here. Blocks.
    pub fn remove_residue(&self, sha256: &Sha256) -> Result<(), RoundError> {
        let path = self.residue_path(sha256);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path)(error)),
            _ => Ok(()),
        }
    }

    /// A residue by its hash. Blocks.
    pub fn residue(&self, sha256: &Sha256) -> Result<Residue, RoundError> {
        let path = self.residue_path(sha256);
        let bytes = fs::read(&path).map_err(failed(&path))?;
        if Sha256::of(&bytes) != *sha256 {
            let damaged = io::Error::new(io::ErrorKind::InvalidData, "its SHA-256 is another");
            return Err(failed(&path)(damaged));
        }
        Ok(Residue::parse(&bytes)?)
    }
}

/// Writes a file under another name first. Blocks.
pub(super) fn write(
    path: &Path,
    fill: impl FnOnce(&mut fs::File) -> io::Result<()>,
) -> Result<(), RoundError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed(path))?;
    fill(file.as_file_mut()).map_err(failed(path))?;
    file.as_file().sync_all().map_err(failed(path))?;
    let kept = file.persist(path).map_err(|error| error.error);
    kept.map_err(failed(path))?;
    sync(folder)
}

fn sync(folder: &Path) -> Result<(), RoundError> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(failed(folder))
}
