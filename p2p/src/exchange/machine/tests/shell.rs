//! A shell of memory: it writes, checks and hashes at once, keeps what it was told to ask for, and holds the
//! machine to its limits at every step.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use libp2p::{PeerId, identity::Keypair};
use owm_proto::{Ladder, LadderBuilder, PieceLen, Sha256};

use super::super::*;

pub(super) const PIECE: u64 = 256 << 10;
pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) fn peer(n: u8) -> PeerId {
    let key = Keypair::ed25519_from_bytes([n; 32]).unwrap();
    key.public().to_peer_id()
}

pub(super) fn source(n: u8) -> Source {
    Source::Peer(peer(n))
}

pub(super) fn content(size: u64, salt: u8) -> Vec<u8> {
    (0..size)
        .map(|k| (k * 31 + (k >> 8) * 7 + (k >> 16) * 3) as u8 ^ salt)
        .collect()
}

pub(super) fn ladder(bytes: &[u8]) -> Arc<Ladder> {
    let mut builder = LadderBuilder::new(PieceLen::new(PIECE).unwrap());
    builder.update(bytes);
    Arc::new(builder.finish().unwrap())
}

/// An outstanding request, as the shell was told.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) source: Source,
    pub(super) file: Sha256,
    pub(super) range: Range<u64>,
    pub(super) got: u64,
}

pub(super) struct Shell {
    pub(super) machine: Machine,
    pub(super) now: Duration,
    pub(super) truth: BTreeMap<Sha256, (Arc<Ladder>, Vec<u8>)>,
    pub(super) disk: BTreeMap<Sha256, Vec<u8>>,
    pub(super) sent: BTreeMap<RequestId, Sent>,
    /// All effects but those of checks, as they came.
    pub(super) seen: Vec<Effect>,
    /// Bytes that came in, wanted or not.
    pub(super) fetched: u64,
    /// Somebody else has written into the next piece that is wrong.
    pub(super) is_mixed: bool,
}

impl Shell {
    pub(super) fn new(tuning: Tuning) -> Self {
        Self {
            machine: Machine::new(tuning, 7),
            now: Duration::from_secs(1_000),
            truth: BTreeMap::new(),
            disk: BTreeMap::new(),
            sent: BTreeMap::new(),
            seen: Vec::new(),
            fetched: 0,
            is_mixed: false,
        }
    }

    /// Wants a file of so many bytes.
    pub(super) fn want(&mut self, size: u64, salt: u8) -> Sha256 {
        let bytes = content(size, salt);
        let ladder = ladder(&bytes);
        let have = PieceSet::none(ladder.pieces());
        self.want_rest(bytes, ladder, have)
    }

    pub(super) fn want_rest(
        &mut self,
        bytes: Vec<u8>,
        ladder: Arc<Ladder>,
        have: PieceSet,
    ) -> Sha256 {
        let file = ladder.spec().sha256();
        let mut disk = vec![0; bytes.len()];
        for piece in have.iter() {
            let range = ladder.range(piece);
            let range = range.start as usize..range.end as usize;
            disk[range.clone()].copy_from_slice(&bytes[range]);
        }
        self.disk.entry(file).or_insert(disk);
        self.truth.insert(file, (Arc::clone(&ladder), bytes));
        self.tell(Event::Start { file: ladder, have });
        file
    }

    pub(super) fn offer(&mut self, source: Source, file: Sha256) {
        self.tell(Event::Offered {
            source,
            file,
            pieces: None,
            rtt: Some(10 * MS),
        });
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.machine.handle(self.now, event);
        self.obey();
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.machine.wake_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Event::Tick);
        }
        self.now = end;
    }

    fn obey(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            let mut answer = None;
            match &effect {
                Effect::Request {
                    source,
                    request,
                    file,
                    range,
                } => {
                    let (ladder, _) = &self.truth[file];
                    let piece = (range.start / ladder.piece_len()) as u32;
                    let within = ladder.range(piece);
                    assert!(range.start < range.end && range.end <= within.end);
                    let sent = Sent {
                        source: *source,
                        file: *file,
                        range: range.clone(),
                        got: 0,
                    };
                    assert!(self.sent.insert(*request, sent).is_none());
                }
                Effect::Cancel { source, request } => {
                    let sent = self.sent.remove(request).expect("it was sent");
                    assert_eq!(sent.source, *source);
                }
                Effect::Check { file, piece } => {
                    let (ladder, _) = &self.truth[file];
                    let is_right =
                        ladder.check_whole(*piece, self.on_disk(file, ladder.range(*piece)));
                    let found = match is_right {
                        false if std::mem::take(&mut self.is_mixed) => Found::Mixed,
                        is_right => Found::from(is_right),
                    };
                    answer = Some(Event::Checked {
                        file: *file,
                        piece: *piece,
                        found,
                    });
                }
                Effect::Digest {
                    file,
                    piece,
                    ranges,
                } => {
                    let hash = |range: &Range<u64>| Sha256::of(self.on_disk(file, range.clone()));
                    answer = Some(Event::Digested {
                        file: *file,
                        piece: *piece,
                        digests: ranges.iter().map(hash).collect(),
                    });
                }
                Effect::Complete { file } => {
                    assert_eq!(self.disk[file], self.truth[file].1, "whole and right");
                }
                Effect::Ban { .. } | Effect::Rest { .. } | Effect::Starved { .. } => {}
            }
            if !matches!(effect, Effect::Check { .. } | Effect::Digest { .. }) {
                self.seen.push(effect);
            }
            if let Some(answer) = answer {
                self.machine.handle(self.now, answer);
            }
            self.holds();
        }
    }

    fn on_disk(&self, file: &Sha256, range: Range<u64>) -> &[u8] {
        &self.disk[file][range.start as usize..range.end as usize]
    }

    /// What must be true after every step.
    fn holds(&self) {
        let asked: u64 = self
            .sent
            .values()
            .map(|s| s.range.end - s.range.start - s.got)
            .sum();
        let limit = self.machine.tuning().outstanding_total_max;
        assert!(asked <= limit);
        // While effects wait to be carried out, the shell lags behind.
        assert!(self.machine.outstanding() <= limit);
    }

    /// The next `bytes` of a request come in; `wrong`: not the right ones.
    pub(super) fn give(&mut self, id: RequestId, bytes: u64, is_wrong: bool) {
        let Some(sent) = self.sent.get_mut(&id) else {
            return;
        };
        let from = sent.range.start + sent.got;
        let bytes = bytes.min(sent.range.end - from);
        sent.got += bytes;
        let file = sent.file;
        if from + bytes == sent.range.end {
            self.sent.remove(&id);
        }
        self.fetched += bytes;
        let mut right = self.truth[&file].1[from as usize..(from + bytes) as usize].to_vec();
        if is_wrong {
            right[0] ^= 1;
        }
        let mut rest = &right[..];
        while !rest.is_empty() {
            match self.machine.accept(self.now, id, rest.len()) {
                Accept::Write {
                    file,
                    offset,
                    bytes,
                } => {
                    let disk = self.disk.get_mut(&file).unwrap();
                    disk[offset as usize..][..bytes].copy_from_slice(&rest[..bytes]);
                    rest = &rest[bytes..];
                }
                Accept::Skip { bytes } => rest = &rest[bytes..],
                Accept::Gone => break,
            }
        }
        self.obey();
    }

    /// The oldest request to `source`.
    pub(super) fn next_of(&self, source: Source) -> Option<RequestId> {
        let mut of = self.sent.iter().filter(|(_, sent)| sent.source == source);
        of.next().map(|(id, _)| *id)
    }

    pub(super) fn asked_of(&self, source: Source) -> u64 {
        let of = self.sent.values().filter(|sent| sent.source == source);
        of.map(|sent| sent.range.end - sent.range.start - sent.got)
            .sum()
    }

    /// Each of `sources` brings `bytes` every 10 ms, until nothing is asked or `time` is over.
    pub(super) fn deliver(&mut self, sources: &[(Source, u64)], wrong: &[Source], time: Duration) {
        let end = self.now + time;
        while self.now < end && !self.is_done() {
            for (source, bytes) in sources {
                let mut left = *bytes;
                while left > 0
                    && let Some(id) = self.next_of(*source)
                {
                    let sent = &self.sent[&id];
                    let now = left.min(sent.range.end - sent.range.start - sent.got);
                    self.give(id, now, wrong.contains(source));
                    left -= now;
                }
            }
            self.pass(10 * MS);
        }
    }

    fn is_done(&self) -> bool {
        let mut progress = self.truth.keys().filter_map(|f| self.machine.progress(f));
        progress.all(|progress| progress.proved == progress.pieces)
    }

    pub(super) fn is_complete(&self, file: Sha256) -> bool {
        self.seen.contains(&Effect::Complete { file })
    }

    pub(super) fn banned(&self) -> Vec<PeerId> {
        let bans = self.seen.iter().filter_map(|effect| match effect {
            Effect::Ban { peer, .. } => Some(*peer),
            _ => None,
        });
        bans.collect()
    }

    pub(super) fn rests(&self, source: Source) -> Vec<RestReason> {
        let rests = self.seen.iter().filter_map(|effect| match effect {
            Effect::Rest {
                source: who,
                reason,
                ..
            } if *who == source => Some(*reason),
            _ => None,
        });
        rests.collect()
    }
}
