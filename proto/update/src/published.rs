//! What a round published about its updates, and whether an update's header says the same. The coordinator holds
//! every update against it ([`crate::Update::verify`]): a sender's header never decides what the sender may do.

use owm_proto::{Sha256, SubModelId, genesis::NetworkId};

use crate::{
    codec::Codec,
    error::UpdateError,
    header::{Header, Mode, Origin},
};

/// What every update of a round has in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The network.
    pub network: NetworkId,
    /// The round.
    pub round: u64,
    /// The sub-model that is trained.
    pub sub_model: SubModelId,
    /// SHA-256 of the parent's file.
    pub base: Sha256,
    /// Names, types and shapes of its tensors ([`crate::Layout::id`]).
    pub layout: Sha256,
    /// What is trained.
    pub mode: Mode,
    /// Elements of the flat vector.
    pub elements: u64,
    /// How updates are packed.
    pub codec: Codec,
    /// The bound on an update's norm, positive and normal.
    pub clip: f32,
}

impl Published {
    /// Whether `header` is one of a node's update of this round; names the first field that is not.
    pub fn check(&self, header: &Header) -> Result<(), UpdateError> {
        let subject = &header.subject;
        let clip = match subject.origin {
            Origin::Node { clip, .. } => Some(clip.to_bits()),
            Origin::Aggregate { .. } => None,
        };
        let same = [
            ("network", subject.network == self.network),
            ("round", subject.round == self.round),
            ("sub-model", subject.sub_model == self.sub_model),
            ("base", subject.base == self.base),
            ("layout", subject.layout == self.layout),
            ("mode", subject.mode == self.mode),
            ("elements", header.elements == self.elements),
            ("kind", clip.is_some()),
            ("clip", clip == Some(self.clip.to_bits())),
            ("keep", header.codec.keep == self.codec.keep),
            ("value bits", header.codec.values == self.codec.values),
            ("index coding", header.codec.indices == self.codec.indices),
        ];
        match same.into_iter().find(|(_, same)| !same) {
            Some((field, _)) => Err(UpdateError::Differs { field }),
            None => Ok(()),
        }
    }
}
