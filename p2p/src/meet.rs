//! Meet: the exchange with which two peers begin (`gossip.proto`). The codec bounds what is read; who is asked
//! and what the answer means is the business of `service`.

use std::{io, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{
    StreamProtocol,
    futures::{AsyncRead, AsyncWrite},
    request_response::{self, ProtocolSupport},
};
use owm_proto::{
    PublicKey,
    genesis::NetworkId,
    limits::{GOSSIP_MESSAGE_BYTES_MAX, MEET_MESSAGE_BYTES_MAX, MEET_NODES_MAX, MEET_WANTED_MAX},
    wire::gossip::{MeetRequest, MeetResponse},
};
use prost::{
    Message,
    encoding::{DecodeContext, decode_key, skip_field},
};

/// A question holds two envelopes of at most one gossip message each, and keys of 32 bytes with a head of two.
pub const MEET_REQUEST_BYTES_MAX: usize =
    2 * GOSSIP_MESSAGE_BYTES_MAX + 34 * MEET_WANTED_MAX + 1024;

/// Fields of a message, the same one again counted again: more than an honest answer has (a thousand capabilities
/// and as many statements as are kept, twice). An empty envelope is two bytes to send and a hundred in memory, so
/// without this bound an answer of 4 MiB would take 200 MB here.
pub const MEET_FIELDS_MAX: usize = MEET_NODES_MAX + 2 * STATEMENTS_MAX + 128;

/// Delegations and revocations that are kept, and told, each: only the root key can make more.
pub const STATEMENTS_MAX: usize = 4_096;

/// Time for one exchange on the clear net: four mebibytes at half a megabit take a minute.
pub const MEET_TIMEOUT: Duration = Duration::from_mins(1);

/// Questions that one connection may have open at once, in each direction.
const STREAMS_PER_CONNECTION: usize = 4;

/// Reads and writes the two messages.
#[derive(Clone, Debug, Default)]
pub struct MeetCodec;

/// Meet as a behaviour.
pub type Behaviour = request_response::Behaviour<MeetCodec>;

/// The protocol's name: another network speaks another protocol.
pub fn protocol(network: &NetworkId) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/owm/{network}/meet/1")).expect("it begins with /")
}

/// The behaviour.
pub fn behaviour(network: &NetworkId) -> Behaviour {
    let config = request_response::Config::default()
        .with_request_timeout(MEET_TIMEOUT)
        .with_max_concurrent_streams(STREAMS_PER_CONNECTION);
    Behaviour::new([(protocol(network), ProtocolSupport::Full)], config)
}

/// The nodes that a question names; what is no key is passed over, and what is too many.
pub fn wanted(request: &MeetRequest) -> Vec<PublicKey> {
    let named = request.wanted.iter().take(MEET_WANTED_MAX);
    let key = |bytes: &Vec<u8>| <[u8; 32]>::try_from(bytes.as_slice()).ok();
    named.filter_map(key).map(PublicKey).collect()
}

impl request_response::Codec for MeetCodec {
    type Protocol = StreamProtocol;
    type Request = MeetRequest;
    type Response = MeetResponse;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<MeetRequest>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, MEET_REQUEST_BYTES_MAX).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<MeetResponse>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, MEET_MESSAGE_BYTES_MAX).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: MeetRequest,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &request, MEET_REQUEST_BYTES_MAX).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: MeetResponse,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &response, MEET_MESSAGE_BYTES_MAX).await
    }
}

/// One message is all there is on a half-stream. No honest message is empty (a question says what time it is, an
/// answer which version it comes from): nothing at all means that the other side would not answer.
async fn read<M: Message + Default>(
    io: &mut (impl AsyncRead + Unpin + Send),
    bytes_max: usize,
) -> io::Result<M> {
    let mut bytes = Vec::new();
    let read = io
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)
        .await?;
    if read > bytes_max {
        return Err(refused(format!("a Meet message of over {bytes_max} bytes")));
    }
    if read == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the stream was closed without a message",
        ));
    }
    parse(&bytes)
}

/// What a message says.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is none, or has more than [`MEET_FIELDS_MAX`] fields.
pub fn parse<M: Message + Default>(bytes: &[u8]) -> io::Result<M> {
    let malformed = |error: prost::DecodeError| refused(error.to_string());
    let (mut rest, mut fields) = (bytes, 0);
    while !rest.is_empty() {
        fields += 1;
        if fields > MEET_FIELDS_MAX {
            return Err(refused(format!(
                "a Meet message of over {MEET_FIELDS_MAX} fields"
            )));
        }
        let (tag, kind) = decode_key(&mut rest).map_err(malformed)?;
        skip_field(kind, tag, &mut rest, DecodeContext::default()).map_err(malformed)?;
    }
    M::decode(bytes).map_err(malformed)
}

async fn write<M: Message>(
    io: &mut (impl AsyncWrite + Unpin + Send),
    message: &M,
    bytes_max: usize,
) -> io::Result<()> {
    if message.encoded_len() > bytes_max {
        return Err(refused(format!(
            "not sent: a Meet message of over {bytes_max} bytes"
        )));
    }
    io.write_all(&message.encode_to_vec()).await?;
    io.close().await
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, io::Cursor};

    use super::*;

    #[test]
    fn only_so_many_nodes_are_asked_for_by_name_and_a_full_question_is_read() {
        let key = |n: usize| vec![n as u8; if n == 1 { 31 } else { 32 }];
        let request = MeetRequest {
            wanted: (0..1_000).map(key).collect(),
            ..MeetRequest::default()
        };
        assert_eq!(wanted(&request).len(), MEET_WANTED_MAX - 1);
        let envelope = || owm_proto::wire::coordinator::SignedEnvelope {
            payload: vec![0; GOSSIP_MESSAGE_BYTES_MAX],
            ..Default::default()
        };
        let full = MeetRequest {
            capability: Some(envelope()),
            checkpoint: Some(envelope()),
            wanted: (2..MEET_WANTED_MAX + 2).map(key).collect(),
            ..MeetRequest::default()
        };
        assert!(full.encoded_len() <= MEET_REQUEST_BYTES_MAX - 512);
    }

    #[test]
    fn an_answer_of_many_empty_envelopes_is_refused_before_they_take_memory() {
        let answer = |count: usize| MeetResponse {
            capabilities: vec![owm_proto::wire::coordinator::SignedEnvelope::default(); count],
            ..MeetResponse::default()
        };
        let parsed = |count| parse::<MeetResponse>(&answer(count).encode_to_vec());
        assert_eq!(parsed(MEET_FIELDS_MAX).unwrap(), answer(MEET_FIELDS_MAX));
        let refused = parsed(MEET_FIELDS_MAX + 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert!(refused.to_string().contains("fields"), "{refused}");
        // Whatever the field: an unknown one takes nothing, but time.
        let unknown: Vec<u8> = [0xf8, 0x07, 0x01].repeat(MEET_FIELDS_MAX + 1);
        assert!(parse::<MeetResponse>(&unknown).is_err());
        assert!(parse::<MeetResponse>(&unknown[3..]).is_ok());
    }

    #[test]
    fn a_stream_that_is_closed_at_once_is_a_refusal_and_no_empty_answer() {
        let error = block_on(read::<MeetResponse>(&mut Cursor::new([]), 100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let said = MeetResponse {
            now_ms: 7,
            ..MeetResponse::default()
        };
        let bytes = said.encode_to_vec();
        let read = block_on(read::<MeetResponse>(&mut Cursor::new(bytes), 100));
        assert_eq!(read.unwrap(), said);
    }
}
