//! Hashes what lies on the shelf again and says which file is what it should be. `owm-node models verify`
//! calls it. Must stay true: nothing is changed or deleted here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use owm_proto::{Sha256, SubModelId, hash::Hasher, manifest::ManifestFile};
use serde::Serialize;

use super::{Shelf, ShelfError, SignedManifest, files_of, wanted};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// A file that should be on the shelf, or lies there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// What its bytes should hash to: its name on the shelf.
    pub sha256: Sha256,
    /// Its name in the manifest; `None`: no kept manifest lists it.
    pub name: Option<String>,
    /// Which version lists it.
    pub version: Option<String>,
    /// How long it should be.
    pub size: Option<u64>,
}

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FileState {
    /// The bytes of the manifest.
    Ok,
    /// Other bytes.
    Corrupt {
        /// What they hash to.
        found_sha256: Sha256,
        /// How many there are.
        found_size: u64,
    },
    /// Not there (any more).
    Missing,
    /// The disk does not give them.
    Unreadable {
        /// What the system says.
        error: String,
    },
}

/// A file and what it turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The file.
    #[serde(flatten)]
    pub file: Expected,
    /// What it is.
    #[serde(flatten)]
    pub state: FileState,
}

/// What there is to check: the newest version's files, whether they are there or not, and every other file
/// that lies on the shelf, under its name in `others` if one of them lists it.
pub fn plan(
    shelf: &Shelf,
    newest: Option<&SignedManifest>,
    others: &[SignedManifest],
    configured: &[SubModelId],
) -> Result<Vec<Expected>, ShelfError> {
    let expected = |signed: &SignedManifest, file: &ManifestFile| Expected {
        sha256: file.sha256,
        name: Some(file.name.clone()),
        version: Some(signed.manifest.version.to_string()),
        size: Some(file.size),
    };
    let mut plan = Vec::new();
    if let Some(signed) = newest {
        // A list that wants nothing of this version is the keeper's complaint, not the disk's fault.
        let ids = wanted(&signed.manifest, configured).unwrap_or_default();
        let files = files_of(&signed.manifest, &ids);
        plan.extend(files.into_iter().map(|file| expected(signed, file)));
    }
    // A ladder is needed for sharing only, and is fetched again when its file is: it counts to no version.
    let ladder = |file: &ManifestFile| {
        Some(Expected {
            sha256: file.ladder_sha256?,
            name: Some(format!("(the ladder of {})", file.name)),
            version: None,
            size: None,
        })
    };
    let listed: BTreeMap<Sha256, Expected> = others
        .iter()
        .chain(newest)
        .flat_map(|signed| {
            let files = signed.manifest.files.iter();
            files.flat_map(move |file| ladder(file).into_iter().chain([expected(signed, file)]))
        })
        .map(|file| (file.sha256, file))
        .collect();
    let planned: BTreeSet<Sha256> = plan.iter().map(|file| file.sha256).collect();
    let (whole, _) = shelf.lying_here()?;
    for sha256 in whole.difference(&planned) {
        plan.push(listed.get(sha256).cloned().unwrap_or(Expected {
            sha256: *sha256,
            name: None,
            version: None,
            size: None,
        }));
    }
    Ok(plan)
}

/// Hashes one of them; `progress` hears how many bytes of it are read.
pub fn check(shelf: &Shelf, file: Expected, progress: &dyn Fn(u64)) -> Checked {
    let path = shelf.blob(&file.sha256);
    let size = || std::fs::metadata(&path).map_or(0, |found| found.len());
    let state = match hash_file(&path, progress) {
        Ok(None) => FileState::Missing,
        Ok(Some(found)) if found == file.sha256 => FileState::Ok,
        Ok(Some(found_sha256)) => FileState::Corrupt {
            found_sha256,
            found_size: size(),
        },
        Err(error) => FileState::Unreadable {
            error: error.to_string(),
        },
    };
    Checked { file, state }
}

/// The SHA-256 of a file; `None` if it is not there.
pub fn hash_file(path: &Path, progress: &dyn Fn(u64)) -> io::Result<Option<Sha256>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut hasher, mut done) = (Hasher::new(), 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(&buffer[..read]);
        done += read as u64;
        progress(done);
    }
}
