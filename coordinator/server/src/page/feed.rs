//! The page as it is now, made at most once a second for all who look, and the news for those who keep
//! looking. Called by `api::page` for each request and by `serve` ([`run`]).
//!
//! Must stay true: one look at the database at a time, whoever asks; viewers are told only of changes;
//! their number is bounded; all of them are let go when the coordinator stops.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use owm_coordinator_domain::network::{Level, Verdict};
use owm_proto::UnixMillis;
use owm_service::CancellationToken;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    glance::{self, Glance},
    view::{self, About},
};
use crate::app::App;

/// How long a look is good enough, and how often viewers may be told.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// A database that takes longer is away, as far as a page is concerned: who waits longer thinks that
/// the page is broken.
const PATIENCE: Duration = Duration::from_secs(3);

/// Viewers at once. Each may be sent the whole page (some 30 kB) every second.
pub(crate) const VIEWERS_MAX: usize = 64;

/// Of these from one address (IPv6: one /64), so that one cannot shut all others out. Loopback counts only in
/// total: behind a proxy everybody is loopback.
const VIEWERS_PER_ADDRESS: usize = 8;

/// The page as it was made last.
#[derive(Debug)]
pub(crate) struct Rendered {
    /// What changes: the inside of `<main>`. `view::BASE` stands for the base URL.
    pub(crate) html: Arc<str>,
    /// For the window's title.
    pub(crate) title: String,
    /// Whether the database answered.
    pub(crate) ok: bool,
    made: Instant,
}

/// What viewers are told.
#[derive(Clone, Debug)]
enum News {
    Html(Arc<str>),
    End,
}

#[derive(Debug)]
struct State {
    last: Option<Arc<Rendered>>,
    /// The last look that succeeded: shown, with its time, while the database is away.
    seen: Option<Glance>,
    away_since: Option<UnixMillis>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    news: watch::Sender<News>,
    viewers: Arc<Semaphore>,
    /// Viewers by address; those that have none are not in it.
    by_address: StdMutex<HashMap<IpAddr, usize>>,
    started_at: UnixMillis,
}

/// The page's maker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Inner>);

/// One who keeps looking. Dropped, another may.
#[derive(Debug)]
pub struct Viewer {
    news: watch::Receiver<News>,
    first: bool,
    _place: OwnedSemaphorePermit,
    _share: Option<Share>,
}

/// A place among those of one address.
#[derive(Debug)]
struct Share {
    feed: Feed,
    address: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.feed.shares();
        if let Some(count) = shares.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                shares.remove(&self.address);
            }
        }
    }
}

impl Feed {
    /// Nobody looks yet; `started_at` is shown as the coordinator's start.
    pub fn new(started_at: UnixMillis) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                last: None,
                seen: None,
                away_since: None,
            }),
            news: watch::Sender::new(News::Html("".into())),
            viewers: Arc::new(Semaphore::new(VIEWERS_MAX)),
            by_address: StdMutex::default(),
            started_at,
        }))
    }

    /// The page, at most a second old. Tells the viewers if it has changed.
    pub(crate) async fn current(&self, app: &App) -> Arc<Rendered> {
        // Held while looking: those who come meanwhile wait for the same page.
        let mut state = self.0.state.lock().await;
        if let Some(last) = &state.last
            && last.made.elapsed() < FRESH_FOR
        {
            return last.clone();
        }
        let looked = match tokio::time::timeout(PATIENCE, glance::take(app)).await {
            Ok(Ok(glance)) => Ok(glance),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the database is slow".to_owned()),
        };
        // Once per outage, not once a second.
        match (&looked, state.away_since) {
            (Err(error), None) => tracing::warn!(error, "the public page has nothing new to show"),
            (Ok(_), Some(_)) => tracing::info!("the public page is fresh again"),
            _ => {}
        }
        let looked = looked.ok();
        let rendered = Arc::new(self.render(app, &mut state, looked));
        state.last = Some(rendered.clone());
        self.tell(rendered.html.clone());
        rendered
    }

    /// Tells the viewers, if it is news.
    fn tell(&self, html: Arc<str>) {
        self.0.news.send_if_modified(|news| match news {
            News::Html(old) if *old != html => {
                *old = html;
                true
            }
            News::Html(_) | News::End => false,
        });
    }

    fn render(&self, app: &App, state: &mut State, looked: Option<Glance>) -> Rendered {
        let about = About::of(app, self.0.started_at);
        let now = app.now();
        let ok = looked.is_some();
        let (level, html) = if let Some(glance) = looked {
            state.away_since = None;
            let glance = state.seen.insert(glance);
            let html = view::live(Some(glance), None, &about, now);
            (glance.verdict.level, html)
        } else {
            let since = *state.away_since.get_or_insert(now);
            let verdict = Verdict::database_away(since);
            let html = view::live(state.seen.as_ref(), Some(&verdict), &about, now);
            (verdict.level, html)
        };
        Rendered {
            html: html.into(),
            title: view::title(level, &about.network),
            ok,
            made: Instant::now(),
        }
    }

    /// A place among the viewers for somebody at this address; `None`: all are taken, or all that one
    /// address may have, or the coordinator stops.
    pub fn viewer(&self, from: Option<IpAddr>) -> Option<Viewer> {
        let place = self.0.viewers.clone().try_acquire_owned().ok()?;
        let share = match from.and_then(counted_as) {
            Some(address) => Some(self.share(address)?),
            None => None,
        };
        Some(Viewer {
            news: self.0.news.subscribe(),
            first: true,
            _place: place,
            _share: share,
        })
    }

    fn share(&self, address: IpAddr) -> Option<Share> {
        let mut shares = self.shares();
        let count = shares.entry(address).or_default();
        if *count >= VIEWERS_PER_ADDRESS {
            return None;
        }
        *count += 1;
        let feed = self.clone();
        Some(Share { feed, address })
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let shares = self.0.by_address.lock();
        shares.unwrap_or_else(PoisonError::into_inner)
    }

    /// How many keep looking.
    fn viewers(&self) -> usize {
        self.0.news.receiver_count()
    }

    fn end(&self) {
        self.0.viewers.close();
        self.0.news.send_replace(News::End);
    }
}

impl Viewer {
    /// What `<main>` is to hold: at once, then whenever it has changed; `None` at the end.
    pub(crate) async fn next(&mut self, app: &App) -> Option<Arc<str>> {
        if std::mem::take(&mut self.first) {
            app.page.current(app).await;
        } else {
            self.news.changed().await.ok()?;
        }
        match &*self.news.borrow_and_update() {
            News::Html(html) => Some(html.clone()),
            News::End => None,
        }
    }
}

/// What an address counts as: its /64 if it is IPv6; `None`: only in total.
fn counted_as(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V4(v4) => Some(v4.into()),
        IpAddr::V6(v6) => {
            let network = v6.to_bits() >> 64 << 64;
            Some(Ipv6Addr::from_bits(network).into())
        }
    }
}

/// Makes the page anew every second while somebody looks, until `stop`; then lets all viewers go.
pub async fn run(app: App, stop: CancellationToken) -> Result<(), Infallible> {
    let mut seconds = tokio::time::interval(FRESH_FOR);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = seconds.tick() => {}
        }
        if app.page.viewers() == 0 {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            _ = app.page.current(&app) => {}
        }
    }
    app.page.end();
    Ok(())
}

/// What the page's title begins with: a sign that is told apart without colour.
pub(super) const fn sign(level: Level) -> &'static str {
    match level {
        Level::Good => "✓",
        Level::Degraded => "▲",
        Level::Down => "✕",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_are_told_of_changes_only_and_of_the_end() {
        let feed = Feed::new(UnixMillis(0));
        let mut viewer = feed.viewer(None).unwrap();
        feed.tell("a".into());
        assert!(viewer.news.has_changed().unwrap());
        viewer.news.mark_unchanged();
        feed.tell("a".into());
        assert!(!viewer.news.has_changed().unwrap(), "nothing is new");
        feed.tell("b".into());
        assert!(viewer.news.has_changed().unwrap());
        feed.end();
        feed.tell("c".into());
        assert!(matches!(*viewer.news.borrow(), News::End));
        assert!(
            feed.viewer(None).is_none(),
            "nobody is let in after the end"
        );
    }

    #[test]
    fn places_are_few_and_are_given_back() {
        let feed = Feed::new(UnixMillis(0));
        let mut all: Vec<Viewer> = (0..VIEWERS_MAX)
            .map(|_| feed.viewer(None).unwrap())
            .collect();
        assert!(feed.viewer(None).is_none());
        all.pop();
        assert!(feed.viewer(None).is_some());
    }

    #[test]
    fn one_address_has_a_few_places_and_a_proxy_all() {
        let feed = Feed::new(UnixMillis(0));
        let from = |address: &str| feed.viewer(Some(address.parse().unwrap()));
        let mut some: Vec<Viewer> = std::iter::from_fn(|| from("192.0.2.1")).collect();
        assert_eq!(some.len(), VIEWERS_PER_ADDRESS);
        assert!(
            from("::ffff:192.0.2.1").is_none(),
            "the same in other words"
        );
        some.pop();
        some.push(from("192.0.2.1").expect("a place was given back"));
        let network: Vec<Viewer> = (0..20)
            .filter_map(|n| from(&format!("2001:db8::{n:x}")))
            .collect();
        assert_eq!(network.len(), VIEWERS_PER_ADDRESS, "a /64 is one");
        assert!(from("192.0.2.2").is_some() && from("2001:db8:0:1::1").is_some());
        drop((some, network));
        assert!(
            feed.shares().is_empty(),
            "nothing is remembered of who is gone"
        );
        let proxy: Vec<Viewer> = std::iter::from_fn(|| from("127.0.0.1")).collect();
        assert_eq!(proxy.len(), VIEWERS_MAX);
    }
}
