//! Fetches inside the daemon, for its control socket: one version at a time, as long as somebody asks how far it is.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use owm_proto::VersionId;
use owm_service::{CancellationToken, clock::SharedClock, report::Chain};
use tokio::sync::watch;

use super::{FetchPicture, Fetched, GetError, Getter, LOOK_EVERY};

/// An asker that has not come back for so long has gone.
const ASKER_GONE: Duration = Duration::from_secs(10);

/// Fetches for `owm-node models fetch` inside the daemon, one version at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetching {
    getter: Arc<Getter>,
    turns: Turns,
}

/// Whose fetch it is, whatever it takes to fetch.
#[derive(Clone, Debug)]
struct Turns {
    current: Arc<Mutex<Option<Current>>>,
    clock: SharedClock,
}

#[derive(Debug)]
struct Current {
    id: u64,
    version: Option<VersionId>,
    shown: watch::Receiver<FetchPicture>,
    /// Those who wait for it.
    askers: u32,
    /// When one of them was here last.
    seen: Duration,
    stop: CancellationToken,
}

impl Fetching {
    /// Fetches with this.
    pub fn new(getter: Getter) -> Self {
        Self {
            turns: Turns::new(Arc::clone(&getter.clock)),
            getter: Arc::new(getter),
        }
    }

    /// Begins, or joins who fetches the same already; the number is what [`Fetching::so_far`] wants.
    ///
    /// # Errors
    /// In words: another version is being fetched.
    pub fn begin(&self, version: Option<VersionId>) -> Result<u64, String> {
        let (getter, wanted) = (Arc::clone(&self.getter), version.clone());
        self.turns.begin(version, |show, stop| async move {
            getter.get(wanted.as_ref(), &show, &stop).await
        })
    }

    /// How far it is; `None`: that fetch is not the current one.
    pub fn so_far(&self, id: u64) -> Option<FetchPicture> {
        self.turns.so_far(id)
    }

    /// One asker leaves; with the last one it ends.
    pub fn end(&self, id: u64) {
        self.turns.end(id);
    }
}

impl Turns {
    fn new(clock: SharedClock) -> Self {
        Self {
            current: Arc::default(),
            clock,
        }
    }

    fn begin<F>(
        &self,
        version: Option<VersionId>,
        get: impl FnOnce(watch::Sender<FetchPicture>, CancellationToken) -> F,
    ) -> Result<u64, String>
    where
        F: Future<Output = Result<Fetched, GetError>> + Send + 'static,
    {
        let now = self.clock.monotonic();
        let mut current = self.lock();
        let running = current
            .as_mut()
            .filter(|c| c.shown.borrow().ended.is_none() && !c.stop.is_cancelled());
        if let Some(running) = running {
            if running.version == version {
                running.askers += 1;
                running.seen = now;
                return Ok(running.id);
            }
            return Err("another `owm-node models fetch` fetches another version just now; wait for it, or end it".into());
        }
        let id = current.as_ref().map_or(1, |c| c.id + 1);
        let (show, shown) = watch::channel(FetchPicture::default());
        let stop = CancellationToken::new();
        *current = Some(Current {
            id,
            version,
            shown,
            askers: 1,
            seen: now,
            stop: stop.clone(),
        });
        drop(current);
        let getting = get(show.clone(), stop.clone());
        tokio::spawn(self.clone().fetch(id, getting, show, stop));
        Ok(id)
    }

    fn so_far(&self, id: u64) -> Option<FetchPicture> {
        let mut current = self.lock();
        let current = current.as_mut().filter(|c| c.id == id)?;
        current.seen = self.clock.monotonic();
        Some(current.shown.borrow().clone())
    }

    fn end(&self, id: u64) {
        if let Some(current) = self.lock().as_mut().filter(|c| c.id == id) {
            current.askers = current.askers.saturating_sub(1);
            if current.askers == 0 {
                current.stop.cancel();
            }
        }
    }

    async fn fetch(
        self,
        id: u64,
        getting: impl Future<Output = Result<Fetched, GetError>>,
        show: watch::Sender<FetchPicture>,
        stop: CancellationToken,
    ) {
        let got = async {
            let mut getting = std::pin::pin!(getting);
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    got = &mut getting => return got,
                    _ = look.tick() => if self.is_left(id) {
                        stop.cancel();
                    },
                }
            }
        };
        // Whatever breaks must not look like a fetch that goes on for ever, and keep all others out.
        let ended = match AssertUnwindSafe(got).catch_unwind().await {
            Ok(got) => got.map_err(|error| Chain(&error).to_string()),
            Err(_) => Err(String::from(
                "it broke off by a defect of this program, which its log tells; what has come stays: fetch again",
            )),
        };
        if let Err(error) = &ended {
            tracing::warn!(%error, "`owm-node models fetch` failed");
        }
        show.send_modify(|picture| picture.ended = Some(ended));
    }

    fn is_left(&self, id: u64) -> bool {
        let now = self.clock.monotonic();
        let current = self.lock();
        current
            .as_ref()
            .is_none_or(|c| c.id != id || now > c.seen + ASKER_GONE)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        // Nothing under this lock can be left half done.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use owm_service::clock::SystemClock;

    use super::*;

    async fn ended(turns: &Turns, id: u64) -> Result<Fetched, String> {
        let mut shown = turns.lock().as_ref().unwrap().shown.clone();
        let waited = shown.wait_for(|picture| picture.ended.is_some());
        let waited = tokio::time::timeout(Duration::from_mins(1), waited).await;
        drop(waited.unwrap().unwrap());
        turns.so_far(id).unwrap().ended.unwrap()
    }

    #[tokio::test]
    async fn a_fetch_that_panics_is_told_and_makes_way_for_the_next_one() {
        let turns = Turns::new(SystemClock::shared());
        let broken = turns.begin(None, |_, _| async { panic!("a defect") });
        let broken = broken.unwrap();
        let told = ended(&turns, broken).await.unwrap_err();
        assert!(told.contains("fetch again"), "{told}");
        let other = Some("owm-v0.4.2".parse().unwrap());
        let next = turns.begin(other, |_, stop| async move {
            stop.cancelled().await;
            Err(GetError::Stopped)
        });
        let next = next.unwrap();
        assert_eq!((next, turns.so_far(broken)), (broken + 1, None));
        turns.end(next);
        ended(&turns, next).await.unwrap_err();
    }
}
