//! Prompts and the model's chat form. Called by the engine. What users write is never read as a
//! special token: special-token texts inside a message are taken out before the template runs
//! and come back as plain text afterwards, so only the template itself can open or close a turn.

use std::{str::FromStr, sync::Arc};

use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};

use crate::{LoadError, PromptError, Tokenizer, tokenizer::TEXT_BYTES_MAX};

/// Most messages of one chat.
const MESSAGES_MAX: usize = 256;
/// Steps a template may take: SmolLM2's takes about 40 a message.
const TEMPLATE_FUEL: u64 = 200_000;
/// Longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// Used where the directory has no template but the vocabulary has ChatML's two tokens.
const CHATML: &str = "{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// What is asked of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text to be continued as it stands.
    Raw(String),
    /// A conversation, put into the model's chat form.
    Chat(Vec<ChatMessage>),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: ChatRole,
    /// What is said.
    pub content: String,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatRole {
    /// Instructions for the whole conversation.
    System,
    /// The asker.
    User,
    /// The model.
    Assistant,
}

impl ChatRole {
    /// The word that templates and wires use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl FromStr for ChatRole {
    type Err = PromptError;

    fn from_str(text: &str) -> Result<Self, PromptError> {
        match text {
            "system" => Ok(Self::System),
            "user" => Ok(Self::User),
            "assistant" => Ok(Self::Assistant),
            other => Err(PromptError::UnknownRole {
                role: other.chars().take(32).collect(),
            }),
        }
    }
}

/// A model's chat form. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ChatTemplate(Option<Arc<Compiled>>);

#[derive(Debug)]
struct Compiled {
    environment: Environment<'static>,
    begin_text: String,
    end_text: String,
}

#[derive(Deserialize, Default)]
struct RawTokenizerConfig {
    chat_template: Option<RawTemplate>,
    bos_token: Option<RawToken>,
    eos_token: Option<RawToken>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawToken {
    Text(String),
    Added { content: String },
}

impl RawToken {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

impl ChatTemplate {
    /// Takes the template out of a `tokenizer_config.json`. Without one, or with one that does
    /// not compile, a model whose vocabulary has ChatML's tokens gets plain ChatML.
    pub(crate) fn from_json(
        bytes: Option<&[u8]>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, LoadError> {
        let file = "tokenizer_config.json".to_owned();
        let raw: RawTokenizerConfig = match bytes {
            Some(bytes) => {
                serde_json::from_slice(bytes).map_err(|source| LoadError::Json { file, source })?
            }
            None => RawTokenizerConfig::default(),
        };
        let source = raw.chat_template.and_then(|template| match template {
            RawTemplate::One(text) => Some(text),
            RawTemplate::Named(list) => list
                .into_iter()
                .find(|one| one.name == "default")
                .map(|one| one.template),
        });
        let begin_text = raw.bos_token.map(RawToken::into_text).unwrap_or_default();
        let end_text = raw.eos_token.map(RawToken::into_text).unwrap_or_default();
        let own = source.filter(|text| text.len() <= TEMPLATE_BYTES_MAX).and_then(|text| {
            compile(text)
                .inspect_err(|error| {
                    tracing::warn!(%error, "the model's chat template does not compile; ChatML is used if the vocabulary has it");
                })
                .ok()
        });
        let has_chatml = ["<|im_start|>", "<|im_end|>"]
            .iter()
            .all(|token| tokenizer.special_id(token).is_some());
        let environment = own.or_else(|| {
            has_chatml.then(|| compile(CHATML.to_owned()).expect("the constant template compiles"))
        });
        Ok(Self(environment.map(|environment| {
            Arc::new(Compiled {
                environment,
                begin_text,
                end_text,
            })
        })))
    }

    /// Renders a chat, open for the assistant's answer, and encodes it.
    pub(crate) fn encode(
        &self,
        messages: &[ChatMessage],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, PromptError> {
        let compiled = self.0.as_ref().ok_or(PromptError::NoChatTemplate)?;
        if messages.is_empty() {
            return Err(PromptError::Empty);
        }
        if messages.len() > MESSAGES_MAX {
            return Err(PromptError::TooManyMessages {
                messages: messages.len(),
                max: MESSAGES_MAX,
            });
        }
        let bytes = messages.iter().map(|message| message.content.len()).sum();
        if bytes > TEXT_BYTES_MAX {
            return Err(PromptError::TooManyBytes {
                bytes,
                max: TEXT_BYTES_MAX,
            });
        }
        let stand_ins = StandIns {
            special: tokenizer.special(),
        };
        let disarmed: Vec<ChatMessage> = messages
            .iter()
            .map(|message| ChatMessage {
                role: message.role,
                content: stand_ins.disarm(&message.content),
            })
            .collect();
        let rendered = compiled
            .environment
            .get_template("chat")
            .and_then(|template| {
                template.render(context! {
                    messages => disarmed,
                    add_generation_prompt => true,
                    bos_token => compiled.begin_text,
                    eos_token => compiled.end_text,
                })
            })
            .map_err(PromptError::Template)?;
        encode_rendered(&rendered, &stand_ins, tokenizer)
    }
}

fn compile(source: String) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_function("raise_exception", raise_exception);
    environment.set_fuel(Some(TEMPLATE_FUEL));
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_template_owned("chat", source)?;
    Ok(environment)
}

/// What Hugging Face templates call to refuse messages. By value: a template function's form.
fn raise_exception(text: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(
        minijinja::ErrorKind::InvalidOperation,
        text,
    ))
}

/// Marks a replacement: a private-use character, itself replaced where a message holds it, so
/// that every mark in a rendered text is ours (or the template's, which is trusted).
const MARK: char = '\u{F8F0}';

/// Replacements for special-token texts inside messages: `MARK`, the token's number in
/// `special`, `MARK`. The number after the last stands for the mark itself.
struct StandIns<'a> {
    special: &'a [(String, u32)],
}

impl StandIns<'_> {
    fn disarm(&self, content: &str) -> String {
        let mut disarmed = String::with_capacity(content.len());
        let mut rest = content;
        while let Some(next) = rest.chars().next() {
            let here = special_at(rest, self.special);
            let (index, len) = match here {
                None if next != MARK => {
                    disarmed.push(next);
                    rest = &rest[next.len_utf8()..];
                    continue;
                }
                None => (self.special.len(), next.len_utf8()),
                Some(index) => (index, self.special[index].0.len()),
            };
            disarmed.extend([MARK.to_string(), index.to_string(), MARK.to_string()]);
            rest = &rest[len..];
        }
        disarmed
    }

    fn restore(&self, text: &str) -> String {
        let mut parts = text.split(MARK);
        let mut restored = parts.next().unwrap_or_default().to_owned();
        // Between two marks stands an index, then plain text up to the next pair.
        while let Some(index) = parts.next() {
            match index.parse::<usize>() {
                Ok(index) if index == self.special.len() => restored.push(MARK),
                Ok(index) if index < self.special.len() => {
                    restored.push_str(&self.special[index].0);
                }
                _ => restored.push_str(index),
            }
            restored.push_str(parts.next().unwrap_or_default());
        }
        restored
    }
}

/// The number of the special token whose text stands at the beginning of `text`; the longest, as
/// they are given longest first.
fn special_at(text: &str, special: &[(String, u32)]) -> Option<usize> {
    special
        .iter()
        .position(|(token, _)| text.starts_with(token.as_str()))
}

/// Special tokens of the template become ids; the text between two of them is encoded as a
/// whole, so that tokens can reach across the border of markup and content as in training.
fn encode_rendered(
    rendered: &str,
    stand_ins: &StandIns<'_>,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>, PromptError> {
    let special = tokenizer.special();
    let mut tokens = Vec::new();
    let mut plain_start = 0;
    let mut at = 0;
    while at <= rendered.len() {
        let here = special_at(&rendered[at..], special);
        if here.is_some() || at == rendered.len() {
            let plain = &rendered[plain_start..at];
            if !plain.is_empty() {
                tokens.extend(tokenizer.encode(&stand_ins.restore(plain), false)?);
            }
        }
        if let Some(index) = here {
            tokens.push(special[index].1);
            at += special[index].0.len();
            plain_start = at;
        } else {
            at += rendered[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
