//! What is computed here right now and was in the last minute: `roles` tell it, `facts` shows it,
//! `metrics` counts it.
//! Must stay true: counts and times only, never a token or a text; bounded by the slots and one minute.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{metrics::Metrics, tasklog::LeaseKey};

/// Seconds that rates are taken over: long enough to be steady, short enough to see a change.
pub const WINDOW_SECS: u64 = 60;

/// A task under way, as shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningTask {
    /// The task's id, as in the logs; not the request's.
    pub task_id: String,
    /// Which attempt.
    pub epoch: u64,
    /// `inference`, `evaluate`.
    #[serde(default = "inference")]
    pub kind: String,
    /// `owm-v0.1.0`.
    pub model_version: String,
    /// Whether its tokens are sent as they come.
    pub streaming: bool,
    /// Tokens of the prompt, once it is encoded.
    pub prompt_tokens: Option<u32>,
    /// Tokens of the answer so far, without those of a predecessor.
    pub tokens: u32,
    /// Milliseconds since it was accepted.
    pub elapsed_ms: u64,
    /// Tokens of the answer a second since the first of them; 0 before the second. Of other tasks, tokens that
    /// have gone through the model a second.
    pub tokens_per_s: f64,
    /// What is being done, where it is not the computing itself.
    #[serde(default)]
    pub doing: Option<String>,
    /// How far it is, of tasks that know.
    #[serde(default)]
    pub progress: Option<ShownProgress>,
}

/// How far a task is that is no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownProgress {
    /// So many are done.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// Of these: `tokens`, `steps`.
    pub unit: String,
    /// Mean loss so far, or of the last step, in nats per token.
    pub loss: Option<f64>,
    /// Milliseconds that the rest takes at this pace; absent until there is one.
    pub eta_ms: Option<u64>,
}

/// The same, as its task tells it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// So many are done.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// Of these.
    pub unit: &'static str,
    /// Tokens that have gone through the model.
    pub tokens: u64,
    /// In nats per token, once there is one.
    pub loss: Option<f64>,
}

fn inference() -> String {
    "inference".to_owned()
}

/// Tokens a second in the last [`WINDOW_SECS`], idle time included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Of prompts.
    pub prompt_per_s: f64,
    /// Of answers.
    pub output_per_s: f64,
}

/// Since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Seconds from a prompt's encoding to the first token of its answer.
    pub prompt_secs: f64,
    /// Seconds from the first token of an answer to its end.
    pub generation_secs: f64,
}

/// All of it at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Tasks under way, oldest first.
    pub running: Vec<RunningTask>,
    /// In the last minute.
    pub rates: Rates,
    /// Since the start.
    pub totals: Totals,
}

#[derive(Debug)]
struct Run {
    kind: &'static str,
    model_version: String,
    streaming: bool,
    started: Duration,
    prompt: Option<(u32, Duration)>,
    first: Option<Duration>,
    last: Duration,
    tokens: u32,
    doing: Option<String>,
    /// The newest, and when the first came that it is counted from.
    progress: Option<(Progress, Progress, Duration)>,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<LeaseKey, Run>,
    /// (second, tokens of prompts, tokens of answers), oldest first.
    seconds: VecDeque<(u64, u64, u64)>,
    totals: Totals,
}

/// Shared by the jobs and whoever shows them. Cheap to clone. Times are the daemon's monotonic clock.
#[derive(Clone, Debug)]
pub struct Activity {
    state: Arc<Mutex<State>>,
    metrics: Metrics,
}

impl Activity {
    /// Nothing runs yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            state: Arc::default(),
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer begins.
    pub fn started(&self, key: LeaseKey, model_version: &str, streaming: bool, now: Duration) {
        self.begin(key, "inference", model_version, streaming, now);
    }

    /// A task of another kind begins.
    pub fn begun(&self, key: LeaseKey, kind: &'static str, model_version: &str, now: Duration) {
        self.begin(key, kind, model_version, false, now);
    }

    /// It does something that is not counted.
    pub fn doing(&self, key: LeaseKey, what: &str, now: Duration) {
        if let Some(run) = self.lock().running.get_mut(&key) {
            run.doing = Some(what.to_owned());
            run.last = now;
        }
    }

    /// It is so far.
    pub fn progressed(&self, key: LeaseKey, progress: Progress, now: Duration) {
        if let Some(run) = self.lock().running.get_mut(&key) {
            let (first, since) = run
                .progress
                .map_or((progress, now), |(_, first, since)| (first, since));
            run.progress = Some((progress, first, since));
            run.doing = None;
            run.last = now;
        }
    }

    fn begin(
        &self,
        key: LeaseKey,
        kind: &'static str,
        model_version: &str,
        streaming: bool,
        now: Duration,
    ) {
        let run = Run {
            kind,
            model_version: model_version.to_owned(),
            streaming,
            started: now,
            prompt: None,
            first: None,
            last: now,
            tokens: 0,
            doing: None,
            progress: None,
        };
        self.lock().running.insert(key, run);
    }

    /// Its prompt is encoded.
    pub fn prompted(&self, key: LeaseKey, tokens: u32, now: Duration) {
        if let Some(run) = self.lock().running.get_mut(&key) {
            run.prompt = Some((tokens, now));
        }
    }

    /// A token of its answer came out.
    pub fn token(&self, key: LeaseKey, now: Duration) {
        let mut state = self.lock();
        let Some(run) = state.running.get_mut(&key) else {
            return;
        };
        run.tokens += 1;
        run.last = now;
        let mut prompt_tokens = 0;
        let mut prompt_time = Duration::ZERO;
        if run.first.is_none() {
            run.first = Some(now);
            if let Some((tokens, at)) = run.prompt {
                (prompt_tokens, prompt_time) = (u64::from(tokens), now.saturating_sub(at));
            }
        }
        state.totals.prompt_tokens += prompt_tokens;
        state.totals.output_tokens += 1;
        state.totals.prompt_secs += prompt_time.as_secs_f64();
        state.count(prompt_tokens, 1, now);
        drop(state);
        if prompt_tokens > 0 {
            self.metrics.tokens_of("prompt").inc_by(prompt_tokens);
            self.metrics
                .prompt_seconds
                .inc_by(prompt_time.as_secs_f64());
        }
        self.metrics.tokens_of("output").inc();
    }

    /// A task is over, however it ended.
    pub fn ended(&self, key: LeaseKey) {
        let mut state = self.lock();
        let Some(run) = state.running.remove(&key) else {
            return;
        };
        let generation = run.last.saturating_sub(run.first.unwrap_or(run.last));
        state.totals.generation_secs += generation.as_secs_f64();
        drop(state);
        self.metrics
            .generation_seconds
            .inc_by(generation.as_secs_f64());
    }

    /// The picture at `now`.
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let mut state = self.lock();
        state.forget_old(now);
        let sum = |pick: fn(&(u64, u64, u64)) -> u64| -> f64 {
            let tokens: u64 = state.seconds.iter().map(pick).sum();
            tokens as f64 / WINDOW_SECS as f64
        };
        let mut running: Vec<_> = state
            .running
            .iter()
            .map(|(key, run)| (run.started, run.shown(*key, now)))
            .collect();
        running.sort_by_key(|(started, _)| *started);
        Snapshot {
            rates: Rates {
                prompt_per_s: sum(|second| second.1),
                output_per_s: sum(|second| second.2),
            },
            running: running.into_iter().map(|(_, shown)| shown).collect(),
            totals: state.totals,
        }
    }
}

impl State {
    fn count(&mut self, prompt: u64, output: u64, now: Duration) {
        match self.seconds.back_mut() {
            Some(last) if last.0 == now.as_secs() => {
                last.1 += prompt;
                last.2 += output;
            }
            _ => self.seconds.push_back((now.as_secs(), prompt, output)),
        }
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: Duration) {
        let kept = |second: u64| second + WINDOW_SECS > now.as_secs();
        while self.seconds.front().is_some_and(|first| !kept(first.0)) {
            self.seconds.pop_front();
        }
    }
}

impl Run {
    fn shown(&self, key: LeaseKey, now: Duration) -> RunningTask {
        let generating = self.last.saturating_sub(self.first.unwrap_or(self.last));
        // The first token belongs to the prompt: n tokens are n - 1 steps.
        let steps = f64::from(self.tokens.saturating_sub(1));
        let tokens_per_s = if generating.is_zero() {
            0.0
        } else {
            steps / generating.as_secs_f64()
        };
        let (progress, pace) = self.progress.map_or((None, None), |(now, first, since)| {
            let (shown, pace) = now.shown(first, self.last.saturating_sub(since));
            (Some(shown), Some(pace))
        });
        RunningTask {
            task_id: key.task.to_string(),
            epoch: key.epoch,
            kind: self.kind.to_owned(),
            doing: self.doing.clone(),
            progress,
            model_version: self.model_version.clone(),
            streaming: self.streaming,
            prompt_tokens: self.prompt.map(|(tokens, _)| tokens),
            tokens: self.tokens,
            elapsed_ms: now.saturating_sub(self.started).as_millis() as u64,
            tokens_per_s: pace.unwrap_or(tokens_per_s),
        }
    }
}

impl RunningTask {
    /// What it is and how far, in a few words.
    pub fn about(&self) -> String {
        if let Some(doing) = &self.doing {
            return format!("{}: {doing}", self.kind);
        }
        let Some(progress) = &self.progress else {
            return match (self.kind.as_str(), self.streaming) {
                ("inference", true) => "answer, streamed".to_owned(),
                ("inference", false) => "answer".to_owned(),
                (kind, _) => kind.to_owned(),
            };
        };
        let percent = progress.done * 100 / progress.of.max(1);
        let mut text = format!("{} {percent} %", self.kind);
        if progress.unit != "tokens" {
            text = format!(
                "{text}, {} {} of {}",
                progress.unit, progress.done, progress.of
            );
        }
        if let Some(loss) = progress.loss {
            text = format!("{text}, loss {loss:.3}");
        }
        if let Some(eta) = progress.eta_ms {
            text = format!("{text}, {} s left", eta.div_ceil(1_000));
        }
        text
    }
}

impl Progress {
    /// As it is shown, and tokens a second, `took` after the first was told.
    fn shown(self, first: Self, took: Duration) -> (ShownProgress, f64) {
        let secs = took.as_secs_f64();
        let done = self.done.saturating_sub(first.done) as f64;
        let left = self.of.saturating_sub(self.done) as f64;
        let shown = ShownProgress {
            done: self.done,
            of: self.of,
            unit: self.unit.to_owned(),
            loss: self.loss.filter(|loss| loss.is_finite()),
            eta_ms: (done > 0.0).then(|| (secs / done * left * 1_000.0) as u64),
        };
        let tokens = self.tokens.saturating_sub(first.tokens) as f64;
        (shown, if secs > 0.0 { tokens / secs } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::TaskId;
    use owm_service::metrics::Registry;

    use super::*;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn key(n: u8) -> LeaseKey {
        LeaseKey {
            task: TaskId::from_random([n; 16]),
            epoch: 1,
        }
    }

    #[test]
    fn a_task_is_shown_while_it_runs_and_counted_when_it_ends() {
        let registry = Registry::new();
        let activity = Activity::new(Metrics::new(&registry));
        activity.started(key(1), "owm-v0.1.0", true, at(10));
        activity.started(key(2), "owm-v0.1.0", false, at(9));
        activity.prompted(key(1), 30, at(11));
        for n in 0..5 {
            activity.token(key(1), at(13 + n));
        }
        let shown = activity.snapshot(at(20));
        assert_eq!(shown.running.len(), 2);
        assert_eq!(shown.running[0].tokens, 0, "oldest first");
        let task = &shown.running[1];
        assert_eq!((task.tokens, task.prompt_tokens), (5, Some(30)));
        assert_eq!((task.elapsed_ms, task.streaming), (10_000, true));
        // Four steps in four seconds.
        assert!((task.tokens_per_s - 1.0).abs() < 1e-9, "{task:?}");
        activity.ended(key(1));
        activity.ended(key(2));
        let shown = activity.snapshot(at(21));
        assert!(shown.running.is_empty());
        assert_eq!(
            (shown.totals.prompt_tokens, shown.totals.output_tokens),
            (30, 5)
        );
        assert!((shown.totals.prompt_secs - 2.0).abs() < 1e-9);
        assert!((shown.totals.generation_secs - 4.0).abs() < 1e-9);
        let text = registry.encode();
        for line in [
            "owm_node_tokens_total{kind=\"prompt\"} 30",
            "owm_node_tokens_total{kind=\"output\"} 5",
            "owm_node_generation_seconds_total 4.0",
            "owm_node_prompt_seconds_total 2.0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn a_task_that_is_no_answer_shows_how_far_it_is_and_when_it_ends() {
        let activity = Activity::new(Metrics::new(&Registry::new()));
        let shown = |now| activity.snapshot(at(now)).running.remove(0);
        activity.begun(key(1), "evaluate", "owm-v0.1.0", at(0));
        activity.doing(key(1), "reading", at(1));
        assert_eq!(shown(2).doing.as_deref(), Some("reading"));
        assert_eq!(
            (shown(2).kind.as_str(), shown(2).progress),
            ("evaluate", None)
        );
        let progress = |done, loss| Progress {
            done,
            of: 1_000,
            unit: "tokens",
            tokens: done,
            loss,
        };
        activity.progressed(key(1), progress(0, None), at(10));
        assert_eq!(shown(10).progress.unwrap().eta_ms, None);
        activity.progressed(key(1), progress(200, Some(2.5)), at(14));
        let task = shown(15);
        let told = task.progress.unwrap();
        assert_eq!((told.done, told.of, told.loss), (200, 1_000, Some(2.5)));
        assert_eq!((told.eta_ms, task.tokens_per_s), (Some(16_000), 50.0));
        assert_eq!(task.doing, None);
        assert_eq!(shown(15).about(), "evaluate 20 %, loss 2.500, 16 s left");
    }

    #[test]
    fn rates_forget_what_is_older_than_a_minute() {
        let activity = Activity::new(Metrics::new(&Registry::new()));
        activity.started(key(1), "owm-v0.1.0", true, at(0));
        activity.prompted(key(1), 60, at(0));
        for n in 0..120 {
            activity.token(key(1), at(n / 2));
        }
        let rates = activity.snapshot(at(59)).rates;
        assert_eq!((rates.prompt_per_s, rates.output_per_s), (1.0, 2.0));
        let rates = activity.snapshot(at(89)).rates;
        assert_eq!((rates.prompt_per_s, rates.output_per_s), (0.0, 1.0));
        assert_eq!(activity.snapshot(at(200)).rates, Rates::default());
    }

    #[test]
    fn what_was_never_started_is_ignored() {
        let activity = Activity::new(Metrics::new(&Registry::new()));
        activity.token(key(3), at(1));
        activity.ended(key(3));
        assert_eq!(activity.snapshot(at(2)), Snapshot::default());
    }
}
