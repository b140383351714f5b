//! The vocabulary: text to tokens and tokens to bytes. Made by the engine's loader; the daemon
//! uses it to count and to decode. Text given to [`Tokenizer::encode`] never becomes a special
//! token, whatever it says: only the chat template may write those.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokenizers::DecoderWrapper;

use crate::{LoadError, PromptError};

/// Longest text that is tokenized, in bytes: bounds the time spent before the token limit speaks.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 20;

/// A byte-level vocabulary. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    encoder: tokenizers::Tokenizer,
    /// Bytes of all tokens, one after the other; token `i` ends at `ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Special tokens, longest first.
    special: Vec<(String, u32)>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary", &self.ends.len())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json` for a model with `vocabulary` token ids.
    pub fn from_json(bytes: &[u8], vocabulary: usize) -> Result<Self, LoadError> {
        let (mut encoder, shown) = read_json(bytes)?;
        if !matches!(encoder.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(LoadError::TokenizerDecoder);
        }
        encoder.with_padding(None);
        encoder
            .with_truncation(None)
            .map_err(LoadError::Tokenizer)?;
        encoder.set_encode_special_tokens(true);

        let added = encoder.get_added_tokens_decoder();
        let mut texts = vec![Vec::new(); vocabulary];
        let byte_of = byte_alphabet();
        for (token, id) in encoder.get_vocab(true) {
            let slot = texts
                .get_mut(id as usize)
                .ok_or(LoadError::TokenizerVocabulary { id, vocabulary })?;
            *slot = match added.get(&id) {
                Some(_) if shown.contains(&id) => token.into_bytes(),
                Some(_) => Vec::new(),
                None => token_to_bytes(&token, &byte_of),
            };
        }
        let mut ends = Vec::with_capacity(vocabulary);
        let mut flat = Vec::new();
        for text in texts {
            flat.extend(text);
            ends.push(flat.len() as u32);
        }
        let mut special: Vec<(String, u32)> = added
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(id, token)| (token.content, id))
            .collect();
        special.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
        Ok(Self(Arc::new(Inner {
            encoder,
            bytes: flat,
            ends,
            special,
        })))
    }

    /// Plain text to tokens; the text of a special token stays text. `begin` adds what the
    /// vocabulary puts around a whole text (for some models a begin token).
    pub fn encode(&self, text: &str, begin: bool) -> Result<Vec<u32>, PromptError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(PromptError::TooManyBytes {
                bytes: text.len(),
                max: TEXT_BYTES_MAX,
            });
        }
        let encoding = self
            .0
            .encoder
            .encode_fast(text, begin)
            .map_err(PromptError::Tokenize)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokens to text, special tokens left out, broken UTF-8 as U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| self.token_bytes(*token))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes a token stands for; none for special tokens and unknown ids.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        let Some(end) = self.0.ends.get(token as usize) else {
            return &[];
        };
        let start = (token as usize)
            .checked_sub(1)
            .map_or(0, |before| self.0.ends[before]);
        &self.0.bytes[start as usize..*end as usize]
    }

    /// Number of token ids.
    pub fn vocabulary(&self) -> usize {
        self.0.ends.len()
    }

    /// The id of a special token.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.0
            .special
            .iter()
            .find(|(special, _)| special == text)
            .map(|(_, id)| *id)
    }

    /// Special tokens with their ids, longest first.
    pub(crate) fn special(&self) -> &[(String, u32)] {
        &self.0.special
    }
}

/// Reads the file with every added token made special, so that none of them can be written by a
/// user, and gives the ids of those that were not special before: their text is shown.
fn read_json(bytes: &[u8]) -> Result<(tokenizers::Tokenizer, HashSet<u32>), LoadError> {
    let json_error = |source| LoadError::Json {
        file: "tokenizer.json".to_owned(),
        source,
    };
    let mut json: serde_json::Value = serde_json::from_slice(bytes).map_err(json_error)?;
    let mut shown = HashSet::new();
    let added = json
        .get_mut("added_tokens")
        .and_then(serde_json::Value::as_array_mut);
    for token in added
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_object_mut)
    {
        let was_special = token.insert("special".to_owned(), true.into());
        let id = token.get("id").and_then(serde_json::Value::as_u64);
        if was_special != Some(true.into()) {
            shown.extend(id.and_then(|id| u32::try_from(id).ok()));
        }
    }
    let encoder = serde_json::from_value(json).map_err(json_error)?;
    Ok((encoder, shown))
}

/// The byte-level alphabet of GPT-2: printable Latin-1 bytes stand for themselves, the others
/// follow in order from U+0100.
pub(crate) fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| {
            if printable(byte) {
                return (char::from(byte), byte);
            }
            let stand_in = char::from_u32(next).expect("0x100 to 0x143 are characters");
            next += 1;
            (stand_in, byte)
        })
        .collect()
}

/// A token with a character outside the alphabet is not byte-level text: it stands for itself.
fn token_to_bytes(token: &str, byte_of: &HashMap<char, u8>) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(|c| byte_of.get(&c).copied()).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests;
