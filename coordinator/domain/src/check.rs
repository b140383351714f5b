//! Level 0 of the verification ladder: what can be told of a result without computing it again. Called
//! for every result before it is decided on; a fault is told to the node and stored. What evaluations report is in
//! `report`.

mod report;

use owm_proto::{
    Sha256, TaskId,
    limits::{OUTPUT_BYTES_MAX, OUTPUT_TOKENS_MAX, SHORT_TEXT_BYTES_MAX},
    statement::{Finish, Segment, TaskResultStatement, tokens_sha256},
};

pub use report::{GivenReport, check_report};

/// What a lease asked for.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Which task.
    pub task_id: TaskId,
    /// Under which lease.
    pub epoch: u64,
    /// The weights files, in manifest order.
    pub model_sha256: &'a [Sha256],
    /// Hash of the opened payload this lease was given (a forced prefix changes it).
    pub input_sha256: Sha256,
    /// The sampling seed.
    pub seed: u64,
    /// Limit on the answer's tokens, forced prefix included.
    pub max_tokens: u32,
    /// The model's context length, if the manifest says it.
    pub context_tokens: Option<u32>,
    /// Tokens this lease was given as forced prefix: the node's share starts after them.
    pub share_from: u32,
    /// Tokens the user has been sent, by whomever.
    pub delivered_tokens: &'a [u32],
    /// Text the user has been sent.
    pub delivered_text: &'a str,
}

/// What came back; envelopes are verified and signed by the lease's node.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The signed result.
    pub statement: &'a TaskResultStatement,
    /// The answer's text, forced prefix included.
    pub text: &'a str,
    /// Its tokens, forced prefix included.
    pub tokens: &'a [u32],
    /// The signed segment over the node's whole share.
    pub segment: &'a Segment,
}

/// What is wrong with a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It names another task or lease.
    #[error("{what} is for another task or lease")]
    WrongLease {
        /// Result or segment.
        what: &'static str,
    },
    /// Other weights.
    #[error("{what} names other weights than the lease")]
    WrongModel {
        /// Result or segment.
        what: &'static str,
    },
    /// Another payload.
    #[error("the result is for another input: its input hash is not the lease's")]
    WrongInput,
    /// Another seed.
    #[error("{what} used another seed than the lease's")]
    WrongSeed {
        /// Result or segment.
        what: &'static str,
    },
    /// The text does not hash to what was signed.
    #[error("the answer's text does not hash to the signed output hash")]
    OutputHash,
    /// The tokens do not hash to what was signed.
    #[error("{what}: the tokens do not hash to the signed hash")]
    TokensHash {
        /// Result, segment, or the segment's prefix.
        what: &'static str,
    },
    /// The number of tokens is not the one signed.
    #[error("the result has {given} tokens and says {said}")]
    TokenCount {
        /// As sent.
        given: usize,
        /// As signed.
        said: u32,
    },
    /// More tokens than asked for.
    #[error("the result has {given} tokens, the limit was {max}")]
    TooManyTokens {
        /// As sent.
        given: usize,
        /// The limit.
        max: u32,
    },
    /// More text than any answer.
    #[error("the answer's text has {given} bytes, the limit is {max}")]
    TooMuchText {
        /// As sent.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// Text out of nothing.
    #[error("the result has text but no tokens")]
    TextWithoutTokens,
    /// It says `length` though the limit was not reached.
    #[error("the result says it ended at the length limit, at {given} of {max} tokens")]
    NotAtTheLimit {
        /// Its tokens.
        given: usize,
        /// The limit.
        max: u32,
    },
    /// It contradicts what the user has seen.
    #[error("the result does not begin with what was delivered: it differs at {unit} {at}")]
    PrefixChanged {
        /// Token or byte.
        unit: &'static str,
        /// Index of the first difference.
        at: usize,
    },
    /// The segment is not the node's share.
    #[error("the segment covers tokens {from} to {to}, the share is {share_from} to {share_to}")]
    WrongShare {
        /// As signed.
        from: u32,
        /// As signed.
        to: u32,
        /// As leased.
        share_from: u32,
        /// As sent.
        share_to: usize,
    },
    /// An answer where a report was asked for, or the other way round.
    #[error("the task asks for {asked}, and that is not what came")]
    WrongKind {
        /// What it asks for.
        asked: &'static str,
    },
    /// A report that is none.
    #[error("the report does not parse: update owm-node")]
    NoReport,
    /// A report of something else.
    #[error("the report is of another {what} than the task's")]
    OtherReport {
        /// What differs.
        what: &'static str,
    },
    /// A figure that is none.
    #[error("the report's {figure} is no finite number of that kind")]
    Figure {
        /// Which.
        figure: &'static str,
    },
    /// Figures that exclude each other.
    #[error("the report contradicts itself: {0}")]
    Contradiction(&'static str),
    /// An update that is none, or of something else.
    #[error("the update is refused: {0}")]
    Update(String),
    /// Too little text.
    #[error("the report is over {given} {unit}, at least {min} are asked for")]
    TooLittle {
        /// As said.
        given: u64,
        /// Of what.
        unit: &'static str,
        /// The bound.
        min: u64,
    },
    /// Too much text.
    #[error("the report is over {given} {unit}, at most {max} are asked for")]
    TooMuch {
        /// As said.
        given: u64,
        /// Of what.
        unit: &'static str,
        /// The bound.
        max: u64,
    },
    /// A backend's name of absurd length.
    #[error("the backend's name is longer than {SHORT_TEXT_BYTES_MAX} bytes")]
    BackendName,
}

/// Checks an inference result; the first fault found is the one told.
pub fn check_inference(expected: &Expected<'_>, given: &Given<'_>) -> Result<(), Fault> {
    // Lengths first: nothing is hashed before it is known to be small.
    check_lengths(expected, given)?;
    check_statement(expected, given)?;
    check_prefix(expected, given)?;
    check_segment(expected, given.segment, given.tokens, given.tokens.len())
}

fn check_lengths(expected: &Expected<'_>, given: &Given<'_>) -> Result<(), Fault> {
    let (tokens, text) = (given.tokens.len(), given.text.len());
    let max = expected.max_tokens.min(OUTPUT_TOKENS_MAX);
    if tokens > max as usize {
        return Err(Fault::TooManyTokens { given: tokens, max });
    }
    if text > OUTPUT_BYTES_MAX {
        return Err(Fault::TooMuchText {
            given: text,
            max: OUTPUT_BYTES_MAX,
        });
    }
    if tokens == 0 && text > 0 {
        return Err(Fault::TextWithoutTokens);
    }
    Ok(())
}

/// What holds for the signed result of every kind of task.
fn check_lease(expected: &Expected<'_>, said: &TaskResultStatement) -> Result<(), Fault> {
    let what = "the result";
    if said.backend.len() > SHORT_TEXT_BYTES_MAX {
        return Err(Fault::BackendName);
    }
    if said.task_id != expected.task_id || said.epoch != expected.epoch {
        return Err(Fault::WrongLease { what });
    }
    if said.model_sha256 != expected.model_sha256 {
        return Err(Fault::WrongModel { what });
    }
    if said.input_sha256 != expected.input_sha256 {
        return Err(Fault::WrongInput);
    }
    if said.seed != expected.seed {
        return Err(Fault::WrongSeed { what });
    }
    Ok(())
}

fn check_statement(expected: &Expected<'_>, given: &Given<'_>) -> Result<(), Fault> {
    let what = "the result";
    let said = given.statement;
    check_lease(expected, said)?;
    if said.output_tokens as usize != given.tokens.len() {
        return Err(Fault::TokenCount {
            given: given.tokens.len(),
            said: said.output_tokens,
        });
    }
    if said.output_sha256 != Sha256::of(given.text.as_bytes()) {
        return Err(Fault::OutputHash);
    }
    if said.tokens_sha256 != tokens_sha256(given.tokens) {
        return Err(Fault::TokensHash { what });
    }
    if said.finish == Finish::Length && !at_limit(expected, said) {
        return Err(Fault::NotAtTheLimit {
            given: given.tokens.len(),
            max: expected.max_tokens,
        });
    }
    Ok(())
}

/// The token limit is reached, or the context may be full (it is, where its length is known).
fn at_limit(expected: &Expected<'_>, said: &TaskResultStatement) -> bool {
    said.output_tokens >= expected.max_tokens
        || expected
            .context_tokens
            .is_none_or(|context| said.prompt_tokens.saturating_add(said.output_tokens) >= context)
}

fn check_prefix(expected: &Expected<'_>, given: &Given<'_>) -> Result<(), Fault> {
    if let Some(at) = first_difference(expected.delivered_tokens, given.tokens) {
        return Err(Fault::PrefixChanged { unit: "token", at });
    }
    if let Some(at) = first_difference(expected.delivered_text.as_bytes(), given.text.as_bytes()) {
        return Err(Fault::PrefixChanged { unit: "byte", at });
    }
    Ok(())
}

/// Where `whole` stops beginning with `prefix`; `None`: it begins with it.
fn first_difference<T: PartialEq>(prefix: &[T], whole: &[T]) -> Option<usize> {
    if whole.starts_with(prefix) {
        return None;
    }
    let same = prefix.iter().zip(whole).take_while(|(a, b)| a == b).count();
    Some(same)
}

/// Checks a segment over `tokens[share_from..to]`, where `tokens` are all tokens of the answer so far.
/// Also for the segments that come with chunks.
pub fn check_segment(
    expected: &Expected<'_>,
    segment: &Segment,
    tokens: &[u32],
    to: usize,
) -> Result<(), Fault> {
    let what = "the segment";
    if segment.task_id != expected.task_id || segment.epoch != expected.epoch {
        return Err(Fault::WrongLease { what });
    }
    if segment.model_sha256 != expected.model_sha256 {
        return Err(Fault::WrongModel { what });
    }
    if segment.seed != expected.seed {
        return Err(Fault::WrongSeed { what });
    }
    let from = expected.share_from as usize;
    let share = (segment.from == expected.share_from && segment.to as usize == to)
        .then(|| Some((tokens.get(..from)?, tokens.get(..to)?)))
        .flatten()
        .filter(|_| from <= to);
    let Some((before, whole)) = share else {
        return Err(Fault::WrongShare {
            from: segment.from,
            to: segment.to,
            share_from: expected.share_from,
            share_to: to,
        });
    };
    if segment.prefix_sha256 != tokens_sha256(before) {
        return Err(Fault::TokensHash {
            what: "the segment's prefix",
        });
    }
    if segment.tokens_sha256 != tokens_sha256(whole) {
        return Err(Fault::TokensHash { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
