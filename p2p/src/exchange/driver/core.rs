//! The machine with what it is carried out on: open files, pieces being written and hashed, links. All of it is under
//! one lock, which is held for bookkeeping only.
//!
//! A piece's bytes are hashed as they are written if they come in order, which they do unless a piece is shared among
//! sources; what was not is read back once, when the machine wants the piece checked.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use libp2p::PeerId;
use owm_proto::{Ladder, PieceCheck, Sha256};
use tokio::sync::watch;

use super::{
    Banned, Shared,
    link::{self, Order},
    places::Places,
    proving,
    search::Searches,
    web,
};
use crate::exchange::{
    files::{FileError, Growing},
    machine::{Accept, Effect, Ended, Event, Machine, RequestId, Source},
};

/// How a wanted file stands.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Not all pieces are there.
    Open,
    /// It has its final name.
    Done,
    /// The disk.
    Failed(Arc<FileError>),
}

/// A file that somebody waits for.
pub(super) struct Wanted {
    pub(super) ladder: Arc<Ladder>,
    pub(super) growing: Arc<dyn Growing>,
    pub(super) pieces: HashMap<u32, Piece>,
    pub(super) outcome: watch::Sender<Outcome>,
    users: usize,
}

/// A piece that bytes come in for.
pub(super) struct Piece {
    /// `None` while a thread hashes with it.
    pub(super) check: Option<PieceCheck>,
    /// Up to where it has been hashed, from the file's beginning.
    pub(super) hashed: u64,
    /// Up to where it has been given to a thread to be hashed.
    handed: u64,
    /// What is being written.
    pub(super) writing: Vec<Range<u64>>,
    /// Bytes were written again after they had been hashed: the check begins anew, from the disk.
    pub(super) is_stale: bool,
    /// Bytes were written while others were on their way to the same place: which of them stayed nobody knows.
    pub(super) is_tangled: bool,
    /// The machine waits for its check.
    pub(super) is_due: bool,
}

impl Piece {
    /// What is hashed, and what is still to be read back to prove all of it; `None`: a thread hashes just now.
    pub(super) fn rest(self, ladder: &Ladder, number: u32) -> Option<(PieceCheck, Range<u64>)> {
        let range = ladder.range(number);
        if self.is_stale || self.is_tangled {
            return Some((ladder.check(number), range));
        }
        Some((self.check?, self.hashed..range.end))
    }
}

/// See the module.
pub(super) struct Core {
    pub(super) machine: Machine,
    pub(super) wanted: BTreeMap<Sha256, Wanted>,
    pub(super) links: Places<link::Orders>,
    pub(super) searches: Searches,
    pub(super) web: Option<web::Orders>,
    /// Fetches that are open: with the last one the links go.
    pub(super) fetches: usize,
    /// When the task that keeps the time looks again by itself.
    pub(super) armed: Duration,
}

/// A part of what came in, to be written and perhaps hashed. Made under the lock, done on a blocking thread.
pub(super) struct Portion {
    file: Sha256,
    piece: u32,
    offset: u64,
    growing: Arc<dyn Growing>,
    within: Range<usize>,
    check: Option<PieceCheck>,
}

impl Portion {
    fn do_it(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let bytes = &bytes[self.within.clone()];
        if let Some(check) = &mut self.check {
            check.update(bytes);
        }
        self.growing.write(self.offset, bytes)
    }
}

impl Core {
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            machine,
            wanted: BTreeMap::new(),
            links: Places::new(),
            searches: Searches::default(),
            web: None,
            fetches: 0,
            armed: Duration::ZERO,
        }
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.machine.wake_at()
    }

    /// The web seed has all of every file.
    pub(super) fn offer_web(&mut self, now: Duration) {
        for wanted in self.wanted.values() {
            self.machine.handle(now, web::offer(&wanted.ladder));
        }
    }

    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Asks everybody what they have of a file.
    pub(super) fn ask_all(&self, ladder: &Arc<Ladder>) {
        for (_, orders) in self.links.iter() {
            orders.give(Order::Have(Arc::clone(ladder)));
        }
    }

    /// Another one who wants this file; it is opened by the first.
    pub(super) fn join(&mut self, file: &Sha256) -> Option<watch::Receiver<Outcome>> {
        let wanted = self.wanted.get_mut(file)?;
        wanted.users += 1;
        Some(wanted.outcome.subscribe())
    }

    fn accept(&mut self, now: Duration, request: RequestId, length: usize) -> Vec<Portion> {
        let (mut portions, mut at) = (Vec::new(), 0);
        while at < length {
            match self.machine.accept(now, request, length - at) {
                Accept::Gone => break,
                Accept::Skip { bytes } => at += bytes.max(1),
                Accept::Write {
                    file,
                    offset,
                    bytes,
                } => {
                    let within = at..at + bytes;
                    at += bytes.max(1);
                    portions.extend(self.portion(file, offset, within));
                }
            }
        }
        portions
    }

    fn portion(&mut self, file: Sha256, offset: u64, within: Range<usize>) -> Option<Portion> {
        let wanted = self.wanted.get_mut(&file)?;
        let number = (offset / wanted.ladder.piece_len().max(1)) as u32;
        let ladder = &wanted.ladder;
        let piece = wanted.pieces.entry(number).or_insert_with(|| Piece {
            check: Some(ladder.check(number)),
            hashed: ladder.range(number).start,
            handed: ladder.range(number).start,
            writing: Vec::new(),
            is_stale: false,
            is_tangled: false,
            is_due: false,
        });
        let range = offset..offset + within.len() as u64;
        let overlaps = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        piece.is_tangled |= piece.writing.iter().any(overlaps);
        // The machine has forgotten what came before, and asks for it again.
        piece.is_stale |= offset < piece.handed;
        let is_next = piece.hashed == offset && piece.check.is_some() && !piece.is_stale;
        if is_next {
            piece.handed = range.end;
        }
        piece.writing.push(range);
        Some(Portion {
            file,
            piece: number,
            offset,
            growing: Arc::clone(&wanted.growing),
            within,
            check: if is_next { piece.check.take() } else { None },
        })
    }

    /// A portion has been written; whether its piece's check was waiting for that.
    fn written(&mut self, portion: &mut Portion) -> bool {
        // Wanted again since by somebody else: another file handle, another count.
        let wanted = self.wanted.get_mut(&portion.file);
        let wanted = wanted.filter(|wanted| Arc::ptr_eq(&wanted.growing, &portion.growing));
        let Some(piece) = wanted.and_then(|wanted| wanted.pieces.get_mut(&portion.piece)) else {
            return false;
        };
        let end = portion.offset + portion.within.len() as u64;
        let written = portion.offset..end;
        if let Some(at) = piece.writing.iter().position(|range| *range == written) {
            piece.writing.swap_remove(at);
        }
        if portion.check.is_some() {
            piece.check = portion.check.take();
            piece.hashed = end;
        }
        piece.is_due && piece.writing.is_empty()
    }
}

impl Shared {
    pub(super) fn tick(self: &Arc<Self>) {
        self.handle(Event::Tick);
    }

    pub(super) fn handle(self: &Arc<Self>, event: Event) {
        let now = self.now();
        let mut core = self.core();
        core.machine.handle(now, event);
        self.carry_out(&mut core);
    }

    /// Somebody wants a file that nobody wanted yet.
    pub(super) fn want(
        self: &Arc<Self>,
        ladder: &Arc<Ladder>,
        growing: Arc<dyn Growing>,
    ) -> watch::Receiver<Outcome> {
        let file = ladder.spec().sha256();
        let (now, have) = (self.now(), growing.proven());
        let mut core = self.core();
        if let Some(outcome) = core.join(&file) {
            return outcome;
        }
        let (outcome, told) = watch::channel(Outcome::Open);
        let wanted = Wanted {
            ladder: Arc::clone(ladder),
            growing,
            pieces: HashMap::new(),
            outcome,
            users: 1,
        };
        core.wanted.insert(file, wanted);
        let file = Arc::clone(ladder);
        core.machine.handle(now, Event::Start { file, have });
        core.ask_all(ladder);
        if core.web.is_some() {
            core.machine.handle(now, web::offer(ladder));
        }
        self.carry_out(&mut core);
        told
    }

    /// One of those who wanted it does no longer.
    pub(super) fn unwant(self: &Arc<Self>, file: &Sha256) {
        let now = self.now();
        let mut core = self.core();
        let Some(wanted) = core.wanted.get_mut(file) else {
            return;
        };
        wanted.users -= 1;
        let mut gone = None;
        if wanted.users == 0 {
            gone = core.wanted.remove(file);
            core.machine.handle(now, Event::Stop { file: *file });
        }
        self.carry_out(&mut core);
        drop(core);
        if let Some(gone) = gone {
            proving::put_away(gone.growing);
        }
    }

    /// With the last fetch all conversations end.
    pub(super) fn close_fetch(self: &Arc<Self>) {
        let now = self.now();
        let mut core = self.core();
        core.fetches -= 1;
        if core.fetches == 0 {
            core.web = None;
            for peer in core.links.clear() {
                let source = Source::Peer(peer);
                core.machine.handle(now, Event::Gone { source });
            }
        }
        self.carry_out(&mut core);
    }

    /// Begins conversations as long as there are places and peers in line.
    pub(super) fn fill_places(self: &Arc<Self>, core: &mut Core) {
        while let Some((peer, turns)) = core.links.next() {
            let orders = link::start(self, peer, turns);
            for wanted in core.wanted.values() {
                orders.give(Order::Have(Arc::clone(&wanted.ladder)));
            }
            core.links.hold(peer, turns, orders);
        }
    }

    /// A peer that is of no use at present leaves its place to who waits for one, if somebody does.
    pub(super) fn give_place(self: &Arc<Self>, core: &mut Core, peer: PeerId) {
        if core.links.give_up(&peer).is_some() {
            let source = Source::Peer(peer);
            core.machine.handle(self.now(), Event::Gone { source });
            self.fill_places(core);
        }
    }

    /// [`Self::give_place`], and what follows from it.
    pub(super) fn pass_over(self: &Arc<Self>, peer: PeerId) {
        let mut core = self.core();
        self.give_place(&mut core, peer);
        self.carry_out(&mut core);
    }

    /// Nothing is wanted of this peer any more.
    pub(super) fn leave(self: &Arc<Self>, peer: PeerId) {
        let mut core = self.core();
        drop(core.links.cut_off(peer));
        let source = Source::Peer(peer);
        core.machine.handle(self.now(), Event::Gone { source });
        self.fill_places(&mut core);
        self.carry_out(&mut core);
    }

    /// What a source has sent of a request: written and hashed on a blocking thread. Gives the buffer back.
    pub(super) async fn deliver(self: &Arc<Self>, request: RequestId, bytes: Vec<u8>) -> Vec<u8> {
        let now = self.now();
        let mut portions = {
            let mut core = self.core();
            let portions = core.accept(now, request, bytes.len());
            self.carry_out(&mut core);
            portions
        };
        if portions.is_empty() {
            return bytes;
        }
        let work = move || {
            let mut failed = None;
            for portion in &mut portions {
                if let Err(error) = portion.do_it(&bytes) {
                    failed = Some(error);
                }
            }
            (portions, failed, bytes)
        };
        let Ok((mut portions, failed, bytes)) = self.blocking(work).await else {
            return Vec::new();
        };
        let mut core = self.core();
        if let Some(error) = failed {
            let mut files: Vec<Sha256> = portions.iter().map(|portion| portion.file).collect();
            files.dedup();
            if matches!(error, FileError::Taken) {
                for file in files {
                    self.begin_again(&mut core, file);
                }
            } else {
                self.fail(&mut core, &files, error);
            }
        }
        for portion in &mut portions {
            if core.written(portion) {
                self.check(&mut core, portion.file, portion.piece);
            }
        }
        self.carry_out(&mut core);
        drop(core);
        for portion in portions {
            proving::put_away(portion.growing);
        }
        bytes
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        tokio::task::spawn_blocking(work).await
    }

    pub(super) fn fail(self: &Arc<Self>, core: &mut Core, files: &[Sha256], error: FileError) {
        let error = Arc::new(error);
        for file in files {
            let Some(wanted) = core.wanted.get(file) else {
                continue;
            };
            tracing::warn!(file = %file, "the fetch ends: {error}");
            wanted
                .outcome
                .send_replace(Outcome::Failed(Arc::clone(&error)));
            core.machine.handle(self.now(), Event::Stop { file: *file });
        }
    }

    /// Does what the machine wants done.
    pub(super) fn carry_out(self: &Arc<Self>, core: &mut Core) {
        while let Some(effect) = core.machine.poll_effect() {
            match effect {
                Effect::Request {
                    source,
                    request,
                    file,
                    range,
                } => self.request(core, source, request, file, range),
                // What still comes of it is read and thrown away: a range at most.
                Effect::Cancel { .. } => {}
                Effect::Check { file, piece } => self.check(core, file, piece),
                Effect::Digest {
                    file,
                    piece,
                    ranges,
                } => self.digest(core, file, piece, ranges),
                Effect::Ban { peer, file, piece } => {
                    tracing::warn!(%peer, %file, piece, "it gave wrong bytes and is cut off");
                    drop(core.links.cut_off(peer));
                    self.fill_places(core);
                    let banned = Banned { peer, file, piece };
                    // Nobody listens, or nobody reads: it is asked for nothing any more in any case.
                    if let Some(bans) = &self.bans {
                        let _ = bans.try_send(banned);
                    }
                }
                Effect::Rest { source, reason, .. } => {
                    tracing::debug!(?source, ?reason, "left alone for a time");
                    if let Source::Peer(peer) = source
                        && let Some(orders) = core.links.get(&peer)
                    {
                        orders.give(Order::Reset);
                        self.give_place(core, peer);
                    }
                }
                Effect::Complete { file } => self.complete(core, file),
                Effect::Starved { file } => {
                    let Some(wanted) = core.wanted.get(&file) else {
                        continue;
                    };
                    core.ask_all(&Arc::clone(&wanted.ladder));
                }
            }
        }
        // Waking a thread costs more than all else here, so it is done only if it has to be sooner.
        if core.wake_at().is_some_and(|due| due < core.armed) {
            self.woken.notify_one();
        }
    }

    fn request(
        &self,
        core: &mut Core,
        source: Source,
        request: RequestId,
        file: Sha256,
        range: Range<u64>,
    ) {
        let given = match source {
            Source::Peer(peer) => core.links.get(&peer).is_some_and(|orders| {
                orders.give(Order::Range {
                    request,
                    file,
                    range,
                })
            }),
            Source::Web(_) => core
                .web
                .as_ref()
                .is_some_and(|web| web.give(request, file, range)),
        };
        if !given {
            let how = Ended::Failed;
            core.machine
                .handle(self.now(), Event::Ended { request, how });
        }
    }
}

#[cfg(test)]
mod tests;
