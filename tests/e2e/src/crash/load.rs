//! Askers: each with an API key of its own, one question after the other, whole and streamed in turn.
//! They note every id the moment they hear it, and what they saw of the answer.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use owm_devnet::{Devnet, api::Api, process::POLL};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Askers at work: more than the network has slots, so that some questions always wait.
const ASKERS: u64 = 6;
/// Between two questions of one asker: an API key is allowed five a second.
const PAUSE: Duration = Duration::from_millis(220);

/// A question whose id its asker heard.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The capability.
    pub id: String,
    /// What was asked.
    pub body: Value,
    /// Who may read the answer.
    pub api: Api,
    /// What was streamed of it before the stream ended or broke.
    pub streamed: String,
    /// The whole answer, where it arrived.
    pub answer: Option<Value>,
}

/// What all askers know together.
#[derive(Debug, Default)]
struct Notes {
    asked: Mutex<Vec<Asked>>,
    count: AtomicU64,
    unheard: AtomicU64,
    stop: AtomicBool,
}

impl Notes {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Asked>) -> T) -> T {
        f(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An id has been heard; its place in the list.
    fn heard(&self, api: &Api, body: &Value, id: &str) -> usize {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.with(|asked| {
            asked.push(Asked {
                id: id.to_owned(),
                body: body.clone(),
                api: api.clone(),
                streamed: String::new(),
                answer: None,
            });
            asked.len() - 1
        })
    }
}

/// The askers.
#[derive(Debug)]
pub struct Load {
    notes: Arc<Notes>,
    askers: JoinSet<()>,
}

/// What the askers know at the end.
#[derive(Debug)]
pub struct Questions {
    /// Ids that were heard.
    pub asked: Vec<Asked>,
    /// Questions that were turned away, or whose connection broke before an id was heard.
    pub unheard: u64,
}

impl Load {
    /// Sets them to work.
    pub async fn start(net: &mut Devnet) -> Result<Self> {
        let notes = Arc::new(Notes::default());
        let mut askers = JoinSet::new();
        for number in 0..ASKERS {
            let name = format!("asker-{number}");
            let printed = net
                .coordinator()
                .command(&["api-key", "create", &name])
                .await?;
            let key = printed.lines().next().context("no API key was printed")?;
            let api = net.api().with_key(key);
            askers.spawn(work(api, number, notes.clone()));
        }
        Ok(Self { notes, askers })
    }

    /// Ids heard so far.
    pub fn asked(&self) -> u64 {
        self.notes.count.load(Ordering::Relaxed)
    }

    /// Waits until `more` ids have been heard.
    pub async fn until_asked(&self, more: u64, patience: Duration) -> Result<()> {
        let (wanted, start) = (self.asked() + more, Instant::now());
        while self.asked() < wanted {
            if start.elapsed() > patience {
                bail!("no question was taken for {} s", patience.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Lets every asker finish what it has begun.
    pub async fn stop(self) -> Result<Questions> {
        self.notes.stop.store(true, Ordering::Relaxed);
        let mut askers = self.askers;
        while let Some(ended) = askers.join_next().await {
            ended.context("an asker panicked")?;
        }
        Ok(Questions {
            asked: self.notes.with(std::mem::take),
            unheard: self.notes.unheard.load(Ordering::Relaxed),
        })
    }
}

async fn work(api: Api, number: u64, notes: Arc<Notes>) {
    let mut question = number * 1_000_000;
    while !notes.stop.load(Ordering::Relaxed) {
        question += 1;
        let body = json!({
            "query": format!("Question {question}: what is left after a crash?"),
            "max_tokens": 16 + question % 48,
            "seed": question,
            "stream": !question.is_multiple_of(3),
        });
        let done = if question.is_multiple_of(3) {
            whole(&api, &body, &notes).await
        } else {
            streamed(&api, &body, &notes).await
        };
        if done.is_err() {
            notes.unheard.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An error: no id was heard.
async fn whole(api: &Api, body: &Value, notes: &Notes) -> Result<()> {
    let answer = api.query_with(body).await?;
    let id = answer["request_id"]
        .as_str()
        .context("an answer without an id")?;
    let at = notes.heard(api, body, id);
    notes.with(|asked| asked[at].answer = Some(answer));
    Ok(())
}

/// An error: no id was heard. A stream that breaks later is none.
async fn streamed(api: &Api, body: &Value, notes: &Notes) -> Result<()> {
    let mut events = api.stream("/v1/query", body).await?;
    let mut place = None;
    loop {
        let event = match (events.next().await, place) {
            (Ok(Some(event)), _) if event.data != "[DONE]" => event,
            (Ok(_) | Err(_), Some(_)) => return Ok(()),
            (Ok(_), None) => bail!("the stream ended before it began"),
            (Err(error), None) => return Err(error),
        };
        let said: Value = serde_json::from_str(&event.data)?;
        match (said["type"].as_str(), place) {
            (Some("start"), None) => {
                let id = said["request_id"].as_str();
                place = Some(notes.heard(api, body, id.context("a start without an id")?));
            }
            (Some("token"), Some(at)) => {
                let text = said["text"].as_str().unwrap_or_default();
                notes.with(|asked| asked[at].streamed.push_str(text));
            }
            (Some("done"), Some(at)) => notes.with(|asked| asked[at].answer = Some(said)),
            // An error event: the request's own state says what became of it.
            (_, Some(_)) => {}
            (_, None) => bail!("the stream began with {said}"),
        }
    }
}
