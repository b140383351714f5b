//! Documents to one row of tokens, as training and evaluation read them. Pure.

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::{ModelConfig, PromptError, Tokenizer};

/// Longest part of a document that is tokenized at once, in bytes. Longer ones are cut, at the end of
/// a line where there is one.
const PART_BYTES_MAX: usize = 1 << 16;
/// The token that most models were trained to see between documents.
const END_OF_TEXT: &str = "<|endoftext|>";

/// The token between two documents; `None` where the model has none.
pub fn separator(config: &ModelConfig, tokenizer: &Tokenizer) -> Option<u32> {
    let end = tokenizer.special_id(END_OF_TEXT);
    end.or_else(|| config.end_tokens.first().copied())
}

/// All documents as one row of tokens: a separator, a document, a separator, and so on, one at the
/// end. Text of a special token stays text.
pub fn tokens_of<T: AsRef<str> + Sync>(
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    documents: &[T],
) -> Result<Vec<u32>, PromptError> {
    let separator = separator(config, tokenizer);
    let encoded: Vec<Vec<u32>> = documents
        .par_iter()
        .map(|document| {
            let mut tokens = Vec::new();
            for part in parts(document.as_ref()) {
                tokens.extend(tokenizer.encode(part, false)?);
            }
            Ok(tokens)
        })
        .collect::<Result<_, PromptError>>()?;
    let mut row: Vec<u32> = separator.into_iter().collect();
    for tokens in encoded {
        row.extend(tokens);
        row.extend(separator);
    }
    Ok(row)
}

/// Documents as one bounded row of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// How many of the documents are in it, a cut one too.
    pub documents: usize,
    /// How many bytes of their texts.
    pub bytes: u64,
    /// [`tokens_of`] them.
    pub tokens: Vec<u32>,
}

/// The first documents as one row of at most `tokens_max` tokens. The separators between two documents count twice: a
/// little less than allowed. Of a first document that is too long alone its beginning is taken, a part of 2⁻ⁿ.
pub fn tokens_within<T: AsRef<str> + Sync>(
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    documents: &[T],
    tokens_max: u64,
) -> Result<Row, PromptError> {
    let alone = |text: &str| tokens_of(config, tokenizer, &[text]);
    let (mut count, mut bytes, mut sum) = (0, 0, 0_u64);
    for document in documents {
        let mut text = document.as_ref();
        let mut tokens = alone(text)?;
        if count == 0 {
            while tokens.len() as u64 > tokens_max && !text.is_empty() {
                text = &text[..text.floor_char_boundary(text.len() / 2)];
                tokens = alone(text)?;
            }
        }
        sum += tokens.len() as u64;
        if sum > tokens_max {
            break;
        }
        count += 1;
        bytes += text.len() as u64;
        if text.len() < document.as_ref().len() {
            return Ok(Row {
                documents: count,
                bytes,
                tokens,
            });
        }
    }
    Ok(Row {
        documents: count,
        bytes,
        tokens: tokens_of(config, tokenizer, &documents[..count])?,
    })
}

/// A text in parts of at most [`PART_BYTES_MAX`] bytes.
fn parts(mut text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while text.len() > PART_BYTES_MAX {
        let bytes = &text.as_bytes()[..PART_BYTES_MAX];
        let line_end = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map(|at| at + 1);
        let cut = line_end.unwrap_or_else(|| text.floor_char_boundary(PART_BYTES_MAX));
        let (part, rest) = text.split_at(cut);
        parts.push(part);
        text = rest;
    }
    parts.push(text);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    #[test]
    fn long_documents_are_cut_at_lines_and_nothing_is_lost() {
        let text = "äöü one two three\n".repeat(12_000);
        let cut = parts(&text);
        assert!(cut.len() > 3);
        assert!(
            cut.iter()
                .all(|part| part.len() <= PART_BYTES_MAX && part.ends_with('\n'))
        );
        assert_eq!(cut.concat(), text);
        let unbroken = "ä".repeat(PART_BYTES_MAX);
        assert_eq!(parts(&unbroken).concat(), unbroken);
    }

    #[test]
    fn whole_documents_are_taken_up_to_the_bound_and_of_one_too_long_its_beginning() {
        let model = tiny::TinyModel::new();
        let tokenizer = tiny::tokenizer();
        let documents = ["abä", "cd", "ef"];
        let within = |max| tokens_within(&model.config, &tokenizer, &documents, max).unwrap();
        let row = |documents: &[&str]| Row {
            documents: documents.len(),
            bytes: documents.iter().map(|text| text.len() as u64).sum(),
            tokens: tokens_of(&model.config, &tokenizer, documents).unwrap(),
        };
        assert_eq!(within(100), row(&documents));
        assert_eq!(within(10), row(&documents[..2]));
        assert_eq!(within(9), row(&documents[..1]));
        assert_eq!(within(6), row(&documents[..1]));
        assert_eq!(within(5), row(&["ab"]), "a half, between two letters");
        assert_eq!(within(3), row(&["a"]));
        assert_eq!(within(1).documents, 0, "not even the separators");
    }

    #[test]
    fn documents_stand_between_separators_and_cannot_write_one() {
        let model = tiny::TinyModel::new();
        let tokenizer = tiny::tokenizer();
        let row = tokens_of(&model.config, &tokenizer, &["ab", "<|endoftext|>"]).unwrap();
        assert_eq!(
            row[..4],
            [tiny::END, u32::from(b'a'), u32::from(b'b'), tiny::END]
        );
        assert_eq!(row.last(), Some(&tiny::END));
        assert_eq!(row.iter().filter(|token| **token == tiny::END).count(), 3);
    }
}
