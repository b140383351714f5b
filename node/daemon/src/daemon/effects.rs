//! What goes out: does what the session says. The order of effects is the order on the wire.

use std::time::Duration;

use owm_proto::{
    UnixMillis,
    wire::coordinator::{
        Chunk, HandBack, Hello, Offer, RunningTask, SignedEnvelope, Withdraw, WorkUp,
        work_up::Message,
    },
};
use owm_service::{RunError, failpoint, report::Chain};
use rand::RngCore as _;

use super::{
    calls,
    serve::{Daemon, Job},
};
use crate::{
    CHUNK_SENT, LEASE_ACCEPTED,
    caps::ram_used,
    heartbeat::{self, Beat},
    roles::{evaluate, infer},
    session::{Effect, Ending, Event},
    tasklog::LeaseKey,
    work::{self, Refusal},
};

/// How long a message may wait for room in the link's queue: as long as three signs of life.
const SEND_TIME: Duration = Duration::from_secs(30);

impl Daemon {
    pub(super) async fn perform(&mut self, effect: Effect) -> Result<(), RunError> {
        match effect {
            Effect::Register => self.start_registration(),
            Effect::Connect => self.connect(),
            Effect::Disconnect => {
                self.picture.link_error = Some("the coordinator does not answer pings".into());
                self.metrics.links_lost.inc();
                self.link = None;
            }
            Effect::Offer {
                role,
                credits,
                sha256,
            } => {
                self.send(Message::Offer(Offer {
                    role: role.to_string(),
                    credits,
                    sha256,
                }))
                .await;
            }
            Effect::Withdraw { role } => {
                let role = role.to_string();
                self.send(Message::Withdraw(Withdraw { role })).await;
            }
            Effect::Ping(n) => {
                self.pinged = Some((n, self.clock.monotonic()));
                self.send(Message::Ping(n)).await;
            }
            Effect::Heartbeat { on_link } => self.heartbeat(on_link).await?,
            Effect::ResendChunks(key) => {
                let chunks = self
                    .jobs
                    .get(&key)
                    .map(|job| job.chunks.clone())
                    .unwrap_or_default();
                for chunk in chunks {
                    self.send(Message::Chunk(chunk)).await;
                }
            }
            Effect::Run(key) => self.start(key).await,
            Effect::Break(key) => {
                if let Some(job) = self.jobs.get(&key) {
                    job.stop.cancel();
                }
            }
            Effect::HandBack {
                key,
                reason,
                message,
            } => {
                tracing::info!(lease = %key, reason = reason.as_str_name(), %message, "task handed back");
                self.send(Message::HandBack(HandBack {
                    task_id: key.task.to_string(),
                    epoch: key.epoch,
                    reason: reason.into(),
                    message,
                }))
                .await;
            }
            Effect::SendResult(key) => {
                if let Some(result) = self.results.remove(&key) {
                    self.send(Message::Result(result)).await;
                }
            }
            Effect::Submit(key) => {
                if let Err(error) = self.check_coordinator() {
                    tracing::debug!(error = %Chain(&error), lease = %key, "the result is kept");
                    self.events.push_back(Event::SubmitFailed(key));
                    return Ok(());
                }
                let updates = self.means.tools.updates.clone();
                let call = calls::submit(self.coordinator.clone(), self.log.clone(), updates, key);
                self.calls.spawn(call);
            }
            Effect::End(over) => self.over = Some(over),
        }
        Ok(())
    }

    /// Queues a message, as fast as the link takes them; a link that takes no more is dropped.
    async fn send(&mut self, message: Message) {
        let message = WorkUp {
            message: Some(message),
        };
        let Some(link) = &self.link else { return };
        if !link.send(message, SEND_TIME).await {
            tracing::warn!("the work link takes no more messages, connecting again");
            self.link = None;
            self.events.push_back(Event::LinkLost { unknown: false });
        }
    }

    pub(super) async fn send_chunk(&mut self, chunk: Chunk) {
        if self.session.is_linked() {
            self.send(Message::Chunk(chunk)).await;
            failpoint::hit_async(CHUNK_SENT).await;
        }
    }

    pub(super) fn start_registration(&mut self) {
        let mut request_id = [0; 16];
        self.rng.fill_bytes(&mut request_id);
        let now = UnixMillis(self.clock.now_ms());
        if let Err(error) = self.check_coordinator() {
            tracing::warn!(error = %Chain(&error), "the coordinator is not spoken to");
            return self.registration_failed(&error);
        }
        let request = self
            .application
            .sign(&self.key, &self.network.trust, request_id, now);
        self.calls
            .spawn(calls::register(self.coordinator.clone(), request));
    }

    fn connect(&mut self) {
        if let Err(error) = self.check_coordinator() {
            return self.break_off(&error);
        }
        let running = self.session.held().map(|key| RunningTask {
            task_id: key.task.to_string(),
            epoch: key.epoch,
        });
        let hello = Hello {
            session_id: self.session_id.0.to_vec(),
            started_at_ms: self.started_at.0,
            software_version: crate::VERSION.to_owned(),
            running: running.collect(),
        };
        let hello = WorkUp {
            message: Some(Message::Hello(hello)),
        };
        self.link = Some(self.coordinator.open(self.transport, hello));
    }

    async fn heartbeat(&mut self, on_link: bool) -> Result<(), RunError> {
        if let Err(error) = self.check_coordinator() {
            tracing::debug!(error = %Chain(&error), "the coordinator gets no heartbeat");
            return Ok(());
        }
        let beat = Beat {
            session: self.session_id,
            running: self.session.running().count() as u32,
            loaded: self
                .loaded
                .as_ref()
                .map(|loaded| loaded.weights_hex())
                .unwrap_or_default(),
        };
        let (key, network) = (std::sync::Arc::clone(&self.key), self.network.trust.id());
        let now = UnixMillis(self.clock.now_ms());
        let signed = self
            .log
            .run(move |log| beat.sign(&key, &network, log, now, heartbeat::TIME))
            .await?;
        let envelope = SignedEnvelope::from(&signed.into_envelope());
        if on_link {
            self.send(Message::Heartbeat(envelope)).await;
        } else {
            self.calls
                .spawn(calls::heartbeat(self.coordinator.clone(), envelope));
        }
        Ok(())
    }

    async fn start(&mut self, key: LeaseKey) {
        match self.accept(key) {
            Ok(job) => {
                failpoint::hit_async(LEASE_ACCEPTED).await;
                let (stop, context) = (
                    owm_service::CancellationToken::new(),
                    self.job_context.clone(),
                );
                self.jobs.insert(
                    key,
                    Job {
                        stop: stop.clone(),
                        chunks: Vec::new(),
                    },
                );
                // Detached: it ends with an event, and stops when the daemon is dropped.
                match job {
                    work::Job::Infer(job) => {
                        tracing::info!(lease = %key, model.version = %job.version, stream = job.stream, "task accepted");
                        drop(tokio::task::spawn_blocking(move || {
                            infer::run(&job, &context, &stop);
                        }));
                    }
                    work::Job::Evaluate(job) => {
                        tracing::info!(lease = %key, model.version = %job.version, text = %job.ask.text, "evaluation accepted");
                        let means = self.means.clone();
                        drop(tokio::spawn(evaluate::run(*job, context, means, stop)));
                    }
                }
            }
            Err(Refusal { reason, message }) => {
                self.events
                    .push_back(Event::Ended(key, Ending::HandBack { reason, message }));
            }
        }
    }

    fn accept(&mut self, key: LeaseKey) -> Result<work::Job, Refusal> {
        let (_, lease) = self
            .arrived
            .take_if(|(arrived, _)| *arrived == key)
            .ok_or_else(|| Refusal::cannot("the lease is gone"))?;
        if let Some(refusal) = self.caps.refusal(ram_used()) {
            return Err(Refusal::cannot(refusal));
        }
        work::open(key, &lease, &self.key, self.loaded.as_deref())
    }
}
