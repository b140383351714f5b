//! Text that models are measured with (and trained on): the operator's own folder, or a public corpus. `roles`
//! asks through [`Texts`]; the real one is `read` (cargo feature `burn`), tests bring their own.
//! Must stay true: no error and no log line quotes a text or the name of a private file; on a public corpus every node
//! that is asked the same reads the same.

use std::fmt::Debug;

use owm_proto::evaluation::TextSource;
use owm_service::CancellationToken;

#[cfg(feature = "burn")]
mod read;

#[cfg(feature = "burn")]
pub use read::OwnTexts;

/// Which part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is never trained on.
    HeldOut,
    /// The rest.
    Train,
}

/// Which documents.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Of which text.
    pub source: &'a TextSource,
    /// Of which side.
    pub side: Side,
    /// Chooses them, and their order.
    pub seed: u64,
    /// At most so many.
    pub documents_max: u32,
    /// At most so many bytes.
    pub bytes_max: u64,
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The operator has named none.
    #[error("this node has no text of its own; name a folder in [text] folder")]
    NoFolder,
    /// It can't be read.
    #[error("this node's own text cannot be read; owm-node doctor says more")]
    Folder,
    /// Unknown here.
    #[error("this owm-node knows no corpus {0}: update owm-node")]
    UnknownCorpus(String),
    /// Not in the cache.
    #[error(
        "the packages of corpus {0} are not all in the cache, and [text] fetch does not let them be fetched"
    )]
    NotHere(String),
    /// They can't be fetched or read.
    #[error("the corpus {id} cannot be had: {reason}")]
    Corpus {
        /// Which.
        id: String,
        /// Why, without this machine's paths: others hear it.
        reason: String,
    },
    /// Nothing is left of it.
    #[error("the text has no document that fits what is asked")]
    Nothing,
    /// Whoever asked does not want it any more.
    #[error("it is not wanted any more")]
    Stopped,
}

/// Where text comes from. Called from blocking threads.
pub trait Texts: Send + Sync + Debug {
    /// Why no text can be had at all; `None`: some can.
    fn why_none(&self) -> Option<String>;
    /// The texts of the documents, in their order. `hears` is told what is being done.
    fn documents(
        &self,
        wanted: &Wanted<'_>,
        stop: &CancellationToken,
        hears: &mut dyn FnMut(&str),
    ) -> Result<Vec<String>, TextError>;
}

/// Stands in where nothing can be read.
#[derive(Clone, Copy, Debug)]
pub struct NoTexts;

impl Texts for NoTexts {
    fn why_none(&self) -> Option<String> {
        Some(
            "this owm-node was built without a model engine; build it with the feature `burn`"
                .into(),
        )
    }

    fn documents(
        &self,
        _: &Wanted<'_>,
        _: &CancellationToken,
        _: &mut dyn FnMut(&str),
    ) -> Result<Vec<String>, TextError> {
        Err(TextError::NoFolder)
    }
}
