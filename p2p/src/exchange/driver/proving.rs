//! Proving what has been written: pieces against the ladder, ranges by their digests after a lie, and the step to a
//! whole file. Called by [`super::core`], with its lock held; what reads the disk runs on blocking threads.

use std::{ops::Range, sync::Arc};

use owm_proto::{PieceCheck, Sha256, hash::Hasher};

use super::{
    Shared,
    core::{Core, Outcome},
    web,
};
use crate::exchange::{
    files::{FileError, Growing},
    machine::{Event, Found},
};

/// Read back at once to be hashed.
const READ_BACK: usize = 1 << 20;

impl Shared {
    pub(super) fn check(self: &Arc<Self>, core: &mut Core, file: Sha256, number: u32) {
        let Some(wanted) = core.wanted.get_mut(&file) else {
            return;
        };
        let Some(piece) = wanted.pieces.get_mut(&number) else {
            return;
        };
        piece.is_due = true;
        if !piece.writing.is_empty() {
            return;
        }
        let growing = Arc::clone(&wanted.growing);
        let is_tangled = piece.is_tangled;
        let piece = wanted.pieces.remove(&number);
        let rest = piece.and_then(|piece| piece.rest(&wanted.ladder, number));
        let Some((check, rest)) = rest else { return };
        if rest.is_empty() {
            // Hashed as it came, whatever lies on the disk.
            self.checked(core, file, number, check.finish().into());
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let read = shared.blocking(move || {
                let is_right = read_back(&*growing, rest, check)?.finish();
                // Asked after the look: who has written since it began counts.
                let is_mixed = || is_tangled || !growing.is_sole(number);
                Ok(if !is_right && is_mixed() {
                    Found::Mixed
                } else {
                    is_right.into()
                })
            });
            let Ok(read) = read.await else { return };
            let mut core = shared.core();
            match read {
                Ok(found) => shared.checked(&mut core, file, number, found),
                Err(error) => shared.fail(&mut core, &[file], error),
            }
            shared.carry_out(&mut core);
        });
    }

    /// Somebody else has proved some of it: what is not proved is asked for once more.
    pub(super) fn begin_again(self: &Arc<Self>, core: &mut Core, file: Sha256) {
        let Some(wanted) = core.wanted.get_mut(&file) else {
            return;
        };
        // What is still being written may land behind what comes anew: such pieces are proved from the disk.
        wanted.pieces.retain(|_, piece| {
            (piece.is_stale, piece.is_due) = (true, false);
            !piece.writing.is_empty()
        });
        let (ladder, have) = (Arc::clone(&wanted.ladder), wanted.growing.proven());
        let now = self.now();
        core.machine.handle(now, Event::Stop { file });
        let start = Event::Start {
            file: Arc::clone(&ladder),
            have,
        };
        core.machine.handle(now, start);
        core.ask_all(&ladder);
        if core.web.is_some() {
            core.machine.handle(now, web::offer(&ladder));
        }
    }

    pub(super) fn checked(
        self: &Arc<Self>,
        core: &mut Core,
        file: Sha256,
        piece: u32,
        found: Found,
    ) {
        if found == Found::Right
            && let Some(wanted) = core.wanted.get(&file)
            && !wanted.growing.proved(piece)
        {
            self.settle(&wanted.growing, file, piece);
            return;
        }
        let checked = Event::Checked { file, piece, found };
        core.machine.handle(self.now(), checked);
    }

    /// Somebody else fetches the same file into the same place: what lies there is looked at.
    fn settle(self: &Arc<Self>, growing: &Arc<dyn Growing>, file: Sha256, piece: u32) {
        let (shared, growing) = (Arc::clone(self), Arc::clone(growing));
        self.tasks.spawn(async move {
            let settled = shared.blocking(move || growing.settle(piece)).await;
            let Ok(settled) = settled else { return };
            let mut core = shared.core();
            match settled {
                Ok(is_right) => {
                    // What was hashed here was right.
                    let found = if is_right { Found::Right } else { Found::Mixed };
                    let checked = Event::Checked { file, piece, found };
                    core.machine.handle(shared.now(), checked);
                }
                Err(error) => shared.fail(&mut core, &[file], error),
            }
            shared.carry_out(&mut core);
        });
    }

    pub(super) fn digest(
        self: &Arc<Self>,
        core: &Core,
        file: Sha256,
        piece: u32,
        ranges: Vec<Range<u64>>,
    ) {
        let Some(wanted) = core.wanted.get(&file) else {
            return;
        };
        let growing = Arc::clone(&wanted.growing);
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let work = move || evidence(&*growing, piece, ranges);
            let Ok(digests) = shared.blocking(work).await else {
                return;
            };
            match digests {
                Ok(digests) => shared.handle(Event::Digested {
                    file,
                    piece,
                    digests,
                }),
                Err(error) => {
                    let mut core = shared.core();
                    shared.fail(&mut core, &[file], error);
                    shared.carry_out(&mut core);
                }
            }
        });
    }

    pub(super) fn complete(self: &Arc<Self>, core: &Core, file: Sha256) {
        let Some(wanted) = core.wanted.get(&file) else {
            return;
        };
        let (growing, outcome) = (Arc::clone(&wanted.growing), wanted.outcome.clone());
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let Ok(finished) = shared.blocking(move || growing.finish()).await else {
                return;
            };
            outcome.send_replace(match finished {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(Arc::new(error)),
            });
        });
    }
}

fn read_back(
    growing: &dyn Growing,
    range: Range<u64>,
    mut check: PieceCheck,
) -> Result<PieceCheck, FileError> {
    in_parts(growing, range, |bytes| check.update(bytes))?;
    Ok(check)
}

/// The ranges' digests; none if what lies there may be others'.
fn evidence(
    growing: &dyn Growing,
    piece: u32,
    ranges: Vec<Range<u64>>,
) -> Result<Vec<Sha256>, FileError> {
    // Nothing is written to it any more.
    let is_proven = growing.proven().has(piece);
    let digests = ranges.into_iter().map(|range| digest(growing, range));
    let digests: Vec<Sha256> = digests.collect::<Result<_, _>>()?;
    Ok(if is_proven || growing.is_sole(piece) {
        digests
    } else {
        Vec::new()
    })
}

fn digest(growing: &dyn Growing, range: Range<u64>) -> Result<Sha256, FileError> {
    let mut hash = Hasher::new();
    in_parts(growing, range, |bytes| hash.update(bytes))?;
    Ok(hash.finish())
}

fn in_parts(
    growing: &dyn Growing,
    range: Range<u64>,
    mut each: impl FnMut(&[u8]),
) -> Result<(), FileError> {
    let mut buffer = vec![0; READ_BACK.min((range.end - range.start) as usize)];
    let mut at = range.start;
    while at < range.end {
        let length = buffer.len().min((range.end - at) as usize);
        growing.read_back(at, &mut buffer[..length])?;
        each(&buffer[..length]);
        at += length as u64;
    }
    Ok(())
}

/// Lets go of a file without blocking: the last handle of one syncs what is proved.
pub(super) fn put_away(growing: Arc<dyn Growing>) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) if Arc::strong_count(&growing) == 1 => {
            drop(runtime.spawn_blocking(move || drop(growing)));
        }
        _ => drop(growing),
    }
}

#[cfg(test)]
mod tests;
