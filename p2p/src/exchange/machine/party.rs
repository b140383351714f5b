//! One source as the machine sees it: what it offers, how fast it is, what it was asked for, and what is held
//! against it. Sources that went away are kept while bytes of theirs wait for their proof, and as long as
//! there is room, so that coming back wipes nothing off.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::{
    RequestId, RestReason, Source, Tuning,
    file::FileIx,
    rate::Rate,
    tick::{TRICKLE_BYTES, TRICKLE_WINDOW},
};
use crate::exchange::PieceSet;

/// A source's number; never given twice, so that bytes keep the name of who gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PartyIx(u32);

impl PartyIx {
    /// A number by which equals are put in an order that is another with each seed.
    pub(super) fn lot(self, seed: u64) -> u64 {
        // The steps of SplitMix64.
        let mixed = (seed ^ u64::from(self.0)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Until the round trip was measured.
const RTT_GUESS: Duration = Duration::from_millis(100);

/// Counted at least, in reckoning how much is on its way: on a near link it is not the way that takes time but waking
/// up, on both sides, for each request. (Two requests in this time, twice as much outstanding.)
const RTT_LEAST: Duration = Duration::from_millis(5);

/// Seconds of work that a slow source is given at most: what it holds up if it gets worse.
const SLOW_QUEUE_SECS: u64 = 2;

#[derive(Debug)]
pub(super) struct Party {
    pub(super) source: Source,
    /// `None`: all of the file.
    pub(super) offers: BTreeMap<FileIx, Option<PieceSet>>,
    pub(super) rate: Rate,
    rtt: Option<Duration>,
    /// A request that was sent while nothing else was asked: its first byte tells the round trip.
    probe: Option<(RequestId, Duration)>,
    pub(super) outstanding: u64,
    /// In the order they were sent.
    pub(super) requests: Vec<RequestId>,
    /// The piece whose bytes it is asked for one after the other.
    pub(super) current: Option<(FileIx, u32)>,
    /// Bytes taken from it.
    pub(super) bytes: u64,
    pub(super) last_byte: Duration,
    /// Since when it has had something to deliver without pause.
    pub(super) busy_since: Duration,
    /// What came since when, to tell a trickle.
    window: (Duration, u64),
    pub(super) rest: Option<(Duration, RestReason)>,
    pub(super) strikes: u32,
    pub(super) busies: u32,
    pub(super) false_claims: u32,
    pub(super) is_gone: bool,
    /// Others suffice: it is asked for nothing at present.
    pub(super) is_aside: bool,
    /// Proved to have given wrong bytes.
    pub(super) is_out: bool,
}

impl Party {
    fn new(source: Source) -> Self {
        Self {
            source,
            offers: BTreeMap::new(),
            rate: Rate::default(),
            rtt: None,
            probe: None,
            outstanding: 0,
            requests: Vec::new(),
            current: None,
            bytes: 0,
            last_byte: Duration::ZERO,
            busy_since: Duration::ZERO,
            window: (Duration::ZERO, 0),
            rest: None,
            strikes: 0,
            busies: 0,
            false_claims: 0,
            is_gone: false,
            is_aside: false,
            is_out: false,
        }
    }

    pub(super) fn is_web(&self) -> bool {
        matches!(self.source, Source::Web(_))
    }

    /// Whether it may be asked now.
    pub(super) fn is_usable(&self, now: Duration) -> bool {
        !self.is_gone && !self.is_out && self.resting(now).is_none()
    }

    /// A peer that has something wanted, whether it is asked for it or set aside.
    pub(super) fn is_able(&self, now: Duration) -> bool {
        !self.is_web() && self.is_usable(now) && !self.offers.is_empty()
    }

    pub(super) fn resting(&self, now: Duration) -> Option<RestReason> {
        self.rest
            .filter(|(until, _)| now < *until)
            .map(|(_, reason)| reason)
    }

    /// Whether it says it has this piece.
    pub(super) fn has(&self, file: FileIx, piece: u32) -> bool {
        match self.offers.get(&file) {
            Some(Some(pieces)) => pieces.has(piece),
            Some(None) => true,
            None => false,
        }
    }

    pub(super) fn measured_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(self.rtt.map_or(rtt, |before| before.min(rtt)));
    }

    pub(super) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(RTT_GUESS)
    }

    /// Bytes that it should be asked for at any time: twice what fits the way there and back, within
    /// limits; little for one that has just stood still.
    pub(super) fn window(&self, tuning: &Tuning) -> u64 {
        if self.strikes > 0 {
            return tuning.request_min;
        }
        let Some(rate) = self.rate.known() else {
            return tuning.outstanding_min;
        };
        let rtt = self.rtt().max(RTT_LEAST);
        let rtt_micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        let on_the_way = u128::from(rate) * u128::from(rtt_micros) / 1_000_000;
        let wanted = u64::try_from(2 * on_the_way).unwrap_or(u64::MAX);
        let wanted = wanted.clamp(tuning.outstanding_min, tuning.outstanding_max);
        wanted.min(rate.saturating_mul(SLOW_QUEUE_SECS).max(tuning.request_min))
    }

    /// Bytes that one of which nothing is known may be asked for: the more it has brought, the more.
    pub(super) fn trust(&self, tuning: &Tuning) -> u64 {
        match self.rate.known() {
            Some(_) => u64::MAX,
            None => tuning.outstanding_first.saturating_add(self.bytes),
        }
    }

    /// How long it takes to bring so many bytes; `fallback`: bytes per second while its own are unknown.
    pub(super) fn eta(&self, now: Duration, bytes: u64, fallback: u64) -> Duration {
        let rate = self.rate.at(now).unwrap_or(fallback).max(1);
        Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)
    }

    pub(super) fn on_asked(&mut self, now: Duration, id: RequestId, bytes: u64) {
        if self.requests.is_empty() {
            self.rate.begin(now);
            self.probe = Some((id, now));
            self.last_byte = now;
            self.busy_since = now;
            self.window = (now, 0);
        }
        self.requests.push(id);
        self.outstanding += bytes;
    }

    pub(super) fn on_bytes(&mut self, now: Duration, id: RequestId, bytes: u64, is_new: bool) {
        if let Some((_, sent)) = self.probe.take_if(|(probe, _)| *probe == id) {
            self.measured_rtt(now.saturating_sub(sent));
        }
        self.outstanding -= bytes;
        self.last_byte = now;
        self.window.1 += bytes;
        self.rate.add(now, bytes);
        if is_new {
            self.bytes += bytes;
        }
    }

    /// Whether it has brought next to nothing although there was something to bring; looked at once a window.
    pub(super) fn trickles(&mut self, now: Duration) -> bool {
        let (since, bytes) = self.window;
        if now.saturating_sub(since) < TRICKLE_WINDOW {
            return false;
        }
        self.window = (now, 0);
        bytes < TRICKLE_BYTES
    }

    /// All bytes of a request came.
    pub(super) fn on_done(&mut self, id: RequestId) {
        self.requests.retain(|other| *other != id);
        self.strikes = 0;
        self.busies = 0;
    }

    pub(super) fn on_released(&mut self, id: RequestId, rest: u64) {
        self.requests.retain(|other| *other != id);
        self.outstanding -= rest;
        self.probe.take_if(|(probe, _)| *probe == id);
    }
}

/// All sources.
#[derive(Debug, Default)]
pub(super) struct Parties {
    by_ix: BTreeMap<PartyIx, Party>,
    by_source: HashMap<Source, PartyIx>,
    next: u32,
}

impl Parties {
    /// A source that is in the table: numbers are only given by it, and outlive what refers to them.
    pub(super) fn get(&self, ix: PartyIx) -> &Party {
        &self.by_ix[&ix]
    }

    pub(super) fn get_mut(&mut self, ix: PartyIx) -> &mut Party {
        self.by_ix.get_mut(&ix).expect("kept while referred to")
    }

    /// One that may have been forgotten.
    pub(super) fn find_ix(&mut self, ix: PartyIx) -> Option<&mut Party> {
        self.by_ix.get_mut(&ix)
    }

    pub(super) fn find(&self, source: Source) -> Option<PartyIx> {
        self.by_source.get(&source).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Party> {
        self.by_ix.values()
    }

    /// Those who have been asked for something.
    pub(super) fn busy(&self) -> impl Iterator<Item = (PartyIx, &Party)> {
        let busy = self
            .by_ix
            .iter()
            .filter(|(_, party)| !party.requests.is_empty());
        busy.map(|(ix, party)| (*ix, party))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Party> {
        self.by_ix.values_mut()
    }

    pub(super) fn ixs(&self) -> Vec<PartyIx> {
        self.by_ix.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_ix.len()
    }

    pub(super) fn add(&mut self, source: Source) -> PartyIx {
        let ix = PartyIx(self.next);
        self.next += 1;
        self.by_ix.insert(ix, Party::new(source));
        self.by_source.insert(source, ix);
        ix
    }

    /// Forgets half of those that are away and not in `needed`, those known longest first; those proved
    /// wrong are forgotten last.
    pub(super) fn forget(&mut self, needed: &BTreeSet<PartyIx>) {
        let away = |(ix, party): &(&PartyIx, &Party)| party.is_gone && !needed.contains(ix);
        let mut gone: Vec<(bool, PartyIx)> = self
            .by_ix
            .iter()
            .filter(away)
            .map(|(ix, party)| (party.is_out, *ix))
            .collect();
        gone.sort_unstable();
        gone.truncate(gone.len().div_ceil(2));
        for (_, ix) in gone {
            if let Some(party) = self.by_ix.remove(&ix) {
                self.by_source.remove(&party.source);
            }
        }
    }
}
