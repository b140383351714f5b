//! Local questions against an engine that spells its prompt's length.

use owm_service::clock::ManualClock;

use super::*;
use crate::{
    engine::{Answer, EngineDescription, InferenceEngine, OnToken, Token},
    models::LoadedSubModel,
};

/// Says "a", "b", "c" with a flush of "!"; knows no conversations. Waits before each until it may go on.
#[derive(Debug)]
struct Abc(Option<Mutex<std::sync::mpsc::Receiver<()>>>);

impl InferenceEngine for Abc {
    fn description(&self) -> EngineDescription {
        panic!("nobody asks")
    }

    fn encode(&self, question: &Question) -> Result<Vec<u32>, EncodeError> {
        match question {
            Question::Raw(text) => Ok(vec![1; text.len()]),
            Question::Chat(_) => Err(EncodeError::Refused("no template".into())),
        }
    }

    fn generate(
        &self,
        job: &GenerateJob,
        on_token: &mut OnToken<'_>,
    ) -> Result<Answer, AnswerError> {
        let mut answer = Answer {
            tokens: Vec::new(),
            text: "abc!".into(),
            flush: "!".into(),
            finish: Some(Finish::Stop),
            prompt_tokens: job.prompt.len() as u32,
        };
        for (index, text) in (0..job.max_tokens).zip(["a", "b", "c"]) {
            if let Some(go) = &self.0 {
                go.lock().unwrap().recv().unwrap();
            }
            answer.tokens.push(index);
            let token = Token {
                index,
                token: index,
                text,
            };
            if on_token(token).is_break() {
                answer.finish = None;
                break;
            }
        }
        Ok(answer)
    }
}

fn model(go: Option<std::sync::mpsc::Receiver<()>>) -> Arc<LoadedModel> {
    let sub_model = LoadedSubModel {
        files: vec![],
        weights: vec![Sha256::of(b"w")],
        engine: Arc::new(Abc(go.map(Mutex::new))),
    };
    Arc::new(LoadedModel {
        version: "owm-v0.1.0".parse().unwrap(),
        sequence: 1,
        note: "tiny".into(),
        default_sub_model: "owm-geo".parse().unwrap(),
        sub_models: [("owm-geo".parse().unwrap(), sub_model)].into(),
    })
}

fn question(text: &str) -> LocalQuestion {
    LocalQuestion {
        text: text.into(),
        sub_model: None,
        max_tokens: 9,
        temperature_milli: 0,
        seed: 0,
        raw: false,
    }
}

#[test]
fn an_answer_says_which_model_gave_it() {
    let mut text = String::new();
    let mut take = |new: &str| {
        text.push_str(new);
        ControlFlow::Continue(())
    };
    let answered = answer(&model(None), &question("hello"), &mut take).unwrap();
    assert_eq!(text, "abc!");
    assert_eq!(answered.model_sha256, [Sha256::of(b"w")]);
    assert_eq!((answered.prompt_tokens, answered.tokens), (5, 3));
    let other = LocalQuestion {
        sub_model: Some("owm-code".parse().unwrap()),
        ..question("hello")
    };
    let error = answer(&model(None), &other, &mut |_| ControlFlow::Continue(())).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("owm-code") && said.contains("owm-geo"),
        "{said}"
    );
}

#[tokio::test]
async fn one_local_question_at_a_time_and_one_whose_asker_has_gone_is_broken_off() {
    let (go, wait) = std::sync::mpsc::channel();
    let (load, loaded) = watch::channel(None);
    let clock = ManualClock::shared(0);
    let asking = Asking::new(loaded, clock.clone());
    assert!(matches!(
        asking.begin(question("x")),
        Err(AskError::NoModel)
    ));
    load.send_replace(Some(model(Some(wait))));
    let first = asking.begin(question("x")).unwrap();
    assert!(matches!(asking.begin(question("y")), Err(AskError::Busy)));
    go.send(()).unwrap();
    while asking.so_far(first, 0).unwrap().text.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(asking.so_far(first, 1).unwrap().text, "");
    assert!(asking.so_far(first + 1, 0).is_none());
    // The asker has gone: the next token ends it, and another may ask.
    clock.advance(ASKER_GONE);
    go.send(()).unwrap();
    let second = asking.begin(question("y")).unwrap();
    for _ in 0..3 {
        go.send(()).unwrap();
    }
    let ended = loop {
        let so_far = asking.so_far(second, 0).unwrap();
        if so_far.answered.is_some() {
            break so_far;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(ended.text, "abc!");
    assert_eq!(ended.answered.unwrap().finish, Some(Finish::Stop));
    assert!(asking.so_far(first, 0).is_none());
}
