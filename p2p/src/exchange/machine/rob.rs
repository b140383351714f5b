//! When a source has nothing left to be asked for while others still have: it takes over from the one that
//! would take longest, if that is much slower (rqbit's rule: first who is ten times slower, then three
//! times; the worst comes first here, so one threshold does). If nobody is, the last bytes are asked for
//! twice: whoever brings them first, the other's are cancelled.

use std::time::Duration;

use super::{Machine, RequestId, fill::Pick, party::PartyIx};

/// Work is taken away from who would need so many times longer.
const STEAL_FACTOR: u32 = 3;

/// A piece that must come from one source is begun anew with another only if that is so much faster.
const RESTART_FACTOR: u32 = 10;

/// Below this wait nothing is gained by asking somebody else.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// What a source whose rate is not known may be expected to do, in bytes per second, if nothing is known
/// of the others either.
const RATE_GUESS: u64 = 1 << 20;

/// What somebody else was asked for and may be done faster.
#[derive(Clone, Copy, Debug)]
struct Victim {
    id: RequestId,
    wait: Duration,
    rest: u64,
    is_single: bool,
}

impl Machine {
    /// What this idle source can do of the others' work.
    pub(super) fn rob(&mut self, now: Duration, ix: PartyIx, len: u64) -> Option<Pick> {
        let guess = self.usual_rate(now);
        let victim = self.slowest(now, ix, guess)?;
        let thief = self.parties.get(ix);
        let rtt = thief.rtt();
        let mine = thief.eta(now, victim.rest, guess) + rtt;
        let request = &self.requests[&victim.id];
        let (file_ix, piece) = (request.file, request.piece);
        let factor = if victim.is_single {
            RESTART_FACTOR
        } else {
            STEAL_FACTOR
        };
        if victim.wait > mine * factor + WAIT_MIN {
            if victim.is_single {
                let file = self.files.get(&file_ix)?;
                for asked in file.active[&piece].asked.clone() {
                    self.cancel(asked.id);
                }
            } else {
                self.cancel(victim.id);
            }
            let file = self.files.get_mut(&file_ix)?;
            file.loose.remove(&piece);
            let active = file.active.get_mut(&piece)?;
            active.owner = Some(ix);
            let gap = active.gap()?;
            self.parties.get_mut(ix).current = Some((file_ix, piece));
            let range = gap.start..gap.end.min(gap.start + len);
            return Some(Pick {
                file: file_ix,
                piece,
                range,
            });
        }
        if !victim.is_single && victim.wait > mine * 3 / 2 + WAIT_MIN {
            let active = &self.files[&file_ix].active[&piece];
            let (mut at, end) = (request.at, request.end);
            let mut step = active.step(at, end);
            // What somebody else has brought meanwhile is not asked for a third time.
            while !step.is_new {
                at += step.bytes;
                if at == end {
                    return None;
                }
                step = active.step(at, end);
            }
            let range = at..at + step.bytes.min(len);
            self.requests.get_mut(&victim.id)?.is_doubled = true;
            return Some(Pick {
                file: file_ix,
                piece,
                range,
            });
        }
        None
    }

    /// The request that will take longest of those that this source could do.
    fn slowest(&self, now: Duration, ix: PartyIx, guess: u64) -> Option<Victim> {
        let thief = self.parties.get(ix);
        let mut worst: Option<Victim> = None;
        for other in self.parties.iter().filter(|p| !p.requests.is_empty()) {
            let mut queued = 0;
            for id in &other.requests {
                let request = &self.requests[id];
                let rest = request.end - request.at;
                queued += rest;
                let is_mine = request.party == ix;
                if is_mine || request.is_doubled || !thief.has(request.file, request.piece) {
                    continue;
                }
                if thief.is_web() && !self.is_web_open {
                    continue;
                }
                let active = &self.files[&request.file].active[&request.piece];
                let wait = other.eta(now, queued, guess);
                if worst.is_none_or(|worst| wait > worst.wait) {
                    worst = Some(Victim {
                        id: *id,
                        wait,
                        rest: if active.is_single { active.len() } else { rest },
                        is_single: active.is_single,
                    });
                }
            }
        }
        worst
    }

    /// Bytes per second of a source about which nothing is known: the mean of the others.
    fn usual_rate(&self, now: Duration) -> u64 {
        let known = self.parties.iter().filter(|party| party.is_usable(now));
        let rates: Vec<u64> = known.filter_map(|party| party.rate.known()).collect();
        let count = rates.len() as u64;
        rates
            .iter()
            .sum::<u64>()
            .checked_div(count)
            .unwrap_or(RATE_GUESS)
    }
}
