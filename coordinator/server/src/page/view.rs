//! What the templates are given, and the templates (`coordinator/server/templates`). Pure: a [`Glance`]
//! and a clock's value in, HTML out. askama escapes every text; nothing here is marked as safe but
//! the page's own inside.

use askama::Template;
use owm_coordinator_domain::network::{Level, Verdict};
use owm_proto::{UnixMillis, manifest::ManifestFile};

use super::{feed::sign, glance::Glance, swarm::SwarmWords, words};
use crate::app::App;

mod rows;

use rows::{NodeRow, TaskRow};

/// Stands for the base URL in what is made once for all viewers; [`for_viewer`] puts theirs in.
const BASE: &str = "http://owm-base.invalid";

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) network: String,
    pub(super) network_id: String,
    pub(super) chain: String,
    pub(super) stake_policy: &'static str,
    /// Whether questions need an API key.
    pub(super) needs_key: bool,
    pub(super) started_at: UnixMillis,
}

impl About {
    pub(super) fn of(app: &App, started_at: UnixMillis) -> Self {
        let statements = app.authority.statements();
        let trust = &statements.trust;
        Self {
            network: trust.genesis().name.clone(),
            network_id: trust.id().to_string(),
            chain: trust.genesis().bitcoin_chain.clone(),
            stake_policy: app.stake_policy_str(),
            needs_key: !app.config.api.open,
            started_at,
        }
    }
}

/// An instant in words for people and machines.
struct Moment {
    machine: String,
    text: String,
    span: String,
}

impl Moment {
    fn new(at: UnixMillis, now: UnixMillis) -> Self {
        Self {
            machine: words::machine_time(at),
            text: words::clock(at, now),
            span: words::span(now.since(at)),
        }
    }
}

/// The verdict in words.
struct Judged {
    class: &'static str,
    sign: &'static str,
    word: &'static str,
    reasons: Vec<(String, &'static str)>,
}

impl Judged {
    fn new(verdict: &Verdict, now: UnixMillis) -> Self {
        let sentence = |(text, todo): (String, &'static str)| (capital(&text), todo);
        Self {
            class: class(verdict.level),
            sign: sign(verdict.level),
            word: words::level(verdict.level),
            reasons: verdict
                .reasons
                .iter()
                .map(|reason| sentence(words::reason(reason, now)))
                .collect(),
        }
    }
}

const fn class(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Degraded => "degraded",
        Level::Down => "down",
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// A figure that is seen first.
struct Tile {
    label: &'static str,
    value: String,
    unit: String,
    note: String,
}

/// A weights file.
struct FileRow {
    name: String,
    size: String,
    bytes: String,
    sha256: String,
}

impl FileRow {
    fn new(file: &ManifestFile) -> Self {
        Self {
            name: file.name.clone(),
            size: words::size(file.size),
            bytes: words::grouped(file.size),
            sha256: file.sha256.to_string(),
        }
    }
}

/// Sub-models that run on the same weights.
struct ModelCard {
    /// With whether it is what a question gets that names none.
    sub_models: Vec<(String, bool)>,
    holders: String,
    is_held: bool,
    files: Vec<FileRow>,
}

/// The current version.
struct ModelView {
    version: String,
    published: Moment,
    note: String,
    btc_block: Option<u32>,
    cards: Vec<ModelCard>,
}

/// All that a look has found.
struct Seen {
    as_of: Moment,
    tiles: Vec<Tile>,
    nodes: Vec<NodeRow>,
    nodes_note: String,
    model: Option<ModelView>,
    tasks: Vec<TaskRow>,
    swarm: Option<SwarmWords>,
}

#[derive(Template)]
#[template(path = "live.html")]
struct Live<'a> {
    base: &'static str,
    title: String,
    verdict: Judged,
    /// The time of the figures while there are no newer ones.
    stale: Option<String>,
    seen: Option<Seen>,
    about: &'a About,
    software: &'static str,
    started: Moment,
}

/// The inside of `<main>`; `instead` is the verdict while there is no newer look than `glance`.
pub(super) fn live(
    glance: Option<&Glance>,
    instead: Option<&Verdict>,
    about: &About,
    now: UnixMillis,
) -> String {
    let verdict = instead.or(glance.map(|g| &g.verdict));
    let verdict = verdict.expect("without a look there is a verdict instead");
    let stale = glance.filter(|_| instead.is_some());
    let live = Live {
        base: BASE,
        title: title(verdict.level, &about.network),
        verdict: Judged::new(verdict, now),
        stale: stale.map(|g| words::clock_to_the_second(g.taken_at)),
        seen: glance.map(|glance| Seen::new(glance, now)),
        about,
        software: concat!("owm-coordinator ", env!("CARGO_PKG_VERSION")),
        started: Moment::new(about.started_at, now),
    };
    // The event stream's lines end where these do.
    live.render()
        .expect("writing into a string does not fail")
        .replace('\r', "")
}

/// The window's title.
pub(super) fn title(level: Level, network: &str) -> String {
    format!("{} {} · {network} · OWM", sign(level), words::level(level))
}

/// `html` with the viewer's base URL, which `api::page` has checked to hold nothing but a host.
pub(crate) fn for_viewer(html: &str, base: &str) -> String {
    html.replace(BASE, base)
}

/// The whole page around its inside.
#[derive(Debug, Template)]
#[template(path = "page.html")]
pub(crate) struct Shell<'a> {
    /// The window's title.
    pub(crate) title: &'a str,
    /// The network's name.
    pub(crate) network: &'a str,
    /// The inside of `<main>`, made by [`live`].
    pub(crate) live: &'a str,
    /// Own style.
    pub(crate) style: &'a super::assets::Asset,
    /// Own icon.
    pub(crate) icon: &'a super::assets::Asset,
    /// Scripts in order.
    pub(crate) scripts: &'a [&'a super::assets::Asset],
}

impl Seen {
    fn new(glance: &Glance, now: UnixMillis) -> Self {
        Self {
            as_of: Moment::new(glance.taken_at, now),
            tiles: tiles(glance, now),
            nodes: glance
                .nodes
                .iter()
                .map(|n| NodeRow::new(n, glance.swarm.as_ref(), now))
                .collect(),
            nodes_note: nodes_note(glance),
            model: model(glance, now),
            tasks: glance.tasks.iter().map(|t| TaskRow::new(t, now)).collect(),
            swarm: glance.swarm.as_ref().map(SwarmWords::new),
        }
    }
}

fn tiles(glance: &Glance, now: UnixMillis) -> Vec<Tile> {
    let counts = &glance.counts;
    let (done, failed) = (counts.tasks_done, counts.tasks_failed);
    let (running, queued) = (counts.tasks_running, counts.tasks_queued);
    let asked = done + failed + running + queued;
    let waiting = match glance.oldest_queued {
        Some(at) if queued > 0 => format!(
            "{} waiting, the longest for {}",
            words::grouped(queued),
            words::wait(now.since(at))
        ),
        _ => format!("{} waiting", words::grouped(queued)),
    };
    let (slots, busy) = rows::slots(&glance.nodes);
    let model = glance.model.as_ref().map(|version| &version.manifest);
    vec![
        Tile {
            label: "Nodes connected",
            value: words::grouped(glance.nodes_connected),
            unit: format!("of {}", words::grouped(glance.nodes_expected)),
            note: format!("{}, {busy} busy", words::count(slots, "slot", "slots")),
        },
        Tile {
            label: "Model",
            value: model.map_or_else(|| "none".to_owned(), |m| m.version.to_string()),
            unit: String::new(),
            note: model.map_or_else(|| "nothing is published yet".to_owned(), |m| m.note.clone()),
        },
        Tile {
            label: "Questions answered",
            value: words::grouped(done),
            unit: format!("of {} asked", words::grouped(asked)),
            note: format!(
                "{} failed, {} being answered, {waiting}{}",
                words::grouped(failed),
                words::grouped(running),
                if counts.counting {
                    "; older questions are still being counted"
                } else {
                    ""
                }
            ),
        },
        Tile {
            label: "Owed to nodes",
            value: words::grouped(glance.owed.floor_sats().0),
            unit: "sats".to_owned(),
            note: format!(
                "booked for {}; nothing has been paid yet",
                words::count(counts.output_tokens, "token", "tokens")
            ),
        },
    ]
}

fn nodes_note(glance: &Glance) -> String {
    let mut notes = vec![];
    if glance.nodes_unlisted > 0 {
        notes.push(format!(
            "{} more are not listed here",
            words::grouped(glance.nodes_unlisted)
        ));
    }
    if glance.nodes_away > 0 {
        let away = words::count(glance.nodes_away, "node has", "nodes have");
        notes.push(format!("{away} not been heard of for more than a day"));
    }
    notes.join("; ")
}

fn model(glance: &Glance, now: UnixMillis) -> Option<ModelView> {
    let version = glance.model.as_ref()?;
    let manifest = &version.manifest;
    let default = manifest.default_sub_model.to_string();
    let cards = glance.holdings.iter().map(|holding| {
        let files = manifest.files.iter();
        let files = files.filter(|f| f.is_weights() && holding.weights.contains(&f.sha256));
        ModelCard {
            sub_models: holding
                .sub_models
                .iter()
                .map(|id| (id.clone(), *id == default))
                .collect(),
            holders: match holding.holders {
                0 => "no node holds it".to_owned(),
                n => words::count(n, "node holds it", "nodes hold it"),
            },
            is_held: holding.holders > 0,
            files: files.map(FileRow::new).collect(),
        }
    });
    Some(ModelView {
        version: manifest.version.to_string(),
        published: Moment::new(version.created_at, now),
        note: capital(&manifest.note),
        btc_block: version.btc_block,
        cards: cards.collect(),
    })
}

#[cfg(test)]
mod tests;
