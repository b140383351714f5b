//! Checked pieces, and who gave the wrong ones. One giver: it is he. Several: each span's hash is noted, the
//! piece is fetched again from one source, and when it is right the spans that hash otherwise name the
//! liars. So nobody is named whose bytes were right. Where others write too (a download beside the exchange), what lies
//! on the disk speaks against nobody.

use std::time::Duration;

use owm_proto::Sha256;

use super::{
    Effect, Found, Machine, RestReason, Source,
    file::FileIx,
    party::PartyIx,
    piece::{Evidence, Span},
};

impl Machine {
    /// All bytes are there: nothing more of the piece is wanted, the shell looks at it.
    pub(super) fn begin_check(&mut self, file_ix: FileIx, piece: u32) {
        let file = self.files.get_mut(&file_ix).expect("the caller has it");
        let active = file.active.get_mut(&piece).expect("the caller has it");
        active.is_checking = true;
        active.owner = None;
        self.checking += active.len();
        let asked = active.asked.clone();
        file.loose.remove(&piece);
        let file = file.sha256();
        for asked in asked {
            self.cancel(asked.id);
        }
        self.effects.push_back(Effect::Check { file, piece });
    }

    pub(super) fn on_checked(&mut self, now: Duration, sha256: &Sha256, piece: u32, found: Found) {
        let Some(&file_ix) = self.by_hash.get(sha256) else {
            return;
        };
        let file = self.files.get_mut(&file_ix).expect("kept together");
        let Some(active) = file.active.get(&piece).filter(|a| a.is_checking) else {
            return;
        };
        let (len, givers) = (active.len(), active.givers());
        file.last_activity = now;
        if found == Found::Right {
            file.active.remove(&piece);
            file.proved.add(piece);
            file.proved_bytes += len;
            self.checking -= len;
            if let Some(evidence) = file.evidence.get(&piece) {
                let ranges = evidence.spans.iter().map(|s| s.start..s.end).collect();
                let file = *sha256;
                let effect = Effect::Digest {
                    file,
                    piece,
                    ranges,
                };
                self.effects.push_back(effect);
            }
            self.announce(file_ix);
        } else if found == Found::Mixed {
            file.begin_again(piece, true);
            self.checking -= len;
        } else if let [giver] = givers[..] {
            let is_single = active.is_single;
            file.begin_again(piece, is_single);
            self.checking -= len;
            self.punish(giver, file_ix, piece);
        } else {
            let spans = active.have.clone();
            let ranges = spans.iter().map(|span| span.start..span.end).collect();
            let digests = Vec::new();
            file.evidence.insert(piece, Evidence { spans, digests });
            let file = *sha256;
            let effect = Effect::Digest {
                file,
                piece,
                ranges,
            };
            self.effects.push_back(effect);
        }
        self.has_freed = true;
    }

    pub(super) fn on_digested(
        &mut self,
        now: Duration,
        sha256: &Sha256,
        piece: u32,
        digests: &[Sha256],
    ) {
        let Some(&file_ix) = self.by_hash.get(sha256) else {
            return;
        };
        let file = self.files.get_mut(&file_ix).expect("kept together");
        file.last_activity = now;
        let Some(mut evidence) = file.evidence.remove(&piece) else {
            return;
        };
        if file.proved.has(piece) {
            let both = evidence.digests.iter().zip(digests).zip(&evidence.spans);
            let differs = both.filter(|((before, after), _)| before != after);
            let mut liars: Vec<PartyIx> = differs.map(|(_, span)| span.from).collect();
            liars.sort_unstable();
            liars.dedup();
            for liar in liars {
                self.punish(liar, file_ix, piece);
            }
            self.announce(file_ix);
        } else if let Some(active) = file.active.get(&piece).filter(|a| a.is_checking) {
            self.checking -= active.len();
            file.begin_again(piece, true);
            // Without an answer for each span nobody can be named; the piece is fetched anew all the same.
            if digests.len() == evidence.spans.len() {
                evidence.digests = digests.to_vec();
                file.evidence.insert(piece, evidence);
            }
        }
        self.has_freed = true;
    }

    /// Says that a file is whole, once nothing about it is open.
    fn announce(&mut self, file_ix: FileIx) {
        let file = self.files.get_mut(&file_ix).expect("the caller has it");
        if file.is_complete() && file.evidence.is_empty() && !file.is_announced {
            file.is_announced = true;
            let file = file.sha256();
            self.effects.push_back(Effect::Complete { file });
        }
    }

    /// It gave wrong bytes: nothing is asked of it any more, and what it gave of unfinished pieces is not
    /// waited for to turn out wrong too.
    fn punish(&mut self, ix: PartyIx, file_ix: FileIx, piece: u32) {
        let party = self.parties.get_mut(ix);
        if std::mem::replace(&mut party.is_out, true) {
            return;
        }
        let file = self.files[&file_ix].sha256();
        self.effects.push_back(match party.source {
            Source::Peer(peer) => Effect::Ban { peer, file, piece },
            source @ Source::Web(_) => Effect::Rest {
                source,
                reason: RestReason::WrongBytes,
                until: Duration::MAX,
            },
        });
        self.drop_requests(ix);
        self.withdraw(ix);
        for file in self.files.values_mut() {
            let touched = file.active.iter_mut().filter_map(|(piece, active)| {
                let gave = |span: &Span| span.from == ix;
                let is_open = !active.is_checking && active.have.iter().any(gave);
                is_open.then(|| {
                    active.have.retain(|span| !gave(span));
                    *piece
                })
            });
            let touched: Vec<u32> = touched.collect();
            for piece in touched {
                file.loosen(piece);
            }
        }
        self.has_freed = true;
    }
}
