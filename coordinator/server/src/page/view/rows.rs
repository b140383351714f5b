//! One node and one task as rows of their tables.

use owm_coordinator_domain::task::FailureCode;
use owm_coordinator_store::glance::TaskGlance;
use owm_proto::{NodeStatus, UnixMillis};

use super::{
    super::{
        glance::{NodeNow, Where},
        swarm::SwarmNow,
        words,
    },
    Moment, capital,
};

/// Characters of a key or id that people tell apart.
const SHORT: usize = 8;

fn short(text: &str) -> String {
    text.chars().take(SHORT).collect()
}

/// A state with a sign, so that colour is not needed.
pub(super) struct State {
    pub(super) class: &'static str,
    pub(super) sign: &'static str,
    pub(super) word: String,
}

const fn state(class: &'static str, sign: &'static str, word: String) -> State {
    State { class, sign, word }
}

/// A node.
pub(super) struct NodeRow {
    pub(super) key: String,
    pub(super) short: String,
    pub(super) state: State,
    /// Since when it is so; `None`: another coordinator knows.
    pub(super) since: Option<Moment>,
    pub(super) reason: String,
    pub(super) tier: &'static str,
    /// What counts instead while the uptime target is missed.
    pub(super) lowered: Option<&'static str>,
    pub(super) device: &'static str,
    pub(super) backend: String,
    pub(super) software: String,
    pub(super) slots: String,
    pub(super) slots_title: String,
    pub(super) speed: String,
    pub(super) tasks: String,
    pub(super) tasks_title: String,
    pub(super) reliability: String,
    pub(super) uptime: String,
    pub(super) owed: String,
    pub(super) owed_title: String,
    /// By which ways it is heard.
    pub(super) heard: String,
}

impl NodeRow {
    pub(super) fn new(now_at: &NodeNow, swarm: Option<&SwarmNow>, now: UnixMillis) -> Self {
        let node = &now_at.node;
        let key = node.public_key.to_string();
        let (state, since) = standing(now_at);
        let (slots, slots_title) = match now_at.place {
            Where::Here { slots, busy, .. } => (
                format!("{busy} / {slots}"),
                format!("{busy} busy, {} free", slots.saturating_sub(busy)),
            ),
            _ => ("–".to_owned(), "not known".to_owned()),
        };
        Self {
            short: short(&key),
            key,
            state,
            since: since.map(|at| Moment::new(at, now)),
            reason: capital(&node.status_reason),
            tier: node.tier.as_str(),
            lowered: (node.effective_tier != node.tier).then(|| node.effective_tier.as_str()),
            device: if node.cpu_only { "CPU" } else { "GPU" },
            backend: node.backend.clone(),
            software: node.software_version.clone(),
            slots,
            slots_title,
            speed: now_at
                .speed_tenths
                .map_or_else(|| "–".to_owned(), words::tenths),
            tasks: words::grouped(node.tasks_succeeded),
            tasks_title: format!(
                "{} accepted of {} that ended at it",
                words::grouped(node.tasks_succeeded),
                words::grouped(node.tasks_total)
            ),
            reliability: words::percent(node.reliability),
            uptime: words::percent(node.uptime),
            owed: words::grouped(node.earned.floor_sats().0),
            heard: heard(now_at, swarm),
            owed_title: format!("{} msat", words::grouped(node.earned.0)),
        }
    }
}

/// By which ways a node is heard: its session, gossip, both or none.
fn heard(now_at: &NodeNow, swarm: Option<&SwarmNow>) -> String {
    let session = match now_at.place {
        Where::Here { .. } => Some("its session here"),
        Where::Elsewhere => Some("its session at another coordinator"),
        Where::Silent { .. } => None,
    };
    let gossip = swarm.is_some_and(|s| s.heard.contains(&now_at.node.public_key));
    let ways: Vec<&str> = session
        .into_iter()
        .chain(gossip.then_some("gossip"))
        .collect();
    if ways.is_empty() {
        return "by no way lately".to_owned();
    }
    format!("by {}", ways.join(" and by "))
}

/// Standing and session in one word: what an active node does, or why another may not.
fn standing(now_at: &NodeNow) -> (State, Option<UnixMillis>) {
    let word = |text: &str| text.to_owned();
    let since = match now_at.place {
        Where::Here { since, .. } | Where::Silent { since } => Some(since),
        Where::Elsewhere => None,
    };
    let state = match (now_at.node.status, &now_at.place) {
        (NodeStatus::Active, Where::Silent { .. }) => state("down", "✕", word("silent")),
        (NodeStatus::Active, Where::Here { .. }) => state("good", "●", word("connected")),
        (NodeStatus::Active, Where::Elsewhere) => {
            state("good", "●", word("at another coordinator"))
        }
        (NodeStatus::Suspended, _) => state("down", "■", word("suspended")),
        (status, Where::Silent { .. }) => state("down", "✕", format!("{status}, silent")),
        (status, _) => state("degraded", "◐", status.to_string()),
    };
    (state, since)
}

/// Slots of the connected nodes that get work, and leases they work on.
pub(super) fn slots(nodes: &[NodeNow]) -> (u64, u64) {
    let active = nodes.iter().filter(|n| n.node.status == NodeStatus::Active);
    active.fold((0, 0), |(all, taken), n| match n.place {
        Where::Here { slots, busy, .. } => (all + u64::from(slots), taken + u64::from(busy)),
        _ => (all, taken),
    })
}

/// A task.
pub(super) struct TaskRow {
    pub(super) id: String,
    pub(super) short: String,
    pub(super) came: Moment,
    pub(super) state: State,
    pub(super) node: Option<(String, String)>,
    pub(super) model: String,
    pub(super) version: String,
    pub(super) prompt: String,
    pub(super) output: String,
    pub(super) took: String,
    pub(super) attempts: u16,
}

impl TaskRow {
    pub(super) fn new(task: &TaskGlance, now: UnixMillis) -> Self {
        let id = task.task_id.to_string();
        let tokens =
            |n: Option<u32>| n.map_or_else(|| "–".to_owned(), |n| words::grouped(n.into()));
        let node = task.node.as_ref().map(ToString::to_string);
        Self {
            short: short(&id),
            id,
            came: Moment::new(task.submitted_at, now),
            state: phase(task),
            node: node.map(|key| (short(&key), key)),
            model: task.sub_model.clone(),
            version: task.model_version.clone().unwrap_or_default(),
            prompt: tokens(task.prompt_tokens),
            output: tokens(task.output_tokens),
            took: task
                .exec_ms
                .map_or_else(|| "–".to_owned(), words::milliseconds),
            attempts: task.attempts,
        }
    }
}

fn phase(task: &TaskGlance) -> State {
    let word = |text: &str| text.to_owned();
    match task.phase.as_str() {
        "queued" => state("quiet", "○", word("waiting")),
        "leased" => state("busy", "◐", word("being answered")),
        "done" => state("good", "✓", word("answered")),
        "cancelled" => state("quiet", "–", word("cancelled by the asker")),
        _ => {
            let why = match task.failure {
                Some(FailureCode::Timeout) => "failed: no answer in time",
                Some(FailureCode::AttemptsExhausted) => "failed: all attempts used up",
                Some(FailureCode::InputRefused) => "refused: the question was not answerable",
                None => "failed",
            };
            state("down", "✕", word(why))
        }
    }
}
