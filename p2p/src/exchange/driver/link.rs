//! The conversation with one peer: requests out, answers in, over one stream, which is opened when something is to be
//! asked and again after it broke. Whoever holds the [`Orders`] keeps it alive.
//!
//! Requests are tiny and pipelined; answers come in order. Bytes of a range are handed on in portions of
//! [`PORTION`], sooner if the peer is slow, so that the machine sees what moves.

use std::{collections::BTreeMap, collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use libp2p::{PeerId, Stream};
use owm_proto::{FileSpec, Ladder, Sha256};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout},
};

use self::incoming::Incoming;
use super::Shared;
use crate::exchange::{
    PieceSet,
    behaviour::OpenError,
    machine::{Ended, Event, RequestId, Source},
    wire::{Answer, Ask, Have, NO_REQUEST, RANGE_BYTES_MAX, Request, Status, WireError},
};

mod incoming;

/// Written and hashed at once, a whole range: to wake a thread for less costs more than the cache gains.
pub(super) const PORTION: usize = 1 << 20;

/// A portion is handed on after so long, full or not.
const PORTION_TIME: Duration = Duration::from_millis(50);

/// Orders that may wait: what the machine asks of one source at most, and a few questions.
const WAITING: usize = 1_024;

/// Who lacks pieces is asked so often whether it has more.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A peer that answers nothing for so long is hung up on. (The machine turns to others far sooner.)
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Not reached: tried again after so long at first, then after twice as long, up to the second.
const REOPEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What is asked of a peer.
#[derive(Debug)]
pub(super) enum Order {
    /// Which pieces of it are there, now and until it is complete.
    Have(Arc<Ladder>),
    /// The file's ladder; no bytes if it has none, no answer if it can't be asked.
    Ladder(FileSpec, oneshot::Sender<Vec<u8>>),
    /// Bytes.
    Range {
        /// The machine's name for it.
        request: RequestId,
        /// Of which file.
        file: Sha256,
        /// Which.
        range: Range<u64>,
    },
    /// Everything asked so far is no longer wanted.
    Reset,
}

/// The end at which orders are given.
#[derive(Debug)]
pub(super) struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// Whether it was taken.
    pub(super) fn give(&self, order: Order) -> bool {
        self.0.try_send(order).is_ok()
    }
}

/// What an answer is for.
#[derive(Debug)]
enum What {
    Have(Arc<Ladder>),
    /// A part of the ladder that is put together; whether it is the last one.
    Part(bool),
    Range(RequestId),
}

/// A ladder that comes in parts.
#[derive(Debug)]
struct Parts {
    bytes: Vec<u8>,
    is_whole: bool,
    answer: oneshot::Sender<Vec<u8>>,
}

/// How a stream ended.
#[derive(Debug, thiserror::Error)]
enum Hangup {
    #[error("nobody wants anything of it any more")]
    Unwanted,
    #[error("what was asked is no longer wanted")]
    Reset,
    #[error("it serves others now")]
    Busy(Duration),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("it has not answered within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
}

/// Starts the conversation, a peer's next after so many; it ends when the orders are dropped.
pub(super) fn start(shared: &Arc<Shared>, peer: PeerId, turns: u32) -> Orders {
    let (orders, taken) = mpsc::channel(WAITING);
    let link = Link {
        shared: Arc::clone(shared),
        peer,
        asked: VecDeque::new(),
        parts: VecDeque::new(),
        next_id: 0,
        lacking: BTreeMap::new(),
        again: every(ASK_AGAIN),
        is_of_use: false,
        // Not dialled more often for having lost its place in between.
        first_wait: (REOPEN.0 * 2_u32.saturating_pow(turns)).min(REOPEN.1),
    };
    let stop = shared.stop.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = link.run(taken) => {}
        }
    });
    Orders(orders)
}

struct Link {
    shared: Arc<Shared>,
    peer: PeerId,
    asked: VecDeque<(Request, What)>,
    /// The ladders among what is asked.
    parts: VecDeque<Parts>,
    next_id: u32,
    /// Files that it has not said it has all of.
    lacking: BTreeMap<Sha256, Arc<Ladder>>,
    again: Interval,
    /// It has said that it has something that is wanted.
    is_of_use: bool,
    /// Not reached: tried again after so long at first.
    first_wait: Duration,
}

impl Link {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut wait = self.first_wait;
        let mut out = Vec::new();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(order) => self.take(order, &mut out),
                },
                _ = self.again.tick(), if !self.lacking.is_empty() => self.ask_again(&mut out),
            }
            if self.asked.is_empty() {
                continue;
            }
            match self.shared.streams.open(self.peer).await {
                Ok(stream) => {
                    wait = self.first_wait;
                    let hangup = self.talk(stream, &mut orders, &mut out).await;
                    tracing::debug!(peer = %self.peer, "a stream ended: {hangup}");
                    self.hung_up(&hangup);
                }
                Err(error) => {
                    self.not_reached(&error);
                    // What is ordered meanwhile fails at once: the machine turns to others.
                    let until = Instant::now() + wait;
                    wait = (wait * 2).min(REOPEN.1);
                    if !self.rest(&mut orders, until).await {
                        return;
                    }
                    // Others may be of more use.
                    self.shared.pass_over(self.peer);
                }
            }
            out.clear();
        }
    }

    /// Waits, refusing orders; `false`: there will be none any more.
    async fn rest(&mut self, orders: &mut mpsc::Receiver<Order>, until: Instant) -> bool {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return false,
                    Some(order) => self.take(order, &mut Vec::new()),
                },
                () = sleep_until(until) => return true,
            }
            self.give_up(Ended::Failed);
        }
    }

    fn not_reached(&mut self, error: &OpenError) {
        tracing::debug!(peer = %self.peer, "not reached: {error}");
        self.give_up(Ended::Failed);
        let source = Source::Peer(self.peer);
        self.shared.handle(Event::Gone { source });
        // The machine has forgotten what it has.
        self.is_of_use = false;
        let core = self.shared.core();
        let wanted = core.wanted.iter();
        self.lacking = wanted
            .map(|(file, wanted)| (*file, Arc::clone(&wanted.ladder)))
            .collect();
    }

    fn hung_up(&mut self, hangup: &Hangup) {
        match hangup {
            Hangup::Busy(retry_after) => {
                let retry_after = *retry_after;
                self.give_up(Ended::Busy { retry_after });
            }
            // Questions are asked again.
            _ => self.give_up(Ended::Failed),
        }
    }

    /// Tells the machine that nothing comes any more of what was asked.
    fn give_up(&mut self, how: Ended) {
        for (_, what) in std::mem::take(&mut self.asked) {
            match what {
                What::Range(request) => self.shared.handle(Event::Ended { request, how }),
                What::Have(ladder) => {
                    self.lacking.insert(ladder.spec().sha256(), ladder);
                }
                What::Part(_) => {}
            }
        }
        // Who waits for a ladder sees that its sender has gone.
        self.parts.clear();
    }

    /// Writes an order down as a request.
    fn take(&mut self, order: Order, out: &mut Vec<u8>) {
        match order {
            Order::Reset => {}
            Order::Have(ladder) => {
                let file = ladder.spec().sha256();
                self.ask(file, Ask::Have, What::Have(ladder), out);
            }
            Order::Ladder(spec, answer) => {
                let (Some(file), length) = (spec.ladder_sha256(), spec.ladder_bytes()) else {
                    return;
                };
                self.parts.push_back(Parts {
                    bytes: Vec::new(),
                    is_whole: true,
                    answer,
                });
                for offset in (0..length).step_by(RANGE_BYTES_MAX as usize) {
                    let left = length - offset;
                    let length = left.min(RANGE_BYTES_MAX.into());
                    let (is_last, length) = (length == left, length as u32);
                    let ask = Ask::Range { offset, length };
                    self.ask(file, ask, What::Part(is_last), out);
                }
            }
            Order::Range {
                request,
                file,
                range,
            } => {
                let (offset, length) = (range.start, (range.end - range.start) as u32);
                let ask = Ask::Range { offset, length };
                self.ask(file, ask, What::Range(request), out);
            }
        }
    }

    fn ask(&mut self, file: Sha256, ask: Ask, what: What, out: &mut Vec<u8>) {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1) % NO_REQUEST;
        let request = Request { id, file, ask };
        out.extend(request.to_bytes());
        self.asked.push_back((request, what));
    }

    /// Asks again what it has of files that it lacked pieces of, as long as somebody wants them.
    fn ask_again(&mut self, out: &mut Vec<u8>) {
        let asked: Vec<Arc<Ladder>> = {
            let core = self.shared.core();
            self.lacking
                .retain(|file, _| core.wanted.contains_key(file));
            self.lacking.values().cloned().collect()
        };
        if !self.is_of_use && !self.lacking.is_empty() {
            self.shared.pass_over(self.peer);
        }
        let is_asked = self
            .asked
            .iter()
            .any(|(_, what)| matches!(what, What::Have(_)));
        if !is_asked {
            for ladder in asked {
                self.take(Order::Have(ladder), out);
            }
        }
    }

    async fn talk(
        &mut self,
        stream: Stream,
        orders: &mut mpsc::Receiver<Order>,
        out: &mut Vec<u8>,
    ) -> Hangup {
        let (mut incoming, mut writer) = Incoming::new(stream);
        let mut silent_at = Instant::now() + ANSWER_TIMEOUT;
        loop {
            if !out.is_empty() {
                let wrote = async {
                    writer.write_all(out).await?;
                    writer.flush().await
                };
                match timeout(ANSWER_TIMEOUT, wrote).await {
                    Ok(Ok(())) => out.clear(),
                    Ok(Err(error)) => return error.into(),
                    Err(tokio::time::error::Elapsed { .. }) => return Hangup::Silent,
                }
            }
            let waits = !self.asked.is_empty();
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let mut next = order;
                    if next.is_none() {
                        return Hangup::Unwanted;
                    }
                    while let Some(order) = next {
                        if matches!(order, Order::Reset) {
                            return Hangup::Reset;
                        }
                        if !waits {
                            silent_at = Instant::now() + ANSWER_TIMEOUT;
                        }
                        self.take(order, out);
                        next = orders.try_recv().ok();
                    }
                }
                filled = incoming.fill(PORTION_TIME) => {
                    silent_at = Instant::now() + ANSWER_TIMEOUT;
                    let answered = match filled {
                        Ok(()) => self.answered(&mut incoming).await,
                        Err(error) => Err(error.into()),
                    };
                    if let Err(hangup) = answered {
                        return hangup;
                    }
                }
                _ = self.again.tick(), if !self.lacking.is_empty() => self.ask_again(out),
                () = sleep_until(silent_at), if waits => return Hangup::Silent,
            }
        }
    }

    /// Something has come: a head, or bytes of a body.
    async fn answered(&mut self, incoming: &mut Incoming) -> Result<(), Hangup> {
        if let Some(head) = incoming.head() {
            let Some((request, what)) = self.asked.front() else {
                return Err(WireError::Padding.into());
            };
            let answer = Answer::parse(&head, request)?;
            if answer.status == Status::Ok {
                let is_range = matches!(what, What::Range(_));
                let portion = if is_range {
                    PORTION
                } else {
                    answer.length as usize
                };
                incoming.expect(answer.length as usize, portion, !is_range);
            } else {
                self.refused(answer)?;
            }
            return Ok(());
        }
        let Some((bytes, is_last)) = incoming.portion() else {
            return Ok(());
        };
        let front = if is_last {
            self.asked.pop_front()
        } else {
            None
        };
        let what = front.as_ref().or(self.asked.front()).map(|(_, what)| what);
        if let Some(What::Range(request)) = what {
            let request = *request;
            self.shared.download.take(bytes.len()).await;
            let buffer = self.shared.deliver(request, bytes).await;
            incoming.reuse(buffer);
            return Ok(());
        }
        match front {
            Some((_, What::Have(ladder))) => self.has(&ladder, &bytes),
            Some((_, What::Part(is_last))) => {
                self.part(Some(&bytes), is_last);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn part(&mut self, bytes: Option<&[u8]>, is_last: bool) {
        let Some(parts) = self.parts.front_mut() else {
            return;
        };
        match bytes {
            Some(bytes) => parts.bytes.extend(bytes),
            None => parts.is_whole = false,
        }
        if is_last && let Some(mut parts) = self.parts.pop_front() {
            if !parts.is_whole {
                parts.bytes.clear();
            }
            // If nobody waits any more, it is lost.
            let _ = parts.answer.send(parts.bytes);
        }
    }

    fn refused(&mut self, answer: Answer) -> Result<(), Hangup> {
        if let Status::Busy { retry_ms } = answer.status
            && answer.id == NO_REQUEST
        {
            return Err(Hangup::Busy(Duration::from_millis(retry_ms.into())));
        }
        let Some((_, what)) = self.asked.pop_front() else {
            return Ok(());
        };
        match (what, answer.status) {
            (What::Range(request), Status::Busy { retry_ms }) => {
                let retry_after = Duration::from_millis(retry_ms.into());
                let how = Ended::Busy { retry_after };
                self.shared.handle(Event::Ended { request, how });
            }
            (What::Range(request), _) => {
                let how = Ended::Missing;
                self.shared.handle(Event::Ended { request, how });
            }
            (What::Have(ladder), _) => {
                let pieces = PieceSet::none(ladder.pieces());
                self.offered(&ladder, Some(pieces));
            }
            (What::Part(is_last), _) => self.part(None, is_last),
        }
        Ok(())
    }

    fn has(&mut self, ladder: &Arc<Ladder>, bytes: &[u8]) -> Result<(), Hangup> {
        let pieces = match Have::parse(bytes, ladder.pieces())? {
            Have::All => None,
            Have::Some(pieces) => Some(pieces),
        };
        self.offered(ladder, pieces);
        Ok(())
    }

    fn offered(&mut self, ladder: &Arc<Ladder>, pieces: Option<PieceSet>) {
        let file = ladder.spec().sha256();
        self.is_of_use |= pieces.as_ref().is_none_or(|pieces| pieces.count() > 0);
        if pieces.is_none() {
            self.lacking.remove(&file);
        } else {
            self.lacking.insert(file, Arc::clone(ladder));
        }
        self.shared.handle(Event::Offered {
            source: Source::Peer(self.peer),
            file,
            pieces,
            rtt: None,
        });
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
