//! From tokens to text, as it may be shown. Called by the engine for every token and usable
//! alone. What is emitted is a pure function of the list of tokens pushed so far and the stop
//! strings: a successor that pushes a delivered prefix into a fresh stream stands exactly where
//! its predecessor stood.
//!
//! Rules:
//! - Text is emitted once it can no longer change: never half of a UTF-8 character, never text
//!   that may be the beginning of a stop string.
//! - Bytes that can never become UTF-8 turn into U+FFFD as soon as that is certain; an unfinished
//!   character at the end turns into one U+FFFD at [`TextStream::finish`].
//! - The stop string that is complete first (whose last character comes first; of two ending
//!   together, the longer) ends the text in front of it. Later tokens add nothing.
//! - All results of `push` and the one of `finish`, joined, are [`TextStream::text`].

use crate::Tokenizer;

/// Most stop strings of one request.
const STOPS_MAX: usize = 16;
/// Longest stop string, in bytes.
const STOP_BYTES_MAX: usize = 1024;

/// Checked stop strings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopStrings(Vec<String>);

/// Why stop strings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopStringsError {
    /// Too many of them.
    #[error("there are {count} stop strings, the limit is {STOPS_MAX}")]
    TooMany {
        /// How many were given.
        count: usize,
    },
    /// One is empty: it would stop before the first token.
    #[error("a stop string is empty: leave it out")]
    Empty,
    /// One is too long.
    #[error("a stop string has {bytes} bytes, the limit is {STOP_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
}

impl StopStrings {
    /// Checks number and lengths.
    pub fn new(stops: &[String]) -> Result<Self, StopStringsError> {
        if stops.len() > STOPS_MAX {
            return Err(StopStringsError::TooMany { count: stops.len() });
        }
        for stop in stops {
            if stop.is_empty() {
                return Err(StopStringsError::Empty);
            }
            if stop.len() > STOP_BYTES_MAX {
                return Err(StopStringsError::TooLong { bytes: stop.len() });
            }
        }
        Ok(Self(stops.to_vec()))
    }

    /// Where the first complete stop string begins in `text`, if there is one.
    fn find(&self, text: &str) -> Option<usize> {
        let ends = self.0.iter().filter_map(|stop| {
            text.find(stop.as_str())
                .map(|start| (start + stop.len(), start))
        });
        ends.min().map(|(_, start)| start)
    }

    /// Bytes at the end of `text` that may be the beginning of a stop string.
    fn undecided(&self, text: &str) -> usize {
        let longest = |stop: &String| {
            stop.char_indices()
                .map(|(end, _)| end)
                .filter(|end| text.ends_with(&stop[..*end]))
                .max()
                .unwrap_or(0)
        };
        self.0.iter().map(longest).max().unwrap_or(0)
    }
}

/// The text of one generation as it grows.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    stops: StopStrings,
    /// Bytes of an unfinished character: at most three.
    pending: Vec<u8>,
    /// All decided characters, cut at the stop string.
    text: String,
    /// How much of `text` has been emitted.
    emitted: usize,
    stopped: bool,
}

impl TextStream {
    /// An empty stream.
    pub fn new(tokenizer: &Tokenizer, stops: StopStrings) -> Self {
        Self {
            tokenizer: tokenizer.clone(),
            stops,
            pending: Vec::new(),
            text: String::new(),
            emitted: 0,
            stopped: false,
        }
    }

    /// Adds a token and gives the text that became certain through it. Special tokens and ids
    /// outside the vocabulary have no text.
    pub fn push(&mut self, token: u32) -> &str {
        if self.stopped {
            return "";
        }
        self.pending
            .extend_from_slice(self.tokenizer.token_bytes(token));
        self.decode_pending();
        self.emit(false)
    }

    /// Ends the stream and gives the rest: what was held back, and U+FFFD for an unfinished
    /// character. Called again, it gives nothing.
    pub fn finish(&mut self) -> &str {
        if self.stopped {
            return "";
        }
        if !self.pending.is_empty() {
            self.pending.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.emit(true)
    }

    /// Whether a stop string has ended the text.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// All text so far, what is held back included; after [`Self::finish`], or once stopped, the
    /// final text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All text emitted so far.
    pub fn emitted(&self) -> &str {
        &self.text[..self.emitted]
    }

    fn emit(&mut self, last: bool) -> &str {
        let from = self.emitted;
        // Emitted text holds no beginning of a stop string, so the search starts behind it.
        if let Some(start) = self.stops.find(&self.text[from..]) {
            self.text.truncate(from + start);
            self.pending.clear();
            self.stopped = true;
            self.emitted = self.text.len();
        } else if last {
            self.emitted = self.text.len();
        } else {
            self.emitted = self.text.len() - self.stops.undecided(&self.text[from..]);
        }
        &self.text[from..self.emitted]
    }

    fn decode_pending(&mut self) {
        let mut rest = self.pending.as_slice();
        loop {
            match str::from_utf8(rest) {
                Ok(text) => {
                    self.text.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    self.text.push_str(
                        str::from_utf8(valid).expect("the decoder said that this part is valid"),
                    );
                    let Some(len) = error.error_len() else {
                        rest = bad;
                        break;
                    };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &bad[len..];
                }
            }
        }
        self.pending = rest.to_vec();
    }
}

#[cfg(test)]
mod tests;
