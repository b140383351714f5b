//! When to say what: a heartbeat every period; the portrait at once when it has changed, but not more often
//! than peers allow, and every period when it has not. Pure.
//! Must stay true: what changes quickly is told by its last state; a laptop that slept speaks once, not once
//! for every period it missed.

use std::{collections::VecDeque, time::Duration};

use owm_proto::gossip::Bootstrap;

use super::capability::Portrait;

/// A change waits so long for the next one: at the start, addresses and files become known one by one.
const SETTLE: Duration = Duration::from_secs(1);
/// Portraits in one period, changed ones: peers allow a member ten.
const PORTRAITS_OF_MEMBER: usize = 8;
/// Peers allow a stranger two in a period, and three before that.
const PORTRAITS_OF_STRANGER: usize = 2;
/// So many a stranger may say at its start.
const PORTRAITS_AT_START: usize = 3;

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// A heartbeat.
    pub heartbeat: bool,
    /// The portrait.
    pub portrait: bool,
}

/// The plan.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    heartbeat_at: Option<Duration>,
    told: Option<(Duration, Portrait)>,
    /// When the last portraits were told, the newest last.
    told_at: VecDeque<Duration>,
    /// Portraits told since the start.
    count: usize,
    /// What will be told, and since when it looks like that.
    next: Option<(Duration, Portrait)>,
}

impl Schedule {
    /// What is due at monotonic time `now`, if the node looks like this. What is said to be due counts as
    /// told; [`Self::failed`] takes it back.
    pub(super) fn step(
        &mut self,
        now: Duration,
        portrait: &Portrait,
        parameters: &Bootstrap,
    ) -> Due {
        let heartbeat = Duration::from_secs(parameters.heartbeat_secs.into());
        let due = Due {
            heartbeat: self.heartbeat_at.is_none_or(|at| now >= at + heartbeat),
            portrait: self.is_portrait_due(now, portrait, parameters),
        };
        if due.heartbeat {
            self.heartbeat_at = Some(now);
        }
        if due.portrait {
            self.told = Some((now, portrait.clone()));
            self.next = None;
            self.count = self.count.saturating_add(1);
            self.told_at.push_back(now);
            if self.told_at.len() > PORTRAITS_OF_MEMBER {
                self.told_at.pop_front();
            }
        }
        due
    }

    /// What was due could not be said.
    pub(super) fn failed(&mut self, due: Due) {
        if due.heartbeat {
            self.heartbeat_at = None;
        }
        if due.portrait {
            self.told = None;
        }
    }

    fn is_portrait_due(
        &mut self,
        now: Duration,
        portrait: &Portrait,
        parameters: &Bootstrap,
    ) -> bool {
        let settled = self.settled(now, portrait);
        let Some((at, told)) = &self.told else {
            return settled;
        };
        let period = Duration::from_secs(parameters.capability_secs.into());
        if now >= *at + period {
            return true;
        }
        let lately = self.told_at.iter().filter(|at| now < **at + period).count();
        let may = match (&told.membership, &portrait.membership) {
            (Some(_), _) => lately < PORTRAITS_OF_MEMBER,
            // Who is admitted says so at once.
            (None, Some(_)) => true,
            (None, None) => lately < PORTRAITS_OF_STRANGER || self.count < PORTRAITS_AT_START,
        };
        told != portrait && may && settled
    }

    /// Whether it has looked like this for a while.
    fn settled(&mut self, now: Duration, portrait: &Portrait) -> bool {
        match &self.next {
            Some((since, next)) if next == portrait => now >= *since + SETTLE,
            _ => {
                self.next = Some((now, portrait.clone()));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::{Envelope, NodeKey, Purpose, SessionId, Sha256, genesis::NetworkId};

    use super::*;

    fn portrait(n: u64) -> Portrait {
        Portrait {
            session: SessionId([1; 16]),
            capabilities: owm_proto::wire::coordinator::Capabilities::default(),
            roles: vec![],
            addresses: vec![],
            holds: vec![],
            checkpoint_sequence: n,
            membership: None,
            relay: false,
        }
    }

    fn member(n: u64) -> Portrait {
        let (key, id) = (NodeKey::from_seed(&[1; 32]), NetworkId(Sha256::of(b"n")));
        Portrait {
            membership: Some(Envelope::sign(&key, Purpose::Membership, &id, vec![])),
            ..portrait(n)
        }
    }

    /// Seconds at which it speaks while it looks like `looks(second)`.
    fn portraits(schedule: &mut Schedule, looks: impl Fn(u64) -> Portrait, until: u64) -> Vec<u64> {
        let parameters = Bootstrap::before_any();
        let mut told = Vec::new();
        for second in 0..until {
            let now = Duration::from_secs(second);
            if schedule.step(now, &looks(second), &parameters).portrait {
                told.push(second);
            }
        }
        told
    }

    #[test]
    fn what_does_not_change_is_told_every_period() {
        let told = portraits(&mut Schedule::default(), |_| portrait(1), 1_300);
        assert_eq!(told, [1, 601, 1_201]);
    }

    #[test]
    fn a_member_that_changes_all_the_time_stays_within_what_peers_allow() {
        let told = portraits(&mut Schedule::default(), |s| member(s / 3), 600);
        assert!(told.len() == PORTRAITS_OF_MEMBER, "{told:?}");
        let told = portraits(&mut Schedule::default(), |s| portrait(s / 3), 600);
        assert_eq!(
            told.len(),
            PORTRAITS_AT_START,
            "a stranger has little to say: {told:?}"
        );
    }

    #[test]
    fn who_is_admitted_says_so_at_once() {
        let looks = |s| if s < 5 { portrait(1) } else { member(1) };
        assert_eq!(portraits(&mut Schedule::default(), looks, 30), [1, 6]);
    }

    #[test]
    fn a_sleeper_speaks_once_and_what_failed_is_said_again() {
        let (mut schedule, parameters) = (Schedule::default(), Bootstrap::before_any());
        let mut at = |secs| schedule.step(Duration::from_secs(secs), &portrait(1), &parameters);
        assert!(at(0).heartbeat && !at(59).heartbeat && at(60).heartbeat);
        assert!(at(10_000).heartbeat && !at(10_001).heartbeat);
        let due = Due {
            heartbeat: true,
            portrait: true,
        };
        schedule.failed(due);
        let mut at = |secs| schedule.step(Duration::from_secs(secs), &portrait(1), &parameters);
        assert!(at(10_002).heartbeat);
    }
}
