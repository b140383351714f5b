//! Byte-level BPE vocabularies, and the two tokenizer files made from them.
//!
//! Called by `from_gguf` and `tiny`. A `ByteLevelBpe` that exists has unique tokens, merges whose
//! parts and results are all in the vocabulary (the tokenizer library refuses others), and special
//! tokens inside it.

use std::collections::HashSet;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    ImportError,
    gguf::Gguf,
    llama::{Llama, json_file},
};

/// The only pre-tokenizer that can be written down: digits one by one, then GPT-2's byte level.
const PRE_TOKENIZER: &str = "smollm";
/// GGUF's name for byte-level BPE.
const MODEL: &str = "gpt2";
/// GGUF's token types (llama.cpp's `llama_token_type`).
const TYPE_CONTROL: i64 = 3;
const TYPE_USER_DEFINED: i64 = 4;
const TYPES_PLAIN: [i64; 2] = [1, 5];
const TYPE_UNKNOWN: i64 = 2;

/// A vocabulary: tokens by id, merges by rank.
#[derive(Debug)]
pub(crate) struct ByteLevelBpe<'a> {
    tokens: Vec<&'a str>,
    merges: Vec<(&'a str, &'a str)>,
    added: Vec<AddedToken<'a>>,
    chat_template: Option<&'a str>,
}

impl<'a> ByteLevelBpe<'a> {
    /// A vocabulary without merges; the first `special` tokens are special.
    pub(crate) fn without_merges(
        tokens: Vec<&'a str>,
        special: u64,
        chat_template: &'a str,
    ) -> Self {
        let added = (0..special)
            .zip(&tokens)
            .map(|(id, content)| AddedToken::new(id, content, true))
            .collect();
        Self {
            tokens,
            merges: Vec::new(),
            added,
            chat_template: Some(chat_template),
        }
    }

    /// Reads and checks the vocabulary in a GGUF file's metadata.
    pub(crate) fn from_gguf(gguf: &Gguf<'a>) -> Result<Self, ImportError> {
        check_kind(gguf)?;
        let tokens = gguf.strings("tokenizer.ggml.tokens")?.to_vec();
        let known: HashSet<&str> = tokens.iter().copied().collect();
        if known.len() != tokens.len() {
            return Err(refuse("a token occurs twice"));
        }
        let types = gguf.numbers("tokenizer.ggml.token_type")?;
        if types.len() != tokens.len() {
            return Err(refuse("there are not as many token types as tokens"));
        }
        let mut added = Vec::new();
        for ((id, content), kind) in (0_u64..).zip(&tokens).zip(types.integers()) {
            match kind {
                Some(TYPE_CONTROL | TYPE_UNKNOWN) => added.push(AddedToken::new(id, content, true)),
                Some(TYPE_USER_DEFINED) => added.push(AddedToken::new(id, content, false)),
                Some(kind) if TYPES_PLAIN.contains(&kind) => {}
                _ => {
                    return Err(refuse(
                        "a token has a type that byte-level BPE does not have",
                    ));
                }
            }
        }
        if added.iter().any(|token| token.content.is_empty()) {
            return Err(refuse("a special token is empty"));
        }
        let merges = read_merges(gguf.strings("tokenizer.ggml.merges")?, &known)?;
        let chat_template = gguf.str_opt("tokenizer.chat_template")?;
        Ok(Self {
            tokens,
            merges,
            added,
            chat_template,
        })
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> u64 {
        self.tokens.len() as u64
    }

    /// `tokenizer.json` as the `tokenizers` library reads it.
    pub(crate) fn tokenizer_json(&self) -> Vec<u8> {
        let byte_level = |add_prefix_space| ByteLevelJson {
            kind: "ByteLevel",
            add_prefix_space,
            trim_offsets: true,
            use_regex: true,
        };
        let mut bytes = serde_json::to_vec(&TokenizerJson {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: &self.added,
            normalizer: None,
            pre_tokenizer: SequenceJson {
                kind: "Sequence",
                pretokenizers: (
                    DigitsJson {
                        kind: "Digits",
                        individual_digits: true,
                    },
                    byte_level(false),
                ),
            },
            post_processor: None,
            decoder: byte_level(true),
            model: BpeJson {
                kind: "BPE",
                dropout: None,
                unk_token: None,
                continuing_subword_prefix: None,
                end_of_word_suffix: None,
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: false,
                vocab: Vocabulary(&self.tokens),
                merges: &self.merges,
            },
        })
        .expect("a vocabulary has string keys and whole numbers");
        bytes.push(b'\n');
        bytes
    }

    /// `tokenizer_config.json`: the chat template and the names of the special tokens.
    pub(crate) fn tokenizer_config_json(&self, llama: &Llama) -> Vec<u8> {
        let token = |id: Option<u64>| {
            id.and_then(|id| usize::try_from(id).ok())
                .and_then(|id| self.tokens.get(id))
                .copied()
        };
        json_file(&TokenizerConfigJson {
            add_bos_token: false,
            add_prefix_space: false,
            bos_token: token(llama.special.bos),
            chat_template: self.chat_template,
            clean_up_tokenization_spaces: false,
            eos_token: token(llama.special.eos),
            model_max_length: llama.context,
            pad_token: token(llama.special.pad),
            tokenizer_class: "GPT2Tokenizer",
            unk_token: token(llama.special.unknown),
        })
    }
}

/// Refuses every kind of tokenizer but the one that can be written down faithfully.
fn check_kind(gguf: &Gguf<'_>) -> Result<(), ImportError> {
    for (key, wanted) in [
        ("tokenizer.ggml.model", MODEL),
        ("tokenizer.ggml.pre", PRE_TOKENIZER),
    ] {
        let found = gguf.str(key)?;
        if found != wanted {
            return Err(refuse(&format!(
                "{key} is {found:?} and only {wanted:?} is known"
            )));
        }
    }
    for key in [
        "add_space_prefix",
        "add_bos_token",
        "add_eos_token",
        "remove_extra_whitespaces",
    ] {
        let key = format!("tokenizer.ggml.{key}");
        if gguf.bool_opt(&key)? == Some(true) {
            return Err(refuse(&format!(
                "{key} is set, which this importer cannot write down"
            )));
        }
    }
    Ok(())
}

fn read_merges<'a>(
    lines: &[&'a str],
    known: &HashSet<&str>,
) -> Result<Vec<(&'a str, &'a str)>, ImportError> {
    let mut joined = String::new();
    let mut merges = Vec::with_capacity(lines.len());
    for line in lines {
        let Some((left, right)) = line
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '))
        else {
            return Err(refuse(
                "a merge is not two tokens with a space between them",
            ));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if ![left, right, joined.as_str()]
            .iter()
            .all(|token| known.contains(token))
        {
            return Err(refuse(
                "a merge uses or makes a token that is not in the vocabulary",
            ));
        }
        merges.push((left, right));
    }
    Ok(merges)
}

/// The 256 characters that stand for bytes in byte-level vocabularies, by byte: printable Latin-1
/// characters stand for themselves, the others are numbered from U+0100 in byte order (GPT-2's rule).
pub(crate) fn byte_characters() -> [char; 256] {
    let mut next = 0x100_u32;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte);
        }
        let character = char::from_u32(next).expect("U+0100 to U+0143 are characters");
        next += 1;
        character
    })
}

fn refuse(why: &str) -> ImportError {
    ImportError::Tokenizer {
        why: why.to_owned(),
    }
}

#[derive(Debug, Serialize)]
struct AddedToken<'a> {
    id: u64,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl<'a> AddedToken<'a> {
    fn new(id: u64, content: &'a str, special: bool) -> Self {
        let (single_word, lstrip, rstrip, normalized) = (false, false, false, false);
        Self {
            id,
            content,
            single_word,
            lstrip,
            rstrip,
            normalized,
            special,
        }
    }
}

#[derive(Debug, Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: &'a [AddedToken<'a>],
    normalizer: Option<()>,
    pre_tokenizer: SequenceJson,
    post_processor: Option<()>,
    decoder: ByteLevelJson,
    model: BpeJson<'a>,
}

#[derive(Debug, Serialize)]
struct SequenceJson {
    #[serde(rename = "type")]
    kind: &'static str,
    pretokenizers: (DigitsJson, ByteLevelJson),
}

#[derive(Debug, Serialize)]
struct DigitsJson {
    #[serde(rename = "type")]
    kind: &'static str,
    individual_digits: bool,
}

#[derive(Debug, Serialize)]
struct ByteLevelJson {
    #[serde(rename = "type")]
    kind: &'static str,
    add_prefix_space: bool,
    trim_offsets: bool,
    use_regex: bool,
}

#[derive(Debug, Serialize)]
struct BpeJson<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<()>,
    unk_token: Option<()>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocabulary<'a>,
    merges: &'a [(&'a str, &'a str)],
}

/// A map from token to id, in the order of the ids.
#[derive(Debug)]
struct Vocabulary<'a>(&'a [&'a str]);

impl Serialize for Vocabulary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, token) in self.0.iter().enumerate() {
            map.serialize_entry(token, &id)?;
        }
        map.end()
    }
}

#[derive(Debug, Serialize)]
struct TokenizerConfigJson<'a> {
    add_bos_token: bool,
    add_prefix_space: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template: Option<&'a str>,
    clean_up_tokenization_spaces: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token: Option<&'a str>,
    model_max_length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_token: Option<&'a str>,
    tokenizer_class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unk_token: Option<&'a str>,
}
