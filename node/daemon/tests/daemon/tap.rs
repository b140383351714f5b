//! What a node says to the coordinator, byte for byte as it was before encryption: read at the other end of its TLS,
//! where the fake coordinator has decrypted it. And the search for words in it, in all the ways they may be written.

use std::{
    fmt::Write as _,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use owm_service::tls::{PeerKey, TlsIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// All that came in, of all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tap(Arc<Mutex<Vec<u8>>>);

impl Tap {
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn hears(&self, new: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(new);
    }

    pub(crate) fn on(&self, inner: TlsIo) -> Tapped {
        Tapped {
            inner,
            tap: self.clone(),
        }
    }
}

/// A connection that is listened to.
#[derive(Debug)]
pub(crate) struct Tapped {
    inner: TlsIo,
    tap: Tap,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.tap.hears(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl Connected for Tapped {
    type ConnectInfo = PeerKey;

    fn connect_info(&self) -> PeerKey {
        self.inner.connect_info()
    }
}

/// How a word is written in `bytes`, if it is: as it is, in hex, in base64 (wherever in a text it begins), as token ids of
/// a tokenizer of bytes.
pub(crate) fn written(bytes: &[u8], word: &str) -> Option<&'static str> {
    let spellings = spellings(word);
    let is_in = |spelling: &[u8]| bytes.windows(spelling.len()).any(|part| part == spelling);
    let found = spellings.iter().find(|(_, spelling)| is_in(spelling));
    found.map(|(how, _)| *how)
}

/// Whether a row of token ids stands in `bytes`: as numbers of two, three or four bytes, or as a list.
pub(crate) fn has_ids(bytes: &[u8], ids: &[u32]) -> bool {
    let numbers = |width: usize, little: bool| -> Vec<u8> {
        let id = |id: &u32| {
            if little {
                id.to_le_bytes()[..width].to_vec()
            } else {
                id.to_be_bytes()[4 - width..].to_vec()
            }
        };
        ids.iter().flat_map(id).collect()
    };
    let list = |join: &str| {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        ids.join(join).into_bytes()
    };
    // Protobuf's packed numbers.
    let packed = || {
        let mut packed = Vec::new();
        for id in ids {
            prost::encoding::encode_varint(u64::from(*id), &mut packed);
        }
        packed
    };
    let mut rows: Vec<Vec<u8>> = vec![packed(), list(","), list(", "), list(" ")];
    for width in 2..=4 {
        rows.extend([numbers(width, true), numbers(width, false)]);
    }
    let is_in = |row: &Vec<u8>| bytes.windows(row.len()).any(|part| part == row);
    rows.iter().any(is_in)
}

fn spellings(word: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = word.as_bytes();
    let hex = |upper| {
        bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = if upper {
                write!(hex, "{byte:02X}")
            } else {
                write!(hex, "{byte:02x}")
            };
            hex
        })
    };
    let ids = |join: &str| {
        let ids: Vec<String> = bytes.iter().map(u8::to_string).collect();
        ids.join(join)
    };
    let wide = |width: usize, little: bool| -> Vec<u8> {
        let id = |byte: &u8| {
            let mut id = vec![0; width];
            id[if little { 0 } else { width - 1 }] = *byte;
            id
        };
        bytes.iter().flat_map(id).collect()
    };
    let mut all = vec![
        ("as it is", bytes.to_vec()),
        ("in hex", hex(false).into_bytes()),
        ("in hex", hex(true).into_bytes()),
        ("as token ids", wide(2, true)),
        ("as token ids", wide(4, true)),
        ("as token ids", wide(4, false)),
        ("as token ids", ids(",").into_bytes()),
        ("as token ids", ids(", ").into_bytes()),
        ("as token ids", ids(" ").into_bytes()),
    ];
    for (alphabet, offset) in [
        (STANDARD, 0),
        (STANDARD, 1),
        (STANDARD, 2),
        (URL, 0),
        (URL, 1),
        (URL, 2),
    ] {
        all.push(("in base64", base64_inside(bytes, alphabet, offset)));
    }
    all
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The digits that depend on the word alone, where it begins `offset` bytes after a group of three.
fn base64_inside(word: &[u8], alphabet: &[u8; 64], offset: usize) -> Vec<u8> {
    let padded: Vec<u8> = std::iter::repeat_n(0, offset)
        .chain(word.iter().copied())
        .collect();
    let bits = padded.len() * 8;
    let digit = |at: usize| {
        let value = (0..6).fold(0_usize, |value, bit| {
            let bit = at * 6 + bit;
            value << 1 | usize::from(padded[bit / 8] >> (7 - bit % 8) & 1)
        });
        alphabet[value]
    };
    let first = (offset * 8).div_ceil(6);
    (first..bits / 6).map(digit).collect()
}

#[test]
fn a_word_is_found_however_it_is_written_and_wherever() {
    let word = "kanarienvogel";
    // Of base64, what another program makes of it: `printf 'xkanarienvogel!' | base64` and so on.
    let samples: [(&str, &[u8]); 8] = [
        ("as it is", b"...kanarienvogel..."),
        ("in hex", b"0a6b616e617269656e766f67656c00"),
        ("in hex", b"6B616E617269656E766F67656C"),
        ("in base64", b"a2FuYXJpZW52b2dlbA=="),
        ("in base64", b"eGthbmFyaWVudm9nZWwh"),
        ("in base64", b"eHhrYW5hcmllbnZvZ2VsIQ=="),
        ("as token ids", b"[107, 97, 110, 97, 114, 105, 101, 110, 118, 111, 103, 101, 108]"),
        ("as token ids", b"k\0\0\0a\0\0\0n\0\0\0a\0\0\0r\0\0\0i\0\0\0e\0\0\0n\0\0\0v\0\0\0o\0\0\0g\0\0\0e\0\0\0l\0\0\0"),
    ];
    for (how, sample) in samples {
        assert_eq!(
            written(sample, word),
            Some(how),
            "{}",
            sample.escape_ascii()
        );
    }
    assert_eq!(written(b"kanarienvoge and a2FuYXJpZW52b2dl", word), None);
}
