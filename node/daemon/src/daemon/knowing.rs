//! What is known of the network changes while the daemon runs: the coordinator answers again, a peer brings a
//! revocation, a membership is granted.

use owm_proto::{Envelope, UnixMillis, statement::Membership};
use owm_service::report::Chain;

use super::{JoinError, calls, meeting::kept_membership, serve::Daemon};
use crate::{
    network::{Known, NetworkError},
    session::Event,
    status::{Origin, Status},
};

/// Shows whose documents the node goes by.
pub(super) fn show_network(picture: &mut Status, known: &Known) {
    let name = &known.network.trust.genesis().name;
    picture.network.clone_from(name);
    picture.origins.network = Some(known.from);
}

impl Daemon {
    /// Before the first event: a membership of an earlier run counts, and the coordinator is asked for what
    /// the disk or a peer could not know.
    pub(super) fn begin(&mut self) {
        let kept = self.meeting.membership.borrow().clone();
        let node = self.key.public();
        let said = kept.and_then(|envelope| {
            let said = kept_membership(&envelope, &self.network.trust, &node)?;
            Some((said, envelope))
        });
        match said {
            Some((said, envelope)) => self.admit(said, envelope, Origin::Disk),
            None => drop(self.meeting.membership.send_replace(None)),
        }
        if self.networks.now().from != Origin::Coordinator {
            self.refresh_network();
        }
    }

    /// A membership statement holds: peers are told.
    pub(super) fn admit(&mut self, said: Membership, envelope: Envelope, from: Origin) {
        let picture = &mut self.picture;
        picture.member_until_ms = Some(said.expires_at_ms.0);
        picture.origins.membership = Some(from);
        if from == Origin::Disk {
            picture.tier = Some(said.tier.to_string());
            picture.origins.tier = Some(from);
        }
        self.meeting.membership.send_replace(Some(envelope.clone()));
        self.membership = Some((said, envelope));
    }

    /// That the coordinator's key may speak for the network now; else nothing is said to it or believed.
    pub(super) fn check_coordinator(&self) -> Result<(), NetworkError> {
        let now = UnixMillis(self.clock.now_ms());
        self.network.check_instance(&self.invite, now)
    }

    /// Asks the coordinator for the network's documents, unless it is being asked, or its key has been taken
    /// back: one that has run out may have been delegated anew, a revocation is for ever.
    pub(super) fn refresh_network(&mut self) {
        if self.network.is_revoked(&self.invite.instance_key) {
            return;
        }
        if std::mem::replace(&mut self.refreshing, true) {
            return;
        }
        self.calls.spawn(calls::refresh(
            self.coordinator.clone(),
            self.invite.clone(),
            std::sync::Arc::clone(&self.clock),
            self.meeting.book.clone(),
        ));
    }

    /// The coordinator has been asked.
    pub(super) fn refreshed(&mut self, outcome: Result<(), JoinError>) {
        self.refreshing = false;
        match outcome {
            Ok(()) => {}
            // What it is otherwise asked will say so.
            Err(JoinError::Call(error)) => {
                tracing::debug!(error = %Chain(&error), "the coordinator did not tell of the network");
            }
            Err(JoinError::Network(error)) => {
                let error = Chain(&error).to_string();
                tracing::warn!(%error, "the coordinator's documents are not used");
                self.picture.link_error = Some(error);
            }
        }
    }

    /// More is known of the network.
    pub(super) fn take_network(&mut self) {
        let known = self.networks.now();
        show_network(&mut self.picture, &known);
        self.network = known.network.clone();
        if self.link.is_some()
            && let Err(error) = self.check_coordinator()
        {
            self.break_off(&error);
        }
    }

    /// The coordinator's key does not hold (any more): nothing is said to it.
    pub(super) fn break_off(&mut self, error: &(dyn std::error::Error + 'static)) {
        let error = Chain(error).to_string();
        tracing::warn!(%error, "the coordinator is not spoken to");
        self.picture.link_error = Some(error);
        self.link = None;
        self.events.push_back(Event::LinkLost { unknown: false });
        self.refresh_network();
    }
}
