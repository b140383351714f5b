//! One fetch: the ladders first, then the files, and what people see of it. Dropping it ends it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use libp2p::PeerId;
use owm_proto::{FileSpec, Ladder, Sha256, ladder::LadderError};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Shared, Sources, WebSeed, core::Outcome, ladder, search::Search, web};
use crate::exchange::{files::FileError, machine::SourceRate};

/// Progress is told so often.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Why a fetch ended without its files. Slow, lying and missing sources don't end it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The disk.
    #[error("{file} cannot be kept: {reason}")]
    Disk {
        /// Which file.
        file: Sha256,
        /// Why.
        reason: Arc<FileError>,
    },
    /// The manifest contradicts itself.
    #[error("{file} can't be fetched by anybody: {reason}")]
    Manifest {
        /// Which file.
        file: Sha256,
        /// Why.
        reason: LadderError,
    },
    /// The daemon ends.
    #[error("the exchange has been stopped")]
    Stopped,
}

/// One file of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileProgress {
    /// Which.
    pub file: Sha256,
    /// Its bytes.
    pub size: u64,
    /// Those proven.
    pub proved_bytes: u64,
    /// It has its final name.
    pub is_done: bool,
}

/// How far a fetch is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Its files.
    pub files: Vec<FileProgress>,
    /// What every source has given and gives, to all fetches of this daemon.
    pub sources: Vec<SourceRate>,
    /// Peers that may have something of what is missing, of all fetches of this daemon: they say so, or have not said
    /// yet that they have nothing.
    pub hopes: usize,
    /// How it ended.
    pub ended: Option<Result<(), FetchError>>,
}

/// A fetch; dropping it ends it.
pub struct Fetch {
    shared: Arc<Shared>,
    progress: watch::Receiver<Arc<Progress>>,
    _ends: DropGuard,
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fetch").field(&self.progress).finish()
    }
}

impl Fetch {
    /// How far it is, a few times a second.
    pub fn progress(&self) -> watch::Receiver<Arc<Progress>> {
        self.progress.clone()
    }

    /// More peers that may have the files. Nobody is spoken with any more once it has ended.
    pub fn add_peers(&self, peers: impl IntoIterator<Item = PeerId>) {
        if self.progress.borrow().ended.is_some() {
            return;
        }
        for peer in peers {
            self.shared.link(peer);
        }
    }

    /// Waits for all files.
    ///
    /// # Errors
    /// When a file can't be kept, or the daemon ends.
    pub async fn done(&mut self) -> Result<(), FetchError> {
        let ended = self.progress.wait_for(|progress| progress.ended.is_some());
        match ended.await {
            Ok(progress) => progress.ended.clone().expect("that was waited for"),
            Err(_) => Err(FetchError::Stopped),
        }
    }
}

/// While it lives, links are kept.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close_fetch();
    }
}

/// While it lives, the file is wanted.
struct Want(Arc<Shared>, Sha256);

impl Drop for Want {
    fn drop(&mut self) {
        self.0.unwant(&self.1);
    }
}

pub(super) fn begin(shared: &Arc<Shared>, files: Vec<FileSpec>, sources: Sources) -> Fetch {
    shared.open_fetch();
    let open = Open(Arc::clone(shared));
    if let Some(seed) = &sources.web {
        shared.link_web(seed);
    }
    for peer in sources.peers {
        shared.link(peer);
    }
    // A file that two manifests name is one file.
    let files: BTreeMap<Sha256, FileSpec> = files
        .into_iter()
        .map(|file| (file.sha256(), file))
        .collect();
    let (tell, progress) = watch::channel(Arc::default());
    let stop = shared.stop.child_token();
    let task = Task {
        shared: Arc::clone(shared),
        files,
        web: sources.web,
        tell,
    };
    shared.tasks.spawn(task.run(stop.clone(), open));
    Fetch {
        shared: Arc::clone(shared),
        progress,
        _ends: stop.drop_guard(),
    }
}

struct Task {
    shared: Arc<Shared>,
    files: BTreeMap<Sha256, FileSpec>,
    web: Option<Arc<dyn WebSeed>>,
    tell: watch::Sender<Arc<Progress>>,
}

impl Task {
    async fn run(self, stop: CancellationToken, open: Open) {
        let mut done: BTreeMap<Sha256, bool> =
            self.files.keys().map(|file| (*file, false)).collect();
        let mut wants = Vec::new();
        let begin = |file: &FileSpec| self.fetch(*file, self.shared.search());
        let fetched = self.files.values().map(begin);
        let mut fetched: stream::FuturesUnordered<_> = fetched.collect();
        let mut tell = interval(TELL_EVERY);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Err(FetchError::Stopped),
                next = fetched.next() => match next {
                    None => break Ok(()),
                    Some(Ok((file, want))) => {
                        wants.extend(want);
                        done.insert(file, true);
                    }
                    Some(Err(error)) => break Err(error),
                },
                _ = tell.tick() => self.tell(&done, None),
            }
        };
        self.tell(&done, Some(ended));
        drop(fetched);
        drop(wants);
        drop(open);
    }

    fn tell(&self, done: &BTreeMap<Sha256, bool>, ended: Option<Result<(), FetchError>>) {
        let core = self.shared.core();
        let files = self.files.values().map(|spec| {
            let file = spec.sha256();
            let is_done = done.get(&file).copied().unwrap_or(false);
            let proved = core.machine().progress(&file);
            let proved = proved.map_or(0, |progress| progress.proved_bytes);
            FileProgress {
                file,
                size: spec.size(),
                proved_bytes: if is_done { spec.size() } else { proved },
                is_done,
            }
        });
        let progress = Progress {
            files: files.collect(),
            sources: core.machine().rates(),
            hopes: core.hopes(),
            ended,
        };
        drop(core);
        self.tell.send_replace(Arc::new(progress));
    }

    async fn fetch(
        &self,
        spec: FileSpec,
        search: Search,
    ) -> Result<(Sha256, Option<Want>), FetchError> {
        let file = spec.sha256();
        let disk = |reason| FetchError::Disk { file, reason };
        let ladder = Arc::new(self.ladder(spec, &search).await?);
        let (target, for_target) = (Arc::clone(&self.shared.target), Arc::clone(&ladder));
        let kept = tokio::task::spawn_blocking(move || target.keep_ladder(&for_target)).await;
        let kept = kept.map_err(|_| FetchError::Stopped)?;
        kept.map_err(|error| disk(Arc::new(error)))?;
        let (target, for_target) = (Arc::clone(&self.shared.target), Arc::clone(&ladder));
        let joined = self.shared.core().join(&file);
        let mut outcome = if let Some(outcome) = joined {
            outcome
        } else {
            let begun = move || target.begin(&for_target);
            let begun = tokio::task::spawn_blocking(begun).await;
            let begun = begun.map_err(|_| FetchError::Stopped)?;
            match begun.map_err(|error| disk(Arc::new(error)))? {
                None => return Ok((file, None)),
                Some(growing) => self.shared.want(&ladder, growing),
            }
        };
        let want = Want(Arc::clone(&self.shared), file);
        drop(search);
        let ended = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Open));
        let ended = match ended.await {
            Ok(outcome) => outcome.clone(),
            Err(_) => return Err(FetchError::Stopped),
        };
        match ended {
            Outcome::Failed(reason) => Err(disk(reason)),
            Outcome::Open | Outcome::Done => Ok((file, Some(want))),
        }
    }

    /// From the disk, from whoever has it, or (a short file) from nowhere. Only one that hashes to the signed
    /// manifest's value is taken.
    async fn ladder(&self, spec: FileSpec, search: &Search) -> Result<Ladder, FetchError> {
        let manifest = |reason| FetchError::Manifest {
            file: spec.sha256(),
            reason,
        };
        if spec.ladder_sha256().is_none() {
            return Ladder::none(spec).map_err(manifest);
        }
        let target = Arc::clone(&self.shared.target);
        let kept = tokio::task::spawn_blocking(move || target.ladder(&spec)).await;
        if let Ok(Some(ladder)) = kept {
            return Ok(ladder);
        }
        let got = ladder::get(&self.shared, spec, self.web.as_ref(), search).await;
        got.map_err(manifest)
    }
}

impl Shared {
    pub(super) fn open_fetch(&self) {
        self.core().fetches += 1;
    }

    /// A peer that may be of use: spoken with now, or when there is a place.
    pub(super) fn link(self: &Arc<Self>, peer: PeerId) {
        let mut core = self.core();
        if core.fetches == 0 {
            // Its last fetch has just ended; nobody would end the conversation.
            return;
        }
        core.links.hint(peer);
        self.fill_places(&mut core);
    }

    fn link_web(self: &Arc<Self>, seed: &Arc<dyn WebSeed>) {
        let now = self.now();
        let mut core = self.core();
        if core.web.is_some() {
            return;
        }
        core.web = Some(web::start(self, Arc::clone(seed)));
        core.offer_web(now);
        self.carry_out(&mut core);
    }
}
