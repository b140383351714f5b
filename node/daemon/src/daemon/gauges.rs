//! Gauges and times beside the picture that `inputs` keeps: signs of life, clocks, what `/metrics` shows.

use super::serve::Daemon;
use crate::session::Phase;

impl Daemon {
    /// Remembers how long the answer to a sign of life took.
    pub(super) fn ponged(&mut self, n: u64) {
        self.picture.pong_at_ms = Some(self.clock.now_ms());
        if let Some((_, at)) = self.pinged.take_if(|(sent, _)| *sent == n) {
            let took = self.clock.monotonic().saturating_sub(at);
            self.picture.ping_ms = Some(took.as_millis() as u64);
            self.metrics.ping_seconds.set(took.as_secs_f64());
        }
    }

    /// Compares clocks by a registration's answer; 0 is an older coordinator's.
    pub(super) fn compare_clocks(&mut self, coordinator_time_ms: u64) {
        if coordinator_time_ms == 0 {
            return;
        }
        let offset = coordinator_time_ms.cast_signed() - self.clock.now_ms().cast_signed();
        self.picture.clock_offset_ms = Some(offset);
        self.metrics
            .clock_offset_seconds
            .set(offset as f64 / 1_000.0);
    }

    /// Brings the gauges up to what is true now.
    pub(super) fn gauge(&mut self, phase: Phase, linked: bool) {
        let (metrics, picture) = (&self.metrics, &self.picture);
        let running = self.session.running().count();
        metrics.running.set(running as i64);
        metrics.linked.set(i64::from(linked));
        metrics.slots.set(picture.slots.into());
        metrics
            .unacknowledged
            .set(self.session.unacked_count() as i64);
        metrics.model_loaded.set(i64::from(picture.model.is_some()));
        let accepting = phase == Phase::Active
            && picture.model.is_some()
            && picture.open
            && picture.pause.is_none();
        metrics.accepting.set(i64::from(accepting));
        if !linked {
            self.picture.linked_since_ms = None;
        }
    }
}
