//! The node's conversation with the coordinator as a pure state machine: events in, effects out. No
//! clock, no socket, no disk; `daemon` drives it. Unregistered → Registered → Active → Draining → Over.
//!
//! Must stay true: slots − running − outstanding credits is what is offered, never more; a lease ends
//! here exactly once; a finished result is tried until it is acknowledged.

mod leases;
mod taking;

use std::{collections::BTreeMap, time::Duration};

use owm_proto::{Role, wire::coordinator::HandBackReason};
use owm_service::backoff::Backoff;
use rand_chacha::ChaCha20Rng;

use crate::tasklog::LeaseKey;

/// Signs of life that may stay unanswered before a new connection is made (spec §6).
pub const PINGS_UNANSWERED_MAX: u32 = 3;
/// How long a result sent on the stream may stay unacknowledged before it is handed in by a call.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Time after draining in which results are still acknowledged.
pub const FLUSH_TIME: Duration = Duration::from_secs(5);

/// What the machine needs to know from the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tasks of each role at the same time.
    pub slots: BTreeMap<Role, u32>,
    /// Between signs of life; `None` where the transport has its own (long polls).
    pub ping: Option<Duration>,
    /// Time to finish after [`Event::Stop`].
    pub drain: Duration,
    /// First and longest wait before connecting again.
    pub reconnect: (Duration, Duration),
    /// First and longest wait before registering again while pending.
    pub register: (Duration, Duration),
}

/// How registering went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// In.
    Active {
        /// Between heartbeats.
        heartbeat: Duration,
    },
    /// Something is missing; tried again.
    Pending,
    /// Never.
    Refused {
        /// Why.
        reason: String,
    },
    /// No answer; tried again.
    Failed,
}

/// How an attempt at a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A result is in the task log.
    Result,
    /// The same, with bytes that are too large for the link: it is handed in by a call.
    ResultWithBytes,
    /// Given back.
    HandBack {
        /// The kind.
        reason: HandBackReason,
        /// In words, without the user's text.
        message: String,
    },
    /// Broken off as asked; nothing is said about it.
    Stopped,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passes.
    Tick,
    /// Registering has ended.
    Registered(Registration),
    /// The work link stands.
    LinkUp,
    /// The work link is gone; `unknown` if the coordinator does not know this node (any more).
    LinkLost {
        /// Register again first.
        unknown: bool,
    },
    /// The coordinator greets; its wish for signs of life, if any.
    Welcome {
        /// Between signs of life.
        ping: Option<Duration>,
    },
    /// An answer to a sign of life.
    Pong(u64),
    /// A task.
    Lease {
        /// Which.
        key: LeaseKey,
        /// Whose slot it takes.
        role: Role,
        /// Its time.
        time: Duration,
    },
    /// A task is taken back; epoch 0: whichever attempt at it runs.
    Cancel(LeaseKey),
    /// The coordinator has booked (or refused) a result.
    Ack(LeaseKey),
    /// Handing in by a call did not get through.
    SubmitFailed(LeaseKey),
    /// Another process has this node's key.
    Fenced(String),
    /// An attempt ended here.
    Ended(LeaseKey, Ending),
    /// These weights are loaded (hex SHA-256s).
    Weights(Vec<String>),
    /// The operator's hours begin or end.
    Open(bool),
    /// The operator pauses the node, or lets it go on.
    Pause(bool),
    /// Finish what runs, hand in what is finished, end; what is not done within this time is handed back.
    Drain {
        /// The time.
        within: Duration,
    },
    /// Stop softly.
    Stop,
}

/// Why it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// As asked.
    Stopped,
    /// The network does not want this node.
    Refused(String),
    /// Another process has the key.
    Fenced(String),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Register; ends in [`Event::Registered`].
    Register,
    /// Open the work link, a Hello first; ends in [`Event::LinkUp`] or [`Event::LinkLost`].
    Connect,
    /// Drop the link.
    Disconnect,
    /// Offer so many slots more, with the weights given.
    Offer {
        /// For what.
        role: Role,
        /// Added to what is outstanding.
        credits: u32,
        /// The whole set.
        sha256: Vec<String>,
    },
    /// Take back every slot of a role that is offered.
    Withdraw {
        /// Of which.
        role: Role,
    },
    /// A sign of life.
    Ping(u64),
    /// A heartbeat, on the link or by a call.
    Heartbeat {
        /// Whether the link stands.
        on_link: bool,
    },
    /// Send again the chunks of a running task, all of them, with the same boundaries.
    ResendChunks(LeaseKey),
    /// Start this task.
    Run(LeaseKey),
    /// Break this task off; it still ends in [`Event::Ended`].
    Break(LeaseKey),
    /// Say that a task is given back.
    HandBack {
        /// Which.
        key: LeaseKey,
        /// The kind.
        reason: HandBackReason,
        /// In words.
        message: String,
    },
    /// Send a fresh result on the link.
    SendResult(LeaseKey),
    /// Hand a logged result in by a call; ends in [`Event::Ack`] or [`Event::SubmitFailed`].
    Submit(LeaseKey),
    /// End.
    End(Over),
}

/// Where the conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not a member yet.
    Unregistered,
    /// A member without a work link.
    Registered,
    /// Working.
    Active,
    /// Finishing.
    Draining,
    /// Done.
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    Down {
        retry_at: Duration,
    },
    Opening,
    Up {
        next_ping: Duration,
        ping: u64,
        unanswered: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    Ask { at: Duration },
    Asking,
    Member { heartbeat: Duration },
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    rng: ChaCha20Rng,
    membership: Membership,
    link: Link,
    lost_at: Option<Duration>,
    next_heartbeat: Duration,
    reconnect: Backoff,
    register: Backoff,
    running: BTreeMap<LeaseKey, leases::Running>,
    /// Results waiting for an acknowledgement, and when to hand them in by a call.
    unacked: BTreeMap<LeaseKey, leases::Waiting>,
    outstanding: BTreeMap<Role, u32>,
    weights: Vec<String>,
    open: bool,
    paused: bool,
    leaving: Option<taking::Leaving>,
    over: bool,
}

impl Session {
    /// Starts unregistered, with the results a former process left.
    pub fn new(settings: Settings, rng: ChaCha20Rng, unacked: Vec<LeaseKey>) -> Self {
        let backoff = |(min, max)| Backoff::new(min, max, 2);
        let waiting = leases::Waiting::due_at(Duration::ZERO);
        Self {
            membership: Membership::Ask { at: Duration::ZERO },
            link: Link::Down {
                retry_at: Duration::ZERO,
            },
            lost_at: None,
            next_heartbeat: Duration::ZERO,
            reconnect: backoff(settings.reconnect),
            register: backoff(settings.register),
            running: BTreeMap::new(),
            unacked: unacked
                .into_iter()
                .map(|key| (key, waiting.clone()))
                .collect(),
            outstanding: BTreeMap::new(),
            weights: Vec::new(),
            open: true,
            paused: false,
            leaving: None,
            over: false,
            settings,
            rng,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match (self.over, self.leaving, self.membership, &self.link) {
            (true, ..) => Phase::Over,
            (_, Some(_), ..) => Phase::Draining,
            (_, _, Membership::Member { .. }, Link::Up { .. }) => Phase::Active,
            (_, _, Membership::Member { .. }, _) => Phase::Registered,
            _ => Phase::Unregistered,
        }
    }

    /// Leases that are worked on.
    pub fn running(&self) -> impl Iterator<Item = LeaseKey> + '_ {
        self.running.keys().copied()
    }

    /// Leases this node still holds something of: running, or finished and not acknowledged. What a Hello
    /// does not name is given to others.
    pub fn held(&self) -> impl Iterator<Item = LeaseKey> + '_ {
        self.running().chain(self.unacked.keys().copied())
    }

    /// Results not acknowledged yet.
    pub fn unacked_count(&self) -> usize {
        self.unacked.len()
    }

    /// Whether the work link stands.
    pub fn is_linked(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// Takes an event at monotonic time `now` and says what to do.
    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.over {
            return effects;
        }
        match event {
            Event::Tick => {}
            Event::Registered(how) => self.on_registered(now, how, &mut effects),
            Event::LinkUp => self.on_link_up(now, &mut effects),
            Event::LinkLost { unknown } => self.on_link_lost(now, unknown),
            Event::Welcome { ping } => {
                if self.settings.ping.is_some() && ping.is_some() {
                    self.settings.ping = ping;
                }
                self.reconnect.reset();
            }
            Event::Pong(n) => self.on_pong(n),
            Event::Lease { key, role, time } => self.on_lease(now, key, (role, time), &mut effects),
            Event::Cancel(key) => self.on_cancel(key, &mut effects),
            Event::Ack(key) => drop(self.unacked.remove(&key)),
            Event::SubmitFailed(key) => self.on_submit_failed(now, key),
            Event::Fenced(reason) => self.end(Over::Fenced(reason), &mut effects),
            Event::Ended(key, ending) => self.on_ended(now, key, ending, &mut effects),
            Event::Weights(weights) => self.on_weights(weights, &mut effects),
            Event::Open(open) => self.change_taking(&mut effects, |s| s.open = open),
            Event::Pause(paused) => self.change_taking(&mut effects, |s| s.paused = paused),
            Event::Drain { within } => self.leave(now, within, true, &mut effects),
            Event::Stop => self.leave(now, self.settings.drain, false, &mut effects),
        }
        self.on_time(now, &mut effects);
        self.offer_what_is_free(&mut effects);
        effects
    }

    fn on_registered(&mut self, now: Duration, how: Registration, effects: &mut Vec<Effect>) {
        match how {
            Registration::Active { heartbeat } => {
                // A member that renews its membership keeps its link.
                if !matches!(self.membership, Membership::Member { .. }) {
                    self.link = Link::Down { retry_at: now };
                }
                self.membership = Membership::Member { heartbeat };
                self.register.reset();
            }
            Registration::Pending => {
                let at = now + self.register.next(&mut self.rng);
                self.membership = Membership::Ask { at };
            }
            Registration::Failed => {
                let at = now + self.reconnect.next(&mut self.rng);
                self.membership = Membership::Ask { at };
            }
            Registration::Refused { reason } => self.end(Over::Refused(reason), effects),
        }
    }

    fn on_link_up(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if let Some(lost_at) = self.lost_at.take() {
            // The coordinator extends all leases by an outage (spec §9); so does the node.
            let outage = now.saturating_sub(lost_at);
            self.running
                .values_mut()
                .for_each(|task| task.deadline += outage);
        }
        let next_ping = self
            .settings
            .ping
            .map_or(Duration::MAX, |every| now + every);
        self.link = Link::Up {
            next_ping,
            ping: 0,
            unanswered: 0,
        };
        self.outstanding.clear();
        self.next_heartbeat = now;
        self.unacked
            .values_mut()
            .for_each(|waiting| waiting.due(now));
        effects.extend(self.running.keys().map(|key| Effect::ResendChunks(*key)));
        if !self.weights.is_empty() && self.free(Role::Infer) == 0 {
            effects.push(self.weights_alone());
        }
    }

    fn on_link_lost(&mut self, now: Duration, unknown: bool) {
        self.lost_at.get_or_insert(now);
        self.outstanding.clear();
        self.link = Link::Down {
            retry_at: now + self.reconnect.next(&mut self.rng),
        };
        if unknown {
            let at = now + self.reconnect.next(&mut self.rng);
            self.membership = Membership::Ask { at };
        }
    }

    fn on_pong(&mut self, n: u64) {
        if let Link::Up {
            ping, unanswered, ..
        } = &mut self.link
            && n <= *ping
        {
            *unanswered = u32::try_from(*ping - n)
                .unwrap_or(u32::MAX)
                .min(*unanswered);
        }
    }

    fn on_weights(&mut self, weights: Vec<String>, effects: &mut Vec<Effect>) {
        self.weights = weights;
        if self.is_linked() && (self.free(Role::Infer) == 0 || !self.may_offer(Role::Infer)) {
            effects.push(self.weights_alone());
        }
    }

    fn on_time(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        // A node that stops at once no longer joins; one that drains needs to, to hand its results in.
        if let Membership::Ask { at } = self.membership
            && now >= at
            && self.leaving.is_none_or(|leaving| leaving.patient)
        {
            self.membership = Membership::Asking;
            effects.push(Effect::Register);
        }
        self.keep_link(now, effects);
        self.watch_leases(now, effects);
        if let Some(leaving) = self.leaving {
            self.break_what_is_late(now, leaving, effects);
        }
        self.hand_in(now, effects);
        if let Some(leaving) = self.leaving {
            self.end_if_done(now, leaving, effects);
        }
    }

    /// Connects, shows signs of life, notices that nobody answers.
    fn keep_link(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Membership::Member { heartbeat } = self.membership else {
            return;
        };
        match &mut self.link {
            Link::Down { retry_at } if now >= *retry_at => {
                self.link = Link::Opening;
                effects.push(Effect::Connect);
            }
            Link::Up {
                next_ping,
                ping,
                unanswered,
            } if now >= *next_ping => {
                if *unanswered >= PINGS_UNANSWERED_MAX {
                    effects.push(Effect::Disconnect);
                    self.on_link_lost(now, false);
                    return;
                }
                *ping += 1;
                *unanswered += 1;
                *next_ping = now + self.settings.ping.unwrap_or(Duration::from_secs(10));
                effects.push(Effect::Ping(*ping));
            }
            _ => {}
        }
        if now >= self.next_heartbeat && self.link != Link::Opening {
            self.next_heartbeat = now + heartbeat;
            effects.push(Effect::Heartbeat {
                on_link: self.is_linked(),
            });
        }
    }

    fn end(&mut self, how: Over, effects: &mut Vec<Effect>) {
        effects.extend(self.running.keys().map(|key| Effect::Break(*key)));
        effects.push(Effect::End(how));
        self.over = true;
    }
}

#[cfg(test)]
mod tests;
