//! Who is asked for what: offers come in, each source is kept busy within its window and the limit for all,
//! with what is rarest.

use std::{ops::Range, time::Duration};

use owm_proto::Sha256;

use super::{
    Effect, Machine, Request, RequestId, Source,
    file::{File, FileIx},
    party::{Party, PartyIx},
    piece::{Active, Asked},
};
use crate::exchange::PieceSet;

/// Bytes to ask for.
#[derive(Debug)]
pub(super) struct Pick {
    pub(super) file: FileIx,
    pub(super) piece: u32,
    pub(super) range: Range<u64>,
}

impl Machine {
    pub(super) fn on_offered(
        &mut self,
        now: Duration,
        source: Source,
        sha256: &Sha256,
        pieces: Option<PieceSet>,
        rtt: Option<Duration>,
    ) {
        let Some(&file_ix) = self.by_hash.get(sha256) else {
            return;
        };
        let file = self.files.get_mut(&file_ix).expect("kept together");
        let does_fit = |set: &PieceSet| set.pieces() == file.proved.pieces();
        if !pieces.as_ref().is_none_or(does_fit) {
            return;
        }
        let Some(ix) = self.party(source) else {
            return;
        };
        let party = self.parties.get_mut(ix);
        if party.is_out {
            return;
        }
        party.is_gone = false;
        if let Some(rtt) = rtt {
            party.measured_rtt(rtt);
        }
        // A set with every piece counts as all of it, so that both are counted alike.
        let pieces = pieces.filter(|set| !set.is_full());
        let file = self.files.get_mut(&file_ix).expect("kept together");
        let before = party.offers.insert(file_ix, pieces);
        if !party.is_web() {
            if let Some(before) = before {
                file.count_offer(before.as_ref(), false);
            }
            let now_offered = party.offers[&file_ix].as_ref();
            file.count_offer(now_offered, true);
        }
        self.fill(now, ix);
    }

    /// The number of a source, old or new; `None` if there is no room for one more.
    fn party(&mut self, source: Source) -> Option<PartyIx> {
        if let Some(ix) = self.parties.find(source) {
            return Some(ix);
        }
        if self.parties.len() >= self.tuning.sources_max {
            let files = self.files.values();
            let spans = files.flat_map(|file| {
                let there = file.active.values().flat_map(|active| active.have.iter());
                there.chain(file.evidence.values().flat_map(|e| e.spans.iter()))
            });
            let needed = spans.map(|span| span.from).collect();
            self.parties.forget(&needed);
        }
        (self.parties.len() < self.tuning.sources_max).then(|| self.parties.add(source))
    }

    pub(super) fn on_gained(&mut self, now: Duration, source: Source, sha256: &Sha256, piece: u32) {
        let (Some(ix), Some(file_ix)) = (self.parties.find(source), self.by_hash.get(sha256))
        else {
            return;
        };
        let party = self.parties.get_mut(ix);
        let is_web = party.is_web();
        if let Some(Some(pieces)) = party.offers.get_mut(file_ix)
            && pieces.add(piece)
        {
            let file = self.files.get_mut(file_ix).expect("kept together");
            if !is_web {
                file.list(piece, true);
            }
            if pieces.is_full() {
                let pieces = pieces.clone();
                party.offers.insert(*file_ix, None);
                if !is_web {
                    file.count_offer(Some(&pieces), false);
                    file.count_offer(None, true);
                }
            }
            self.fill(now, ix);
        }
    }

    pub(super) fn on_gone(&mut self, now: Duration, source: Source) {
        let Some(ix) = self.parties.find(source) else {
            return;
        };
        for id in self.parties.get(ix).requests.clone() {
            self.release(id);
        }
        self.drop_requests(ix);
        self.withdraw(ix);
        self.parties.get_mut(ix).is_gone = true;
        self.fill_up_company(now);
    }

    /// Strikes out all that a source offers.
    pub(super) fn withdraw(&mut self, ix: PartyIx) {
        let party = self.parties.get_mut(ix);
        let is_web = party.is_web();
        for (file, offer) in std::mem::take(&mut party.offers) {
            if let Some(file) = self.files.get_mut(&file)
                && !is_web
            {
                file.count_offer(offer.as_ref(), false);
            }
        }
    }

    /// Strikes out one piece that a source turned out not to have.
    pub(super) fn lose(&mut self, ix: PartyIx, file_ix: FileIx, piece: u32) {
        let party = self.parties.get_mut(ix);
        let is_web = party.is_web();
        let (Some(offer), Some(file)) =
            (party.offers.get_mut(&file_ix), self.files.get_mut(&file_ix))
        else {
            return;
        };
        let before = offer.clone();
        let pieces = offer.get_or_insert_with(|| PieceSet::all(file.proved.pieces()));
        if pieces.remove(piece) && !is_web {
            file.count_offer(before.as_ref(), false);
            file.count_offer(offer.as_ref(), true);
        }
    }

    /// Those who ran out of work, if there is some again.
    pub(super) fn fill_idle(&mut self, now: Duration) {
        if self.is_at_limit && self.room() >= self.tuning.request_max {
            self.is_at_limit = false;
            self.has_freed = true;
        }
        if !std::mem::take(&mut self.has_freed) {
            return;
        }
        let mut idle: Vec<PartyIx> = std::mem::take(&mut self.idle).into_iter().collect();
        if idle.is_empty() {
            return;
        }
        // Nobody is always first.
        let turn = self.next_request as usize % idle.len();
        idle.rotate_left(turn);
        for ix in idle {
            self.fill(now, ix);
        }
    }

    /// Asks one source for as much as it should be asked for now.
    pub(super) fn fill(&mut self, now: Duration, ix: PartyIx) {
        loop {
            let party = self.parties.get(ix);
            if !party.is_usable(now) || party.is_aside {
                return;
            }
            let window = self.window(ix);
            let len = self.tuning.request_len(window);
            let window = window.min(party.trust(&self.tuning)) * self.share / 1_000;
            if !party.requests.is_empty() && party.outstanding + len > window {
                return;
            }
            let room = self.room();
            if room < self.tuning.request_min {
                self.is_at_limit = true;
                self.idle.insert(ix);
                return;
            }
            let is_out_of_work = party.requests.is_empty();
            let len = len.min(room);
            let mut picked = self.pick(now, ix, len);
            if picked.is_none() && is_out_of_work {
                picked = self.rob(now, ix, len);
            }
            let Some(pick) = picked else {
                self.idle.insert(ix);
                return;
            };
            self.ask(now, ix, pick);
        }
    }

    /// Bytes that may be asked for now, of whomever.
    pub(super) fn room(&self) -> u64 {
        let limit = self.tuning.outstanding_total_max;
        limit.saturating_sub(self.asked + self.checking)
    }

    fn ask(&mut self, now: Duration, ix: PartyIx, pick: Pick) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let Range { start, end } = pick.range;
        self.asked += end - start;
        let party = self.parties.get_mut(ix);
        party.on_asked(now, id, end - start);
        let file = self.files.get_mut(&pick.file).expect("just picked");
        file.last_activity = now;
        let active = file.active.get_mut(&pick.piece).expect("just picked");
        active.asked.push(Asked { id, start, end });
        self.effects.push_back(Effect::Request {
            source: party.source,
            request: id,
            file: file.sha256(),
            range: pick.range,
        });
        let request = Request {
            party: ix,
            file: pick.file,
            piece: pick.piece,
            at: start,
            end,
            is_doubled: false,
        };
        self.requests.insert(id, request);
    }

    /// What a source should be asked for next: the rest of its piece, then a piece that somebody left, then
    /// the rarest that is not begun, then the end of a piece that another works on.
    fn pick(&mut self, now: Duration, ix: PartyIx, len: u64) -> Option<Pick> {
        let party = self.parties.get_mut(ix);
        if let Some((file_ix, piece)) = party.current {
            let file = self.files.get(&file_ix);
            let active = file.and_then(|file| file.active.get(&piece));
            let own = active.filter(|active| active.owner == Some(ix));
            if let Some(gap) = own.and_then(Active::gap) {
                return Some(front(file_ix, piece, gap, len));
            }
            party.current = None;
        }
        for (&file_ix, file) in &mut self.files {
            let Some(gate) = gate(party, file, now, &self.tuning, self.is_web_open) else {
                continue;
            };
            let offer = party.offers[&file_ix].as_ref();
            let found = find_loose(file, ix, offer, gate);
            let found = found.or_else(|| file.begin_rarest(offer, gate == Gate::PeerlessOnly));
            if let Some(piece) = found {
                file.loose.remove(&piece);
                let active = file.active.get_mut(&piece).expect("loose or just begun");
                active.owner = Some(ix);
                if active.is_single && active.givers() != [ix] {
                    active.have.clear();
                }
                party.current = Some((file_ix, piece));
                let gap = active.gap().expect("loose pieces have one");
                return Some(front(file_ix, piece, gap, len));
            }
        }
        for (&file_ix, file) in &self.files {
            let gate = gate(party, file, now, &self.tuning, self.is_web_open);
            if gate != Some(Gate::Open) {
                continue;
            }
            let mut shared = file.active.iter().filter(|(_, active)| !active.is_single);
            let found = shared.find_map(|(piece, active)| {
                let gap = active.gap().filter(|_| party.has(file_ix, *piece))?;
                Some((*piece, gap))
            });
            if let Some((piece, gap)) = found {
                let range = gap.start.max(gap.end.saturating_sub(len))..gap.end;
                let file = file_ix;
                return Some(Pick { file, piece, range });
            }
        }
        None
    }
}

/// What a source may be asked for of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// Whatever it has.
    Open,
    /// A web seed while peers suffice: only what no peer has.
    PeerlessOnly,
}

/// `None`: nothing.
fn gate(
    party: &Party,
    file: &File,
    now: Duration,
    tuning: &super::Tuning,
    is_web_open: bool,
) -> Option<Gate> {
    if file.is_complete() || !party.offers.contains_key(&file.ix) {
        return None;
    }
    if !party.is_web() {
        return Some(Gate::Open);
    }
    if now.saturating_sub(file.started) < tuning.web_after {
        return None;
    }
    Some(if is_web_open {
        Gate::Open
    } else {
        Gate::PeerlessOnly
    })
}

/// A piece with bytes to ask for that nobody works on. One that must come from a single source is taken when
/// nobody else is asked for bytes of it.
fn find_loose(file: &mut File, ix: PartyIx, offer: Option<&PieceSet>, gate: Gate) -> Option<u32> {
    let (active, loose) = (&file.active, &file.loose);
    // Some have been filled by requests that were on their way.
    let stale = loose.iter().filter(|piece| {
        let there = active.get(piece);
        there.and_then(Active::gap).is_none()
    });
    let stale: Vec<u32> = stale.copied().collect();
    for piece in stale {
        file.loose.remove(&piece);
    }
    let mut loose = file.loose.iter().copied();
    loose.find(|piece| {
        let active = &file.active[piece];
        let may_begin = !active.is_single || active.asked.is_empty() || active.givers() == [ix];
        may_begin
            && offer.is_none_or(|pieces| pieces.has(*piece))
            && (gate == Gate::Open || file.is_without_peer(*piece))
    })
}

/// The first `len` bytes of a gap.
fn front(file: FileIx, piece: u32, gap: Range<u64>, len: u64) -> Pick {
    let range = gap.start..gap.end.min(gap.start + len);
    Pick { file, piece, range }
}
