//! News to the daemon over a bounded queue. A slow daemon loses heartbeats first, then capabilities, counted;
//! of checkpoints and documents the newest waits until there is room.

use tokio::sync::mpsc;

use crate::{Documents, News, news::NewestCheckpoint};

/// Room that is left for capabilities when heartbeats are dropped already: a quarter of the queue.
const KEPT_FREE: usize = super::NEWS_QUEUE / 4;

/// The queue's end.
#[derive(Debug)]
pub(super) struct Teller {
    news: mpsc::Sender<News>,
    checkpoint: Option<Box<NewestCheckpoint>>,
    documents: Option<Box<Documents>>,
}

impl Teller {
    pub(super) fn new(news: mpsc::Sender<News>) -> Self {
        Self {
            news,
            checkpoint: None,
            documents: None,
        }
    }

    /// Tells it now or later; `false`: dropped.
    pub(super) fn tell(&mut self, item: News) -> bool {
        match item {
            News::Checkpoint(newest) => self.checkpoint = Some(newest),
            News::Documents(documents) => self.documents = Some(documents),
            News::Heartbeat { .. } if self.news.capacity() < KEPT_FREE => return false,
            other => return self.news.try_send(other).is_ok(),
        }
        true
    }

    /// Whether something waits for [`Teller::deliver`].
    pub(super) fn waits(&self) -> bool {
        self.checkpoint.is_some() || self.documents.is_some()
    }

    /// Sends what waits, once there is room; may be dropped at any time. Documents first: the checkpoint may
    /// be signed by a key that they name.
    pub(super) async fn deliver(&mut self) {
        let Ok(room) = self.news.reserve().await else {
            // The daemon listens no more.
            self.checkpoint = None;
            self.documents = None;
            return;
        };
        let documents = self.documents.take().map(News::Documents);
        let next = documents.or_else(|| self.checkpoint.take().map(News::Checkpoint));
        if let Some(news) = next {
            room.send(news);
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::{PublicKey, wire::coordinator::HeartbeatBody, wire::gossip::CapabilityBody};

    use super::*;

    #[test]
    fn a_slow_daemon_loses_heartbeats_before_capabilities() {
        let (sender, mut queue) = mpsc::channel(super::super::NEWS_QUEUE);
        let mut teller = Teller::new(sender);
        let node = PublicKey([1; 32]);
        let heartbeat = || News::Heartbeat {
            node,
            body: HeartbeatBody::default(),
        };
        let capability = || News::Capability {
            node,
            body: Box::new(CapabilityBody::default()),
        };
        let told = std::iter::repeat_with(|| teller.tell(heartbeat()));
        let told = told.take_while(|told| *told).count();
        assert_eq!(told, super::super::NEWS_QUEUE - KEPT_FREE + 1);
        assert!(teller.tell(capability()));
        let capabilities = std::iter::repeat_with(|| teller.tell(capability()));
        capabilities.take_while(|told| *told).for_each(drop);
        assert!(!teller.tell(capability()), "full");
        assert!(queue.try_recv().is_ok());
        assert!(!teller.tell(heartbeat()) && teller.tell(capability()));
    }
}
