//! Streamed answers: what both question endpoints share of server-sent events. Each says with a
//! [`Framing`] how its events look; the end is always `data: [DONE]`, or one `data: {"error": …}`.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse as _, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, stream};
use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use super::waiting::{Step, Waiting};
use crate::ask::Answer;

/// A comment goes out at least this often, so that proxies and clients see that the line is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How an endpoint's events look.
pub(super) trait Framing: Send + 'static {
    /// Before anything else.
    fn start(&mut self, waiting: &Waiting) -> Vec<Value>;
    /// More of the answer; `None` if this endpoint has nothing to show of it.
    fn chunk(&mut self, text: String, tokens: Vec<u32>) -> Option<Value>;
    /// The end.
    fn done(&mut self, answer: Answer) -> Vec<Value>;
}

struct State<F> {
    waiting: Waiting,
    framing: F,
    ready: VecDeque<String>,
    ended: bool,
}

impl<F: Framing> State<F> {
    fn push(&mut self, events: impl IntoIterator<Item = Value>) {
        self.ready
            .extend(events.into_iter().map(|event| event.to_string()));
    }

    async fn step(&mut self) {
        match self.waiting.next().await {
            Step::Chunk { text, tokens } => {
                let event = self.framing.chunk(text, tokens);
                self.push(event);
            }
            Step::Done(answer) => {
                let events = self.framing.done(*answer);
                self.push(events);
                self.ready.push_back("[DONE]".to_owned());
                self.ended = true;
            }
            Step::Failed(problem) => {
                self.push([json!({ "error": problem.error_member() })]);
                self.ended = true;
            }
        }
    }
}

fn data<F: Framing>(waiting: Waiting, framing: F) -> impl Stream<Item = String> + Send + 'static {
    let mut state = State {
        waiting,
        framing,
        ready: VecDeque::new(),
        ended: false,
    };
    let start = state.framing.start(&state.waiting);
    state.push(start);
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(text) = state.ready.pop_front() {
                return Some((text, state));
            }
            if state.ended {
                return None;
            }
            state.step().await;
        }
    })
}

/// The answer as a stream of events.
pub(super) fn respond<F: Framing>(waiting: Waiting, framing: F) -> Response {
    use futures::StreamExt as _;
    let events =
        data(waiting, framing).map(|text| Ok::<_, Infallible>(Event::default().data(text)));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("waiting");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold the whole answer back.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}
