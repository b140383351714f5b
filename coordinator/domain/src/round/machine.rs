//! A round's life as a state machine without a clock: events in, effects out. Each event is one transaction; the effects
//! are what it writes and what is done after it. Applying the recorded events again gives the same round.
//!
//! open → collecting → sealed → aggregated → evaluated → published → anchored, or abandoned before it is published.
//! A candidate that is not accepted sends the round back to sealed once, with the fall-back strategy.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use owm_proto::{PublicKey, Sha256, UnixMillis};
use serde::{Deserialize, Serialize};

use super::{
    acceptance::{EVALUATORS, Loss, Measured, Verdict, decide},
    phase::{
        AbandonReason, Attempt, Candidate, Effect, Event, Fault, Part, Phase, Plan, Refused, Report,
    },
};

/// Fewer updates cannot tell the direction by themselves (spec §10.4).
const REFERENCE_BELOW: usize = 6;

/// A round, as its row and its participants' rows hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// What it was opened with.
    pub plan: Plan,
    /// When it was opened.
    pub opened_at: UnixMillis,
    /// Where it is.
    pub phase: Phase,
    /// Who was asked, and what came of it.
    pub parts: BTreeMap<PublicKey, Part>,
    /// Which rule is being tried.
    pub attempt: Attempt,
    /// What it has made.
    pub candidate: Option<Candidate>,
    /// What was measured of it.
    pub reports: Vec<Report>,
    /// What was decided of each candidate.
    pub verdicts: Vec<(Attempt, Verdict)>,
    /// Why nothing came of it.
    pub abandoned: Option<AbandonReason>,
    /// Who has signed two hashes: each is signalled once, however often a second one is delivered.
    #[serde(default)]
    pub equivocated: BTreeSet<PublicKey>,
    /// Time that counts for no deadline: see [`Event::Held`].
    #[serde(default)]
    pub held: Duration,
    /// Until when such time has been counted.
    #[serde(default)]
    pub held_until: Option<UnixMillis>,
}

impl Round {
    /// A new one.
    pub const fn open(plan: Plan, opened_at: UnixMillis) -> Self {
        Self {
            plan,
            opened_at,
            phase: Phase::Open,
            parts: BTreeMap::new(),
            attempt: Attempt::First,
            candidate: None,
            reports: Vec::new(),
            verdicts: Vec::new(),
            abandoned: None,
            equivocated: BTreeSet::new(),
            held: Duration::ZERO,
            held_until: None,
        }
    }

    /// Applies one event. An event that was applied before changes nothing and gives no effect again, so that a caller who
    /// does not know whether his transaction went through may repeat it.
    pub fn on(&mut self, event: Event) -> Result<Vec<Effect>, Refused> {
        match (self.phase, event) {
            (Phase::Open, Event::Drawn { participants }) => Ok(self.begin(participants)),
            (Phase::Collecting, Event::Committed { node, sha256, at }) => {
                self.commit(node, sha256, at)
            }
            (
                Phase::Collecting,
                Event::Bytes {
                    node,
                    sha256,
                    good,
                    at,
                },
            ) => self.bytes(node, sha256, good, at),
            (Phase::Collecting, Event::Tick { now }) => Ok(self.seal_if_over(now)),
            (Phase::Open | Phase::Collecting, Event::Held { from, to }) => {
                self.hold(from, to);
                Ok(Vec::new())
            }
            (Phase::Sealed, Event::Aggregated(candidate)) if candidate.attempt == self.attempt => {
                Ok(self.aggregated(candidate))
            }
            (Phase::Sealed, Event::NotAggregated { attempt }) if attempt == self.attempt => {
                Ok(self.next_attempt(AbandonReason::NoCandidate))
            }
            (Phase::Aggregated, Event::Reported(report)) => self.report(report),
            (Phase::Aggregated, Event::EvaluationOver { attempt, recent })
                if attempt == self.attempt =>
            {
                Ok(self.evaluated(recent))
            }
            (Phase::Evaluated, Event::Published) => Ok(self.go(Phase::Published)),
            (Phase::Published, Event::Anchored) => Ok(self.go(Phase::Anchored)),
            (phase, event) => self.out_of_turn(phase, event),
        }
    }

    /// What comes again or late: nothing is done, except that a second signature is a fault at any time.
    fn out_of_turn(&mut self, phase: Phase, event: Event) -> Result<Vec<Effect>, Refused> {
        let over = !matches!(phase, Phase::Open | Phase::Collecting);
        let done = match event {
            Event::Committed { node, sha256, at } if over => {
                return self.late_commit(node, sha256, at);
            }
            Event::Stopped
                if !matches!(phase, Phase::Published | Phase::Anchored | Phase::Abandoned) =>
            {
                return Ok(self.abandon(AbandonReason::ByOperator));
            }
            Event::Tick { .. } | Event::Held { .. } => true,
            Event::Stopped => phase == Phase::Abandoned,
            Event::Drawn { participants } => {
                self.abandoned == Some(AbandonReason::NoParticipants)
                    || phase != Phase::Open
                        && participants
                            .iter()
                            .all(|node| self.parts.contains_key(node))
            }
            Event::Bytes { node, sha256, .. } => match self.parts.get(&node) {
                Some(Part::Whole { sha256: whole, .. }) => *whole == sha256,
                Some(Part::Void { .. }) => true,
                _ => false,
            },
            Event::NotAggregated { attempt } => {
                attempt < self.attempt || self.abandoned == Some(AbandonReason::NoCandidate)
            }
            Event::EvaluationOver { attempt, .. } => {
                self.verdicts.iter().any(|(judged, _)| *judged == attempt)
            }
            Event::Aggregated(candidate) => {
                self.candidate == Some(candidate) || candidate.attempt < self.attempt
            }
            Event::Published => matches!(phase, Phase::Published | Phase::Anchored),
            Event::Anchored => phase == Phase::Anchored,
            Event::Reported(report) => self.reports.contains(&report),
            Event::Committed { .. } => false,
        };
        if done {
            Ok(Vec::new())
        } else {
            Err(Refused::Phase(phase))
        }
    }

    /// What must be done again after a crash: the effects of the phase it is in. Doing them twice does no harm.
    pub fn pending(&self) -> Vec<Effect> {
        match (self.phase, self.candidate) {
            (Phase::Collecting, _) => vec![Effect::Lease {
                participants: self.parts.keys().copied().collect(),
            }],
            (Phase::Sealed, _) => vec![self.aggregate()],
            (Phase::Aggregated, Some(candidate)) => vec![evaluate(candidate)],
            (Phase::Evaluated, Some(candidate)) => vec![Effect::Publish(candidate)],
            _ => Vec::new(),
        }
    }

    /// When commits are no longer taken, as it stands. What is found void later has arrived: otherwise a fault would move
    /// the end, and two liars could hold a round open until `max`.
    pub fn closes_at(&self) -> UnixMillis {
        let arrived = self.parts.values().filter_map(|part| match part {
            Part::Committed { at, .. } | Part::Whole { at, .. } | Part::Void { at } => Some(*at),
            Part::Asked => None,
        });
        let arrivals: Vec<UnixMillis> = arrived.collect();
        let asked = self.parts.len();
        let closes = self
            .plan
            .deadline
            .closes_at(self.opened_at, asked, &arrivals);
        closes.after(self.held)
    }

    /// The latest that commits are taken.
    pub fn ends_at(&self) -> UnixMillis {
        self.opened_at
            .after(self.plan.deadline.max)
            .after(self.held)
    }

    /// Each moment is counted once, however often it is told of.
    fn hold(&mut self, from: UnixMillis, to: UnixMillis) {
        let counted = self.held_until.unwrap_or(self.opened_at);
        let from = from.max(counted).max(self.opened_at);
        self.held = self.held.saturating_add(to.since(from));
        self.held_until = Some(counted.max(to));
    }

    fn go(&mut self, phase: Phase) -> Vec<Effect> {
        self.phase = phase;
        Vec::new()
    }

    fn abandon(&mut self, reason: AbandonReason) -> Vec<Effect> {
        self.phase = Phase::Abandoned;
        self.abandoned = Some(reason);
        vec![Effect::Abandon { reason }]
    }

    fn begin(&mut self, participants: Vec<PublicKey>) -> Vec<Effect> {
        if participants.len() < self.plan.updates_min.max(1) as usize {
            return self.abandon(AbandonReason::NoParticipants);
        }
        self.parts = participants
            .iter()
            .map(|node| (*node, Part::Asked))
            .collect();
        self.phase = Phase::Collecting;
        vec![Effect::Lease { participants }]
    }

    fn commit(
        &mut self,
        node: PublicKey,
        sha256: Sha256,
        at: UnixMillis,
    ) -> Result<Vec<Effect>, Refused> {
        let closed = self.closes_at();
        match self.parts.get(&node).copied() {
            None => Err(Refused::NotAsked),
            Some(Part::Asked) if at > closed => Err(Refused::Late { closed, at }),
            Some(Part::Asked) => {
                self.parts.insert(node, Part::Committed { sha256, at });
                Ok(Vec::new())
            }
            Some(
                Part::Committed {
                    sha256: first,
                    at: arrived,
                }
                | Part::Whole {
                    sha256: first,
                    at: arrived,
                },
            ) if first != sha256 => {
                self.parts.insert(node, Part::Void { at: arrived });
                Ok(self.equivocation(node, first, sha256))
            }
            Some(_) => Ok(Vec::new()),
        }
    }

    /// A second hash: signalled once.
    fn equivocation(&mut self, node: PublicKey, first: Sha256, second: Sha256) -> Vec<Effect> {
        if !self.equivocated.insert(node) {
            return Vec::new();
        }
        let fault = Fault::Equivocation { first, second };
        vec![Effect::Signal { node, fault }]
    }

    /// A commit after the round has been sealed: an equivocation still is one, but the round's arithmetic stands.
    fn late_commit(
        &mut self,
        node: PublicKey,
        second: Sha256,
        at: UnixMillis,
    ) -> Result<Vec<Effect>, Refused> {
        match self.parts.get(&node).copied() {
            None => Err(Refused::NotAsked),
            Some(Part::Committed { sha256: first, .. } | Part::Whole { sha256: first, .. })
                if first != second =>
            {
                Ok(self.equivocation(node, first, second))
            }
            Some(Part::Asked) => Err(Refused::Late {
                closed: self.closes_at(),
                at,
            }),
            Some(_) => Ok(Vec::new()),
        }
    }

    fn bytes(
        &mut self,
        node: PublicKey,
        sha256: Sha256,
        good: bool,
        at: UnixMillis,
    ) -> Result<Vec<Effect>, Refused> {
        match self.parts.get(&node).copied() {
            None => Err(Refused::NotAsked),
            Some(Part::Committed {
                sha256: committed,
                at: committed_at,
            }) if committed == sha256 => {
                let closed = self.closes_at().after(self.plan.deadline.grace);
                if at > closed {
                    return Err(Refused::Late { closed, at });
                }
                if good {
                    let whole = Part::Whole {
                        sha256,
                        at: committed_at,
                    };
                    self.parts.insert(node, whole);
                    return Ok(self.seal_if_over(at));
                }
                self.parts.insert(node, Part::Void { at: committed_at });
                let fault = Fault::Structure { sha256 };
                let mut effects = vec![Effect::Signal { node, fault }];
                effects.extend(self.seal_if_over(at));
                Ok(effects)
            }
            Some(Part::Whole { sha256: whole, .. }) if whole == sha256 => Ok(Vec::new()),
            Some(Part::Void { .. }) => Ok(Vec::new()),
            Some(_) => Err(Refused::Uncommitted),
        }
    }

    /// Ends collecting if nobody is waited for any more.
    fn seal_if_over(&mut self, now: UnixMillis) -> Vec<Effect> {
        let closed = self.closes_at();
        let (mut asked, mut committed, mut whole) = (0_u32, 0_u32, 0_u32);
        for part in self.parts.values() {
            match part {
                Part::Asked => asked += 1,
                Part::Committed { .. } => committed += 1,
                Part::Whole { .. } => whole += 1,
                Part::Void { .. } => {}
            }
        }
        let bytes_over = committed == 0 || now >= closed.after(self.plan.deadline.grace);
        let commits_over = asked == 0 || now >= closed;
        if !(commits_over && bytes_over) {
            return Vec::new();
        }
        if whole < self.plan.updates_min.max(1) {
            return self.abandon(AbandonReason::TooFewUpdates);
        }
        self.phase = Phase::Sealed;
        vec![self.aggregate()]
    }

    fn aggregate(&self) -> Effect {
        let whole = |(node, part): (&PublicKey, &Part)| match part {
            Part::Whole { sha256, .. } => Some((*node, *sha256)),
            _ => None,
        };
        let updates: Vec<_> = self.parts.iter().filter_map(whole).collect();
        Effect::Aggregate {
            attempt: self.attempt,
            reference: updates.len() < REFERENCE_BELOW,
            updates,
        }
    }

    fn aggregated(&mut self, candidate: Candidate) -> Vec<Effect> {
        self.phase = Phase::Aggregated;
        self.candidate = Some(candidate);
        self.reports.clear();
        vec![evaluate(candidate)]
    }

    fn report(&mut self, report: Report) -> Result<Vec<Effect>, Refused> {
        if self.candidate.map(|candidate| candidate.checkpoint) != Some(report.checkpoint) {
            return Err(Refused::OtherCandidate);
        }
        if self.reports.contains(&report) {
            return Ok(Vec::new());
        }
        if self.reports.iter().any(|one| one.owner == report.owner) {
            return Err(Refused::SecondReport);
        }
        self.reports.push(report);
        Ok(Vec::new())
    }

    /// Whether enough have measured for [`Event::EvaluationOver`] to come at once.
    pub fn is_measured(&self) -> bool {
        self.reports.len() >= EVALUATORS
    }

    fn evaluated(&mut self, recent: Vec<Loss>) -> Vec<Effect> {
        let of = |loss: fn(&Report) -> Loss| self.reports.iter().map(loss).collect();
        let verdict = decide(&Measured {
            candidate: of(|report| report.candidate),
            parent: of(|report| report.parent),
            recent,
        });
        self.verdicts.push((self.attempt, verdict));
        match (verdict, self.candidate) {
            (Verdict::Accepted { .. }, Some(candidate)) => {
                self.phase = Phase::Evaluated;
                vec![Effect::Publish(candidate)]
            }
            (Verdict::Unmeasured, _) => self.abandon(AbandonReason::NotMeasured),
            _ => self.next_attempt(AbandonReason::NotAccepted),
        }
    }

    fn next_attempt(&mut self, reason: AbandonReason) -> Vec<Effect> {
        match self.attempt {
            Attempt::First => {
                self.attempt = Attempt::Fallback;
                self.phase = Phase::Sealed;
                self.candidate = None;
                vec![self.aggregate()]
            }
            Attempt::Fallback => self.abandon(reason),
        }
    }
}

const fn evaluate(candidate: Candidate) -> Effect {
    Effect::Evaluate {
        checkpoint: candidate.checkpoint,
        evaluators: EVALUATORS,
    }
}
