//! Checkpoints from their parents: a node that holds the parent's weights fetches the delta and makes the new file itself
//! (docs/fl-protocol.md). `keeper` tries this before it fetches whole files.
//! Must stay true: the file gets its name only if its SHA-256 is the manifest's; whatever fails, the whole file is fetched.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use owm_p2p::exchange::store::StoreError;
use owm_proto::{
    FileSpec, LadderBuilder, PieceLen, Sha256,
    manifest::{Manifest, ManifestDelta, ManifestFile},
};
use owm_service::report::Chain;
use owm_update::{ApplyError, Layout, UpdateError, apply::Merge, layout::LayoutError};

use super::{
    BringError, Shelf, ShelfError,
    bring::{Bringer, Hears},
};
use crate::home::sync_folder;

/// A weights file's header that is read at most.
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// What the name of a checkpoint in the making begins with.
const MERGING: &str = ".merging-";

/// Why a checkpoint is not made here.
#[derive(Debug, thiserror::Error)]
enum DeltaError {
    #[error("the delta cannot be had")]
    Bring(#[from] BringError),
    #[error("a file of it cannot be used")]
    Io(#[from] io::Error),
    #[error("the parent's header")]
    Layout(#[from] LayoutError),
    #[error("the delta")]
    Update(#[from] UpdateError),
    #[error("they do not go together")]
    Apply(#[from] ApplyError),
    #[error("what comes of it hashes to {0}, the manifest names another")]
    Other(Sha256),
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the process stops")]
    Stopped,
}

/// Removes what a killed process has left half made: at the start. While another process fetches into the shelf, nothing
/// is touched; the next start comes to it.
pub(crate) fn sweep(shelf: &Shelf) {
    let Ok(Some(_writer)) = shelf.writer() else {
        return;
    };
    // Of no file: the folder of all of them.
    let blobs = shelf.blob(&Sha256([0; 32]));
    let entries = blobs.parent().map(std::fs::read_dir);
    for entry in entries.into_iter().flatten().flatten().flatten() {
        let name = entry.file_name();
        let is_half_made = name.to_str().is_some_and(|name| name.starts_with(MERGING));
        if is_half_made && let Err(error) = std::fs::remove_file(entry.path()) {
            let path = entry.path();
            tracing::warn!(path = %path.display(), %error, "half a checkpoint stays on the disk");
        }
    }
}

/// The deltas by which missing files of `files` can be made here.
pub(super) fn usable<'a>(
    shelf: &Shelf,
    manifest: &'a Manifest,
    files: &[&'a ManifestFile],
) -> Vec<(&'a ManifestDelta, &'a ManifestFile)> {
    let its = |delta: &'a ManifestDelta| {
        let is_its = |file: &&&ManifestFile| file.sha256 == delta.checkpoint;
        let file = files.iter().find(is_its)?;
        let saves = delta.file.size < file.size;
        let can = saves && !shelf.has(file) && shelf.blob(&delta.parent).exists();
        can.then_some((delta, *file))
    };
    manifest.deltas.iter().filter_map(its).collect()
}

/// Makes what can be made; what cannot is left to be fetched.
pub(super) async fn make(
    bringer: &mut Bringer<'_>,
    usable: &[(&ManifestDelta, &ManifestFile)],
    hears: Hears<'_>,
) {
    for (delta, file) in usable {
        match one(bringer, delta, file, hears).await {
            Ok(()) => tracing::info!(
                file = %file.name,
                delta_bytes = delta.file.size,
                bytes = file.size,
                "made from its parent and a delta"
            ),
            Err(error) => tracing::warn!(
                file = %file.name,
                error = %Chain(&error),
                "cannot be made from its parent; the whole file is fetched"
            ),
        }
    }
}

async fn one(
    bringer: &mut Bringer<'_>,
    delta: &ManifestDelta,
    file: &ManifestFile,
    hears: Hears<'_>,
) -> Result<(), DeltaError> {
    bringer.bring(&[&delta.file], hears).await?;
    let (shelf, delta, file) = (bringer.shelf.clone(), delta.clone(), file.clone());
    let made = tokio::task::spawn_blocking(move || apply(&shelf, &delta, &file));
    made.await.map_err(|_| DeltaError::Stopped)?
}

/// Blocks.
fn apply(shelf: &Shelf, delta: &ManifestDelta, file: &ManifestFile) -> Result<(), DeltaError> {
    let bytes = std::fs::read(shelf.blob(&delta.file.sha256))?;
    let update = owm_update::Update::parse(&bytes)?;
    let mut parent = File::open(shelf.blob(&delta.parent))?;
    let size = parent.metadata()?.len();
    let layout = layout(&shelf.blob(&delta.parent))?;
    let merge = Merge::new(&layout, size, &update)?;
    let target = shelf.blob(&file.sha256);
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut made = tempfile::Builder::new()
        .prefix(MERGING)
        .tempfile_in(folder)?;
    let mut ladder = file
        .piece_len
        .and_then(PieceLen::new)
        .map(LadderBuilder::new);
    let (mut stream, mut piece) = (merge.stream(), Vec::new());
    while let Some(next) = stream.next_bytes() {
        piece.resize(next, 0);
        parent.read_exact(&mut piece)?;
        stream.apply(&mut piece)?;
        made.write_all(&piece)?;
        if let Some(ladder) = &mut ladder {
            ladder.update(&piece);
        }
    }
    let merged = stream.finish()?;
    if merged.sha256 != file.sha256 {
        return Err(DeltaError::Other(merged.sha256));
    }
    made.as_file().sync_all()?;
    made.persist(&target).map_err(|error| error.error)?;
    sync_folder(folder)?;
    let store = shelf.store()?;
    store.adopt(&file.sha256)?;
    // So that others can have it from here.
    if let Some(Ok(ladder)) = ladder.map(LadderBuilder::finish)
        && FileSpec::of(file).is_ok_and(|spec| spec == *ladder.spec())
    {
        store.keep_ladder(&ladder)?;
    }
    Ok(())
}

fn layout(path: &Path) -> Result<Layout, DeltaError> {
    let (mut file, mut bytes, mut want) = (File::open(path)?, Vec::new(), 8);
    loop {
        (&mut file)
            .take(want - bytes.len() as u64)
            .read_to_end(&mut bytes)?;
        match Layout::parse(&bytes) {
            Err(LayoutError::Short { needed, got })
                if needed <= HEADER_BYTES_MAX && got >= want =>
            {
                want = needed;
            }
            parsed => return Ok(parsed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_start_removes_half_made_checkpoints_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().to_owned(), None);
        sweep(&shelf);
        let blobs = folder.path().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let whole = Sha256([7; 32]).to_string();
        let part = format!("{whole}.part");
        for name in [whole.as_str(), &part, ".merging-a1B2c3"] {
            fs::write(blobs.join(name), b"bytes").unwrap();
        }
        let left = || {
            let entries = fs::read_dir(&blobs).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let busy = shelf.writer().unwrap();
        sweep(&shelf);
        assert_eq!(left().len(), 3, "another process may be at it");
        drop(busy);
        sweep(&shelf);
        assert_eq!(left(), [whole, part]);
    }
}
