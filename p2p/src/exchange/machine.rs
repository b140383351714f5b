//! The fetch machine: which source is asked for which bytes, what is done about slow, silent, busy and lying
//! ones, and when a file is whole. No I/O, no clock, no threads: the shell tells it what happened ([`Event`],
//! [`Machine::accept`]), carries out what it says ([`Machine::poll_effect`]) and wakes it
//! ([`Machine::wake_at`]). The same events with the same seed give the same effects.
//!
//! The shell's loop:
//!
//! ```text
//! event or bytes ──▶ handle() / accept() ──▶ poll_effect() until None ──▶ sleep until wake_at() or an event
//! ```
//!
//! The unit of transfer is a range within a piece, the unit of proof the piece. The machine notes for each
//! byte who gave it. A wrong piece from one peer names the liar. A wrong piece from several is fetched again
//! whole from one source; then those whose bytes differ are named.
//!
//! What must stay true: nobody is banned whose bytes were right; the bytes asked for never exceed [`Tuning::outstanding_total_max`]; a file is complete only when each of its pieces was proved.

mod blame;
mod company;
mod event;
mod file;
mod fill;
mod part;
mod party;
mod piece;
mod rate;
mod rob;
#[cfg(test)]
mod tests;
mod tick;
mod tuning;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use company::Company;
pub use event::{
    Accept, Effect, Ended, Event, Found, Progress, RequestId, RestReason, Source, SourceRate,
};
use file::{File, FileIx};
use owm_proto::{Ladder, Sha256};
use party::{Parties, Party, PartyIx};
use piece::Asked;
use tick::Steady;
pub use tuning::Tuning;

use super::PieceSet;

/// The machine. One serves a whole daemon, or one fetch; it knows any number of files and sources.
#[derive(Debug)]
pub struct Machine {
    tuning: Tuning,
    seed: u64,
    clock: Steady,
    /// In the order of their start: earlier files go first.
    files: BTreeMap<FileIx, File>,
    by_hash: HashMap<Sha256, FileIx>,
    next_file: u32,
    parties: Parties,
    requests: BTreeMap<RequestId, Request>,
    next_request: u64,
    effects: VecDeque<Effect>,
    /// Bytes of all requests that have not come.
    asked: u64,
    /// Bytes of pieces that are being checked.
    checking: u64,
    /// Who had room for more work than there was. Tried again when work comes back.
    idle: BTreeSet<PartyIx>,
    /// Whether work has come back since the idle were last tried.
    has_freed: bool,
    /// Somebody was asked for nothing because the limit for all was reached.
    is_at_limit: bool,
    /// Web seeds may be asked for anything since peers don't suffice.
    is_web_open: bool,
    /// Since when peers don't suffice.
    poor_since: Option<Duration>,
    /// Thousandths of its window that each source gets, so that all together stay below the limit.
    share: u64,
    company: Company,
}

/// Bytes that somebody was asked for.
#[derive(Debug)]
struct Request {
    party: PartyIx,
    file: FileIx,
    piece: u32,
    /// The next byte to come.
    at: u64,
    end: u64,
    /// Somebody else was asked for the same since.
    is_doubled: bool,
}

impl Machine {
    /// With nothing to do. `seed` decides which of equally good pieces is asked for first.
    pub fn new(tuning: Tuning, seed: u64) -> Self {
        Self {
            tuning,
            seed,
            clock: Steady::default(),
            files: BTreeMap::new(),
            by_hash: HashMap::new(),
            next_file: 0,
            parties: Parties::default(),
            requests: BTreeMap::new(),
            next_request: 0,
            effects: VecDeque::new(),
            asked: 0,
            checking: 0,
            idle: BTreeSet::new(),
            has_freed: false,
            is_at_limit: false,
            is_web_open: false,
            poor_since: None,
            share: 1_000,
            company: Company::default(),
        }
    }

    /// Takes in what happened at `now`, a time since some fixed moment that never goes back.
    pub fn handle(&mut self, now: Duration, event: Event) {
        let now = self.clock.steady(now);
        match event {
            Event::Start { file, have } => self.on_start(now, file, have),
            Event::Stop { file } => self.on_stop(&file),
            Event::Offered {
                source,
                file,
                pieces,
                rtt,
            } => self.on_offered(now, source, &file, pieces, rtt),
            Event::Gained {
                source,
                file,
                piece,
            } => self.on_gained(now, source, &file, piece),
            Event::Gone { source } => self.on_gone(now, source),
            Event::Ended { request, how } => self.on_ended(now, request, how),
            Event::Checked { file, piece, found } => self.on_checked(now, &file, piece, found),
            Event::Digested {
                file,
                piece,
                digests,
            } => self.on_digested(now, &file, piece, &digests),
            Event::Tick => self.on_tick(now),
        }
        self.fill_idle(now);
    }

    /// `available` next bytes of this request have arrived, in order: what to do with them. To be called
    /// **before** they are written, until all are dealt with:
    ///
    /// ```text
    /// while !bytes.is_empty() {
    ///     match machine.accept(now, request, bytes.len()) {
    ///         Write { file, offset, bytes: n } => { write(file, offset, &bytes[..n]); bytes = &bytes[n..] }
    ///         Skip { bytes: n } => bytes = &bytes[n..],
    ///         Gone => break,
    ///     }
    /// }
    /// ```
    pub fn accept(&mut self, now: Duration, id: RequestId, available: usize) -> Accept {
        let now = self.clock.steady(now);
        let Some(request) = self.requests.get_mut(&id) else {
            return Accept::Gone;
        };
        if available == 0 {
            return Accept::Skip { bytes: 0 };
        }
        let file = self.files.get_mut(&request.file);
        let file = file.expect("requests end with their file");
        let active = file.active.get_mut(&request.piece);
        let active = active.expect("requests end with their piece");
        let (offset, step) = (request.at, active.step(request.at, request.end));
        let bytes = step.bytes.min(available as u64);
        request.at += bytes;
        self.asked -= bytes;
        self.company.add(now, bytes);
        let (party_ix, piece) = (request.party, request.piece);
        let is_done = request.at == request.end;
        let party = self.parties.get_mut(party_ix);
        party.on_bytes(now, id, bytes, step.is_new);
        file.last_activity = now;
        if step.is_new {
            active.note(offset, bytes, party_ix);
        }
        let is_full = active.is_full();
        let (sha256, file_ix) = (file.ladder.spec().sha256(), file.ix);
        if is_done {
            party.on_done(id);
            active.asked.retain(|asked| asked.id != id);
            let others = active.asked.clone();
            self.requests.remove(&id);
            self.undouble(&others);
        }
        if is_full {
            self.begin_check(file_ix, piece);
        }
        self.fill(now, party_ix);
        self.fill_idle(now);
        let bytes = usize::try_from(bytes).expect("no more than were available");
        if step.is_new {
            Accept::Write {
                file: sha256,
                offset,
                bytes,
            }
        } else {
            Accept::Skip { bytes }
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Event::Tick`] is due; `None`: not before something else happens.
    pub fn wake_at(&self) -> Option<Duration> {
        let is_busy = self.files.values().any(|file| !file.is_complete());
        is_busy.then(|| self.clock.next_tick())
    }

    /// Bytes asked for that have not come, of all sources.
    pub fn outstanding(&self) -> u64 {
        self.asked
    }

    /// How far a file is; `None`: it is not wanted.
    pub fn progress(&self, file: &Sha256) -> Option<Progress> {
        let file = &self.files[self.by_hash.get(file)?];
        let now = self.clock.now();
        let sources = self.parties.iter();
        let sources = sources.filter(|p| p.is_usable(now) && p.offers.contains_key(&file.ix));
        Some(Progress {
            pieces: file.proved.pieces(),
            proved: file.proved.count(),
            proved_bytes: file.proved_bytes,
            sources: sources.count() as u32,
        })
    }

    /// Whether a source may have something that is missing: it says so, or has not said yet what it has of a file.
    pub fn may_have(&self, source: Source) -> bool {
        let party = self.parties.find(source).map(|ix| self.parties.get(ix));
        let is_boaster =
            |party: &Party| party.resting(self.clock.now()) == Some(RestReason::FalseClaims);
        if party.is_some_and(is_boaster) {
            return false;
        }
        let mut missing = self.files.values().filter(|file| !file.is_complete());
        missing.any(|file| match party.and_then(|p| p.offers.get(&file.ix)) {
            None | Some(None) => true,
            Some(Some(pieces)) => pieces.iter().any(|piece| !file.proved.has(piece)),
        })
    }

    /// All sources that are known.
    pub fn rates(&self) -> Vec<SourceRate> {
        let now = self.clock.now();
        let known = self.parties.iter().filter(|party| !party.is_gone);
        known
            .map(|party| SourceRate {
                source: party.source,
                bytes: party.bytes,
                bytes_per_s: party.rate.at(now).unwrap_or(0),
                outstanding: party.outstanding,
                resting: party.resting(now),
            })
            .collect()
    }

    /// Its limits.
    pub const fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    fn on_start(&mut self, now: Duration, ladder: Arc<Ladder>, have: PieceSet) {
        let sha256 = ladder.spec().sha256();
        if let Some(ix) = self.by_hash.get(&sha256) {
            let file = self.files.get_mut(ix).expect("both are kept together");
            file.wanted += 1;
            if file.is_complete() {
                self.effects.push_back(Effect::Complete { file: sha256 });
            }
            return;
        }
        let ix = FileIx(self.next_file);
        self.next_file += 1;
        let file = File::new(ix, ladder, have, now, self.seed);
        if file.is_complete() {
            self.effects.push_back(Effect::Complete { file: sha256 });
        }
        self.by_hash.insert(sha256, ix);
        self.files.insert(ix, file);
    }

    fn on_stop(&mut self, sha256: &Sha256) {
        let Some(&ix) = self.by_hash.get(sha256) else {
            return;
        };
        let file = self.files.get_mut(&ix).expect("both are kept together");
        file.wanted -= 1;
        if file.wanted > 0 {
            return;
        }
        let requests = self.requests.iter().filter(|(_, r)| r.file == ix);
        let requests: Vec<RequestId> = requests.map(|(id, _)| *id).collect();
        for id in requests {
            self.cancel(id);
        }
        let file = self.files.remove(&ix).expect("looked up above");
        self.checking -= file.checking_bytes();
        self.by_hash.remove(sha256);
        for party in self.parties.iter_mut() {
            party.offers.remove(&ix);
        }
        self.has_freed = true;
    }

    fn on_ended(&mut self, now: Duration, id: RequestId, how: Ended) {
        let Some(request) = self.release(id) else {
            return;
        };
        let ix = request.party;
        match how {
            Ended::Busy { retry_after } => {
                let party = self.parties.get_mut(ix);
                party.busies = party.busies.saturating_add(1);
                let own = self.tuning.rest_after(party.busies.min(3));
                let pause = retry_after.max(own).min(self.tuning.rest_max);
                self.rest(now, ix, RestReason::Busy, pause);
            }
            Ended::Failed => self.strike(now, ix, RestReason::Failed),
            Ended::Missing => {
                self.lose(ix, request.file, request.piece);
                let party = self.parties.get_mut(ix);
                party.false_claims += 1;
                if party.false_claims >= self.tuning.false_claims_max {
                    party.false_claims = 0;
                    self.withdraw(ix);
                    let pause = self.tuning.rest_after_false_claims;
                    self.rest(now, ix, RestReason::FalseClaims, pause);
                } else {
                    self.fill(now, ix);
                }
            }
        }
    }

    /// One more stall or failure without a completed request between: the rest doubles.
    fn strike(&mut self, now: Duration, ix: PartyIx, reason: RestReason) {
        let party = self.parties.get_mut(ix);
        party.strikes = party.strikes.saturating_add(1);
        let pause = self.tuning.rest_after(party.strikes);
        self.rest(now, ix, reason, pause);
    }

    /// Nothing is asked of it for `pause`.
    fn rest(&mut self, now: Duration, ix: PartyIx, reason: RestReason, pause: Duration) {
        self.drop_requests(ix);
        let until = now.saturating_add(pause);
        let party = self.parties.get_mut(ix);
        party.rest = Some((until, reason));
        self.effects.push_back(Effect::Rest {
            source: party.source,
            reason,
            until: self.clock.outside(until),
        });
        self.fill_up_company(now);
    }

    /// Cancels all that it was asked for, and gives back the piece that it worked on.
    fn drop_requests(&mut self, ix: PartyIx) {
        for id in self.parties.get(ix).requests.clone() {
            self.cancel(id);
        }
        if let Some((file, piece)) = self.parties.get_mut(ix).current.take() {
            self.loosen(file, piece);
        }
        self.idle.remove(&ix);
    }

    /// Ends a request and tells the shell.
    fn cancel(&mut self, id: RequestId) {
        if let Some(request) = self.release(id) {
            let source = self.parties.get(request.party).source;
            let effect = Effect::Cancel {
                source,
                request: id,
            };
            self.effects.push_back(effect);
        }
    }

    /// Ends a request; what it did not bring may be asked of anybody again.
    fn release(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        let rest = request.end - request.at;
        self.asked -= rest;
        self.parties.get_mut(request.party).on_released(id, rest);
        let file = self.files.get_mut(&request.file);
        if let Some(active) = file.and_then(|file| file.active.get_mut(&request.piece)) {
            active.asked.retain(|asked| asked.id != id);
            let others = active.asked.clone();
            self.undouble(&others);
        }
        self.loosen(request.file, request.piece);
        self.idle.insert(request.party);
        Some(request)
    }

    /// One request of a piece has ended: who was asked for the same may be too slow again.
    fn undouble(&mut self, others: &[Asked]) {
        for asked in others {
            if let Some(request) = self.requests.get_mut(&asked.id) {
                request.is_doubled = false;
            }
        }
    }

    /// Gives a piece back to all, if bytes of it are to be asked for.
    fn loosen(&mut self, file: FileIx, piece: u32) {
        let Some(file) = self.files.get_mut(&file) else {
            return;
        };
        if file.loosen(piece) {
            self.has_freed = true;
        }
    }
}
