//! One simulated fetch: virtual time, the sources, the disk, and the eyes on what must hold.

mod watch;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use owm_p2p::exchange::{
    PieceSet,
    machine::{Accept, Effect, Ended, Event, Machine, RequestId, Source},
};
use owm_proto::{Ladder, Sha256};

use super::{
    disk::Disk,
    peer::{Job, Peer},
    scenario::{Kind, Scenario, Spec, ladders},
};
use crate::dice::Dice;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What did not hold.
    pub violations: Vec<String>,
    /// When everything was there.
    pub took: Duration,
    /// Bytes that came in.
    pub fetched: u64,
    /// Bytes that were missing at the start.
    pub needed: u64,
    /// Bytes that liars spoilt.
    pub spoilt: u64,
    /// Sources that were banned.
    pub banned: usize,
}

/// What comes to pass later.
#[derive(Debug)]
enum Later {
    Ask(usize, u32, Job),
    Withdraw(usize, RequestId),
    Serve(usize, u32),
    Arrive(usize, u32, RequestId, u64, bool),
    End(usize, u32, RequestId, Ended),
    Checked(Sha256, u32),
    Digested(Sha256, u32, Vec<Range<u64>>),
    Leave(usize, bool),
    Return(usize),
    Notice(usize, u32),
    Gain(usize, Sha256, u32),
}

/// A simulated fetch.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    dice: Dice,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    later: BTreeMap<usize, Later>,
    count: u64,
    machine: Machine,
    peers: Vec<Peer>,
    files: BTreeMap<Sha256, Wanted>,
    /// Bytes asked for that have not come, as the shell knows it.
    asked: BTreeMap<RequestId, (usize, u64)>,
    outcome: Outcome,
}

#[derive(Debug)]
struct Wanted {
    ladder: Arc<Ladder>,
    disk: Disk,
    is_complete: bool,
    /// Being checked or proved: nothing may be written there.
    is_shut: PieceSet,
    proved: PieceSet,
}

impl World {
    /// At the moment when the files are wanted.
    pub fn new(scenario: Scenario) -> Self {
        let peers = scenario
            .sources
            .iter()
            .zip(0..)
            .map(|(spec, n)| Peer::new(n, *spec));
        Self {
            dice: Dice::new(scenario.seed, 1),
            now: Duration::from_secs(100),
            queue: BinaryHeap::new(),
            later: BTreeMap::new(),
            count: 0,
            machine: Machine::new(scenario.tuning.clone(), scenario.seed),
            peers: peers.collect(),
            files: BTreeMap::new(),
            asked: BTreeMap::new(),
            outcome: Outcome {
                violations: Vec::new(),
                took: Duration::ZERO,
                fetched: 0,
                needed: 0,
                spoilt: 0,
                banned: 0,
            },
            scenario,
        }
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Outcome {
        let start = self.now;
        for ladder in self.scenario.files.clone() {
            self.want(&Arc::clone(&ladders()[ladder]));
        }
        for n in 0..self.peers.len() {
            self.appear(n);
        }
        // As long as the first source alone would need three times over, and the rests after all mischief.
        let alone = self.outcome.needed / self.scenario.sources[0].rate.max(1);
        let end = start + Duration::from_secs(300 + 3 * alone);
        while !self.is_done() && self.now < end && self.outcome.violations.len() < 5 {
            if !self.step(end) {
                break;
            }
        }
        self.outcome.took = self.now.saturating_sub(start);
        self.judge();
        self.outcome
    }

    fn is_done(&self) -> bool {
        self.files.values().all(|file| file.is_complete)
    }

    fn want(&mut self, ladder: &Arc<Ladder>) {
        let mut have = PieceSet::none(ladder.pieces());
        let mut disk = Disk::default();
        for piece in 0..ladder.pieces() {
            let range = ladder.range(piece);
            if self.dice.chance(self.scenario.have_permille) {
                have.add(piece);
                disk.write(range, 0);
            } else {
                self.outcome.needed += range.end - range.start;
            }
        }
        let wanted = Wanted {
            ladder: Arc::clone(ladder),
            disk,
            is_complete: false,
            is_shut: have.clone(),
            proved: have.clone(),
        };
        self.files.insert(ladder.spec().sha256(), wanted);
        // Two manifests may name the same file.
        for _ in 0..self.dice.within(1, 2) {
            let (file, have) = (Arc::clone(ladder), have.clone());
            self.tell(Event::Start { file, have });
        }
    }

    /// A source says what it has, and plans what it will do.
    fn appear(&mut self, n: usize) {
        self.peers[n].is_up = true;
        let (source, kind) = (self.peers[n].source, self.peers[n].spec.kind);
        let files: Vec<(Sha256, u32)> = self
            .files
            .iter()
            .map(|(f, w)| (*f, w.ladder.pieces()))
            .collect();
        for (file, count) in files {
            let pieces = (kind == Kind::Partial).then(|| {
                let mut some = PieceSet::none(count);
                for piece in 0..count {
                    if self.dice.chance(400) {
                        some.add(piece);
                    } else {
                        let at = Duration::from_millis(self.dice.within(100, 60_000));
                        self.plan(at, Later::Gain(n, file, piece));
                    }
                }
                some
            });
            let rtt = self
                .dice
                .chance(500)
                .then_some(self.peers[n].spec.delay * 2);
            self.tell(Event::Offered {
                source,
                file,
                pieces,
                rtt,
            });
        }
        if kind == Kind::Restless {
            let stay = Duration::from_millis(self.dice.within(500, 20_000));
            self.plan(stay, Later::Leave(n, true));
        }
    }

    fn plan(&mut self, after: Duration, what: Later) {
        let at = self.count as usize;
        self.queue.push(Reverse((self.now + after, self.count, at)));
        self.later.insert(at, what);
        self.count += 1;
    }

    /// The next thing; false if nothing will happen any more.
    fn step(&mut self, end: Duration) -> bool {
        let next = self.queue.peek().map(|Reverse((at, ..))| *at);
        let wake = self.machine.wake_at().map(|at| at.max(self.now));
        match (next, wake) {
            (None, None) => false,
            (next, Some(wake)) if next.is_none_or(|next| wake <= next) => {
                self.now = wake.min(end);
                self.tell(Event::Tick);
                true
            }
            _ => {
                let Reverse((at, _, id)) = self.queue.pop().expect("peeked");
                self.now = at;
                let what = self.later.remove(&id).expect("kept together");
                self.happen(what);
                true
            }
        }
    }

    fn happen(&mut self, what: Later) {
        match what {
            Later::Ask(n, epoch, job) if self.is_there(n, epoch) => self.asked_of(n, job),
            Later::Serve(n, epoch) if self.is_there(n, epoch) => self.serve(n),
            Later::Withdraw(n, request) => {
                let queue = &mut self.peers[n].queue;
                queue.retain(|job| job.request != request);
            }
            Later::Arrive(n, epoch, request, bytes, is_lie) if self.peers[n].epoch == epoch => {
                self.arrive(n, request, bytes, is_lie);
            }
            Later::End(n, epoch, request, how) if self.peers[n].epoch == epoch => {
                self.asked.remove(&request);
                self.tell(Event::Ended { request, how });
            }
            Later::Checked(file, piece) => self.checked(file, piece),
            Later::Digested(file, piece, ranges) => {
                let disk = &self.files[&file].disk;
                let digests = ranges.iter().map(|range| disk.digest(range)).collect();
                self.tell(Event::Digested {
                    file,
                    piece,
                    digests,
                });
            }
            Later::Leave(n, does_return) => self.leave(n, does_return),
            Later::Return(n) => self.appear(n),
            Later::Notice(n, epoch) if self.peers[n].epoch == epoch && !self.peers[n].is_up => {
                let source = self.peers[n].source;
                self.asked.retain(|_, (of, _)| *of != n);
                self.tell(Event::Gone { source });
            }
            Later::Gain(n, file, piece) if self.peers[n].is_up => {
                let source = self.peers[n].source;
                self.tell(Event::Gained {
                    source,
                    file,
                    piece,
                });
            }
            _ => {}
        }
    }

    fn is_there(&self, n: usize, epoch: u32) -> bool {
        self.peers[n].is_up && self.peers[n].epoch == epoch
    }

    /// A request has reached a source.
    fn asked_of(&mut self, n: usize, mut job: Job) {
        let Spec { kind, delay, .. } = self.peers[n].spec;
        let epoch = self.peers[n].epoch;
        let left = job.range.end - job.range.start;
        let refusal = match kind {
            Kind::Silent => return,
            Kind::Boaster => Some(Ended::Missing),
            Kind::Busy { permille } if self.dice.chance(permille) => Some(Ended::Busy {
                retry_after: Duration::from_millis(self.dice.within(0, 5_000)),
            }),
            _ => None,
        };
        if let Some(how) = refusal {
            self.plan(delay, Later::End(n, epoch, job.request, how));
            return;
        }
        job.is_lie = match kind {
            Kind::Liar { permille } => self.dice.chance(permille),
            Kind::Web { is_wrong } => is_wrong,
            _ => false,
        };
        if let Kind::Failing { permille } = kind
            && self.dice.chance(permille)
        {
            job.breaks_at = Some(self.dice.within(1, left));
        }
        self.peers[n].queue.push_back(job);
        if !self.peers[n].is_serving {
            self.peers[n].is_serving = true;
            self.serve(n);
        }
    }

    /// A source sends the next bytes of its first request.
    fn serve(&mut self, n: usize) {
        let peer = &mut self.peers[n];
        let (epoch, delay) = (peer.epoch, peer.spec.delay);
        let Some(job) = peer.queue.front() else {
            peer.is_serving = false;
            return;
        };
        let left = job.range.end - job.range.start;
        let request = job.request;
        if job.breaks_at.is_some_and(|at| left <= at) {
            // The stream breaks, with all that was asked in it.
            let broken = std::mem::take(&mut peer.queue);
            peer.is_serving = false;
            for job in broken {
                self.plan(delay, Later::End(n, epoch, job.request, Ended::Failed));
            }
            return;
        }
        let is_lie = job.is_lie;
        let (bytes, time) = peer.step(left);
        let job = peer.queue.front_mut().expect("looked at above");
        job.range.start += bytes;
        if job.range.is_empty() {
            peer.queue.pop_front();
        }
        self.plan(
            time + delay,
            Later::Arrive(n, epoch, request, bytes, is_lie),
        );
        self.plan(time, Later::Serve(n, epoch));
    }

    /// Bytes have come in.
    fn arrive(&mut self, n: usize, request: RequestId, bytes: u64, is_lie: bool) {
        self.outcome.fetched += bytes;
        self.peers[n].sent += bytes;
        if let Some((_, left)) = self.asked.get_mut(&request) {
            *left -= bytes;
            if *left == 0 {
                self.asked.remove(&request);
            }
        }
        let mut left = bytes as usize;
        while left > 0 {
            match self.machine.accept(self.now, request, left) {
                Accept::Write {
                    file,
                    offset,
                    bytes,
                } => {
                    let range = offset..offset + bytes as u64;
                    self.write(n, file, range, is_lie);
                    left -= bytes;
                }
                Accept::Skip { bytes } => left -= bytes,
                Accept::Gone => break,
            }
        }
        self.obey();
    }

    fn write(&mut self, n: usize, file: Sha256, range: Range<u64>, is_lie: bool) {
        let wanted = self
            .files
            .get_mut(&file)
            .expect("only wanted files are written");
        let piece = (range.start / wanted.ladder.piece_len()) as u32;
        let within = wanted.ladder.range(piece);
        if wanted.is_shut.has(piece) || range.end > within.end {
            let what = format!("bytes {range:?} written into piece {piece}, which is shut");
            self.outcome.violations.push(what);
        }
        let taint = if is_lie { n as u32 + 1 } else { 0 };
        wanted.disk.write(range, taint);
        self.peers[n].has_lied |= is_lie;
    }

    fn leave(&mut self, n: usize, does_return: bool) {
        let peer = &mut self.peers[n];
        if !peer.is_up {
            return;
        }
        peer.is_up = false;
        peer.is_serving = false;
        peer.queue.clear();
        peer.epoch += 1;
        let epoch = peer.epoch;
        // Some connections end with a word, some just fall silent.
        let notice = if self.dice.chance(500) {
            0
        } else {
            self.dice.within(1_000, 8_000)
        };
        self.plan(Duration::from_millis(notice), Later::Notice(n, epoch));
        if does_return {
            let away = self.dice.within(notice + 1, notice + 10_000);
            self.plan(Duration::from_millis(away), Later::Return(n));
        }
    }

    fn tell(&mut self, event: Event) {
        self.machine.handle(self.now, event);
        self.obey();
    }

    fn number(&self, source: Source) -> usize {
        let found = self.peers.iter().position(|peer| peer.source == source);
        found.expect("only sources that were offered")
    }

    /// Carries out what the machine wants.
    fn obey(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Request {
                    source,
                    request,
                    range,
                    ..
                } => {
                    let n = self.number(source);
                    self.asked.insert(request, (n, range.end - range.start));
                    let job = Job {
                        request,
                        range,
                        is_lie: false,
                        breaks_at: None,
                    };
                    let (delay, epoch) = (self.peers[n].spec.delay, self.peers[n].epoch);
                    self.plan(delay, Later::Ask(n, epoch, job));
                }
                Effect::Cancel { source, request } => {
                    let n = self.number(source);
                    self.asked.remove(&request);
                    let delay = self.peers[n].spec.delay;
                    self.plan(delay, Later::Withdraw(n, request));
                }
                Effect::Check { file, piece } => self.check(file, piece),
                Effect::Digest {
                    file,
                    piece,
                    ranges,
                } => {
                    let time = Duration::from_millis(self.dice.within(0, 30));
                    self.plan(time, Later::Digested(file, piece, ranges));
                }
                Effect::Ban { peer, .. } => self.banned(Source::Peer(peer)),
                Effect::Rest { source, reason, .. } => self.resting(source, reason),
                Effect::Complete { file } => self.complete(&file),
                Effect::Starved { .. } => {}
            }
        }
        self.look();
    }
}
