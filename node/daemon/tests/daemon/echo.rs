//! An engine that answers `echo: <question>`, a byte a token, as fast as its gate lets it.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

use owm_node::engine::{
    Answer, AnswerError, EncodeError, EngineDescription, EngineLoader, GenerateJob,
    InferenceEngine, LoadError, MeasureJob, Measurement, OnMeasured, OnToken, Question, Token,
};
use owm_proto::statement::{Finish, tokens_sha256};

/// Its context, in tokens.
pub(crate) const CONTEXT: u32 = 512;

/// Lets tokens through one by one, or all.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    permits: usize,
    is_open: bool,
}

impl Gate {
    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        self.state.lock().unwrap().is_open = true;
        self.changed.notify_all();
    }

    /// Lets so many tokens through.
    pub(crate) fn permit(&self, tokens: usize) {
        self.state.lock().unwrap().permits += tokens;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        while !state.is_open && state.permits == 0 {
            state = self.changed.wait(state).unwrap();
        }
        state.permits = state.permits.saturating_sub(1);
    }
}

#[derive(Debug)]
pub(crate) struct EchoLoader {
    pub(crate) gate: Arc<Gate>,
}

#[derive(Debug)]
struct Echo(Arc<Gate>);

impl EngineLoader for EchoLoader {
    fn load(
        &self,
        folder: &Path,
        expected: &BTreeMap<String, [u8; 32]>,
    ) -> Result<Arc<dyn InferenceEngine>, LoadError> {
        for (name, sha256) in expected {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            let found = owm_proto::Sha256::of(&bytes);
            if found.0 != *sha256 {
                return Err(LoadError::Damaged {
                    file: name.clone(),
                    reason: format!("SHA-256 {found}"),
                });
            }
        }
        Ok(Arc::new(Echo(Arc::clone(&self.gate))))
    }
}

impl InferenceEngine for Echo {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            backend: "echo".into(),
            device: "none".into(),
            device_reason: "a test".into(),
            context_length: CONTEXT,
            parameters: 0,
        }
    }

    fn encode(&self, question: &Question) -> Result<Vec<u32>, EncodeError> {
        let text = match question {
            Question::Raw(text) => text.clone(),
            Question::Chat(messages) => messages.iter().map(|(_, text)| text.as_str()).collect(),
        };
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        if tokens.len() >= CONTEXT as usize {
            return Err(EncodeError::TooLong {
                tokens: tokens.len(),
                max: CONTEXT as usize,
            });
        }
        Ok(tokens)
    }

    /// As if every byte were a token.
    fn measure(
        &self,
        job: &MeasureJob,
        _: &mut OnMeasured<'_>,
    ) -> Result<Option<Measurement>, AnswerError> {
        let row: Vec<u32> = job.documents.concat().bytes().map(u32::from).collect();
        Ok(Some(Measurement {
            documents: job.documents.len() as u32,
            bytes: row.len() as u64,
            tokens: row.len() as u64,
            tokens_sha256: tokens_sha256(&row),
            loss: 2.0,
            bits_per_byte: 2.0 / std::f64::consts::LN_2,
        }))
    }

    fn generate(
        &self,
        job: &GenerateJob,
        on_token: &mut OnToken<'_>,
    ) -> Result<Answer, AnswerError> {
        let question: Vec<u8> = job.prompt.iter().map(|token| *token as u8).collect();
        let text = format!("echo: {}", String::from_utf8(question).unwrap());
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        assert!(tokens.starts_with(&job.forced_prefix));
        let mut finish = Some(Finish::Stop);
        for (index, token) in tokens.iter().enumerate().skip(job.forced_prefix.len()) {
            self.0.pass();
            let piece = (*token as u8 as char).to_string();
            let event = Token {
                index: index as u32,
                token: *token,
                text: &piece,
            };
            if on_token(event) == ControlFlow::Break(()) {
                finish = None;
                break;
            }
        }
        let prompt_tokens = job.prompt.len() as u32;
        Ok(Answer {
            tokens,
            text,
            flush: String::new(),
            finish,
            prompt_tokens,
        })
    }
}
