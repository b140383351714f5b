//! The books: what a coordinator's acknowledgement of a result is worth. `inputs` calls it for every one.
//! Must stay true: an acknowledgement is in the log before the session hears of it, and counts once.

use owm_proto::{
    Msat, UnixMillis,
    wire::coordinator::{ResultAck, Verdict},
};
use owm_service::{RunError, failpoint, report::Chain};

use super::{inputs::short, serve::Daemon};
use crate::{
    ACK_AFTER_BOOKED, ACK_BEFORE_BOOKED,
    session::Event,
    tasklog::{Booking, LeaseKey},
};

impl Daemon {
    /// Keeps what came of a result.
    pub(super) async fn book(&mut self, key: LeaseKey, ack: &ResultAck) -> Result<(), RunError> {
        failpoint::hit_async(ACK_BEFORE_BOOKED).await;
        let booking = booking(ack);
        let (now, kept) = (UnixMillis(self.clock.now_ms()), booking.clone());
        let counted = self.booked(key, kept, now).await?;
        failpoint::hit_async(ACK_AFTER_BOOKED).await;
        self.results.remove(&key);
        if counted {
            match &booking {
                Booking::Owed { verdict, reward } => {
                    self.metrics.task(verdict).inc();
                    self.metrics.booked_msat.inc_by(reward.0);
                    tracing::info!(lease = %key, verdict, reward_msat = reward.0, "result booked as owed");
                }
                Booking::Lost { verdict, reason } => {
                    self.metrics.task(verdict).inc();
                    tracing::warn!(lease = %key, verdict, reason = %reason, "result not accepted");
                }
            }
        }
        self.events.push_back(Event::Ack(key));
        Ok(())
    }

    /// Books what came of an attempt; nobody needs its update after that, and what an unwanted one carried comes back. A
    /// kill in between leaves a file, which the next start sweeps.
    pub(super) async fn booked(
        &self,
        key: LeaseKey,
        booking: Booking,
        now: UnixMillis,
    ) -> Result<bool, RunError> {
        let updates = self.means.tools.updates.clone();
        let residues = self.means.tools.residues.clone();
        let booked = self.log.run(move |log| {
            // While the log still knows which update it is: after a kill in between the same is said again.
            if !booking.is_wanted()
                && let Some(update) = log.update(key)?
                && let Err(error) = residues.put_back(update)
            {
                tracing::warn!(lease = %key, error = %Chain(&error), "what an unwanted update carried has not come back yet");
            }
            let counted = log.booked(key, &booking, now)?;
            updates.remove(key);
            Ok(counted)
        });
        Ok(booked.await?)
    }
}

/// What an acknowledgement is in the books.
fn booking(ack: &ResultAck) -> Booking {
    let reward = Msat(ack.reward_msat);
    match ack.verdict() {
        Verdict::Accepted => Booking::Owed {
            verdict: "accepted",
            reward,
        },
        Verdict::Duplicate => Booking::Owed {
            verdict: "duplicate",
            reward,
        },
        Verdict::Late if reward > Msat::ZERO => Booking::Owed {
            verdict: "late",
            reward,
        },
        Verdict::Late => Booking::Lost {
            verdict: "late",
            reason: short(&ack.reason),
        },
        Verdict::Rejected | Verdict::Unspecified => Booking::Lost {
            verdict: "rejected",
            reason: short(&ack.reason),
        },
    }
}
