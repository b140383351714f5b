//! What travels between two peers, and how many bytes it is on the wire.

use std::sync::Arc;

use owm_p2p::gossip::Topic;
use owm_proto::{
    Sha256,
    wire::gossip::{MeetRequest, MeetResponse},
};
use prost::Message as _;

/// A peer of a run, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub u32);

/// A gossip message's id: the first eight bytes of its hash are enough to tell a run's messages apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

/// A gossip message as it travels.
#[derive(Debug)]
pub struct Message {
    /// Of its bytes.
    pub id: MessageId,
    /// On which topic.
    pub topic: Topic,
    /// An encoded envelope, if it is honest.
    pub bytes: Vec<u8>,
}

/// What one peer sends another.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A gossip message.
    Publish(Arc<Message>),
    /// Take me into your mesh.
    Graft(Topic),
    /// I leave your mesh.
    Prune(Topic),
    /// I have these.
    Have(Topic, Arc<[MessageId]>),
    /// Send me these.
    Want(Vec<MessageId>),
    /// The first thing said on a new connection.
    Ask(Arc<MeetRequest>),
    /// Its answer.
    Answer(Arc<MeetResponse>),
}

/// Bytes of a topic's name: `owm/1/`, 64 hex digits, `/heartbeat/12`.
const TOPIC_BYTES: usize = 6 + 64 + 13;
/// Bytes of protobuf around one message of a gossipsub RPC, and of the RPC's length.
const RPC_BYTES: usize = 10;
/// Bytes of a message id on the wire (a SHA-256) with its field's head.
const ID_BYTES: usize = 34;
/// Bytes that Noise, Yamux and TCP or QUIC add to one small frame (16 tag + 2 length + 12 Yamux + about 40
/// of IP and TCP).
const LINK_BYTES: usize = 70;
/// Bytes that go with a request-response exchange's stream: two multistream negotiations, open and close.
const STREAM_BYTES: usize = 240;

impl Message {
    /// A message with the id of its bytes.
    pub fn new(topic: Topic, bytes: Vec<u8>) -> Arc<Self> {
        let hash = Sha256::of(&bytes);
        let id = hash.as_bytes()[..8].iter();
        Arc::new(Self {
            id: MessageId(id.fold(0, |id, byte| id << 8 | u64::from(*byte))),
            topic,
            bytes,
        })
    }
}

impl Frame {
    /// Bytes on the wire, the transport's included.
    pub fn wire_bytes(&self) -> usize {
        LINK_BYTES
            + match self {
                Self::Publish(message) => RPC_BYTES + TOPIC_BYTES + message.bytes.len(),
                Self::Graft(_) | Self::Prune(_) => RPC_BYTES + TOPIC_BYTES,
                Self::Have(_, ids) => RPC_BYTES + TOPIC_BYTES + ids.len() * ID_BYTES,
                Self::Want(ids) => RPC_BYTES + ids.len() * ID_BYTES,
                Self::Ask(ask) => STREAM_BYTES + ask.encoded_len(),
                Self::Answer(answer) => STREAM_BYTES + answer.encoded_len(),
            }
    }

    /// Whether it arrives in any case: on a stream of its own, which TCP or QUIC repeat, or in the queue that
    /// gossipsub keeps for what shapes its meshes. Only what fills the queue of a slow peer is dropped: messages,
    /// and ids told and asked for.
    pub fn is_reliable(&self) -> bool {
        !matches!(self, Self::Publish(_) | Self::Have(..) | Self::Want(_))
    }
}
