//! What comes in: turns messages, job events, ended calls and the keeper's news into session events, and
//! keeps the picture that `status` shows.

use std::time::Duration;

use owm_proto::{
    UnixMillis,
    wire::coordinator::{ResultAck, WorkDown, work_down::Message},
};
use owm_service::{RunError, failpoint, report::Chain};

use super::{calls::CallDone, serve::Daemon};
use crate::{
    REGISTERED,
    home::write_atomically,
    link::LinkEvent,
    models::{LoadedModel, ModelEvent},
    network::NetworkError,
    orders::Orders,
    register::{self, Outcome},
    roles::infer::JobEvent,
    session::{Ending, Event, Registration},
    status::{ModelStatus, Origin, StandingStatus},
    tasklog::Booking,
    work,
};

/// What a coordinator may ask for between signs of life.
const PING_SECS: std::ops::RangeInclusive<u32> = 1..=120;

/// Something came in.
#[derive(Debug)]
pub(super) enum Input {
    Link(LinkEvent),
    Job(JobEvent),
    Call(CallDone),
    Model(ModelEvent),
    Network,
    Orders,
    Tick,
    Stop,
}

impl Daemon {
    /// Waits for the next thing. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Input {
        let Self {
            link,
            job_events,
            calls,
            models,
            ordered,
            networks,
            ..
        } = self;
        let link_event = async {
            match link {
                // A closed channel without a word is a lost link.
                Some(link) => link.events.recv().await.unwrap_or(LinkEvent::Lost(None)),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = link_event => Input::Link(event),
            Some(event) = job_events.recv() => Input::Job(event),
            Some(event) = models.recv() => Input::Model(event),
            Ok(()) = ordered.changed() => Input::Orders,
            () = networks.changed() => Input::Network,
            Some(Ok(done)) = calls.join_next(), if !calls.is_empty() => Input::Call(done),
            else => std::future::pending().await,
        }
    }

    pub(super) async fn take(&mut self, input: Input) -> Result<(), RunError> {
        match input {
            Input::Tick => self.tick(),
            Input::Orders => self.take_orders(),
            Input::Stop => self.events.push_back(Event::Stop),
            Input::Link(event) => self.take_link(event).await?,
            Input::Job(event) => self.take_job(event).await?,
            Input::Call(done) => self.take_call(done).await?,
            Input::Model(event) => self.take_model(event),
            Input::Network => self.take_network(),
        }
        Ok(())
    }

    fn take_orders(&mut self) {
        let Orders { pause, drain } = *self.ordered.borrow_and_update();
        if pause != self.picture.pause {
            let paused = pause.is_some();
            tracing::info!(
                paused,
                "the operator's order: {}",
                if paused {
                    "take no new work"
                } else {
                    "take work again"
                }
            );
            self.picture.pause = pause;
            self.events.push_back(Event::Pause(paused));
        }
        if let Some(within) = drain.filter(|within| self.drains_within != Some(*within)) {
            tracing::info!(
                within_secs = within.as_secs(),
                "the operator's order: finish what runs, hand in, end"
            );
            self.drains_within = Some(within);
            self.events.push_back(Event::Drain { within });
        }
    }

    fn tick(&mut self) {
        self.orders.end_pause_if_over();
        let open = self.caps.hours.is_open(self.clock.now_ms());
        if open != self.picture.open {
            tracing::info!(open, "the operator's hours changed");
            self.picture.open = open;
            self.events.push_back(Event::Open(open));
        }
        let now = UnixMillis(self.clock.now_ms());
        let expires = self.membership.as_ref().map(|(said, _)| said.expires_at_ms);
        if let Some(expires) = expires.filter(|_| self.session.is_linked())
            && self.renewal.start(self.clock.monotonic(), now, expires)
        {
            self.start_registration();
        }
        self.events.push_back(Event::Tick);
    }

    async fn take_link(&mut self, event: LinkEvent) -> Result<(), RunError> {
        match event {
            LinkEvent::Up => {
                self.picture.link_error = None;
                self.picture.linked_since_ms = Some(self.clock.now_ms());
                self.metrics.links.inc();
                tracing::info!(coordinator = self.coordinator.target(), "work link stands");
                self.refresh_network();
                self.events.push_back(Event::LinkUp);
            }
            LinkEvent::Lost(error) => {
                self.link = None;
                let text = error.as_ref().map_or_else(
                    || "the coordinator closed it".to_owned(),
                    |error| Chain(error).to_string(),
                );
                tracing::warn!(error = %text, "no work link, connecting again");
                self.picture.link_error = Some(text);
                self.metrics.links_lost.inc();
                if let Some(error) = error.as_ref().filter(|error| error.is_fenced()) {
                    self.events
                        .push_back(Event::Fenced(short(&error.to_string())));
                }
                let unknown = error.is_some_and(|error| error.is_unknown_node());
                self.events.push_back(Event::LinkLost { unknown });
            }
            LinkEvent::Down(message) => self.take_message(*message).await?,
        }
        Ok(())
    }

    async fn take_message(&mut self, message: WorkDown) -> Result<(), RunError> {
        let Some(message) = message.message else {
            return Ok(());
        };
        match message {
            Message::Welcome(welcome) => {
                let ping = PING_SECS
                    .contains(&welcome.ping_secs)
                    .then(|| Duration::from_secs(welcome.ping_secs.into()));
                self.set_node_status(&welcome.node_status, Origin::Stream);
                self.hint(&welcome.newest_version);
                self.events.push_back(Event::Welcome { ping });
            }
            Message::Lease(lease) => {
                let Some(key) = work::lease_key(&lease.task_id, lease.epoch) else {
                    tracing::warn!("a lease without a task id was ignored");
                    return Ok(());
                };
                let time = Duration::from_millis(lease.lease_ms.into());
                let role = work::lease_role(&lease);
                self.arrived = Some((key, lease));
                self.events.push_back(Event::Lease { key, role, time });
            }
            Message::Cancel(cancel) => {
                if let Some(key) = work::lease_key(&cancel.task_id, cancel.epoch) {
                    tracing::info!(lease = %key, reason = %short(&cancel.reason), "task cancelled");
                    self.events.push_back(Event::Cancel(key));
                }
            }
            Message::ResultAck(ack) => {
                if let Some(key) = work::lease_key(&ack.task_id, ack.epoch) {
                    self.book(key, &ack).await?;
                }
            }
            Message::Pong(n) => {
                self.ponged(n);
                self.events.push_back(Event::Pong(n));
            }
            Message::Fenced(fenced) => self.events.push_back(Event::Fenced(short(&fenced.reason))),
            Message::NewestVersion(version) => self.hint(&version),
            Message::Standing(standing) => {
                self.picture.standing = Some(StandingStatus {
                    effective_tier: short(&standing.effective_tier),
                    reliability_permille: standing.reliability_permille.min(1_000),
                    uptime_permille: standing.uptime_permille.min(1_000),
                });
                self.picture.origins.standing = Some(Origin::Stream);
            }
            Message::NodeStatus(status) => {
                tracing::info!(node.status = %short(&status), "the coordinator changed this node's status");
                self.set_node_status(&status, Origin::Stream);
            }
        }
        Ok(())
    }

    fn set_node_status(&mut self, status: &str, from: Origin) {
        self.picture.node_status = Some(short(status));
        self.picture.origins.node_status = Some(from);
    }

    fn hint(&mut self, version: &str) {
        if version.is_empty() {
            return;
        }
        let version = short(version);
        self.hints.send_if_modified(|hint| {
            let is_new = hint.as_deref() != Some(&version);
            if is_new {
                *hint = Some(version);
            }
            is_new
        });
    }

    async fn take_job(&mut self, event: JobEvent) -> Result<(), RunError> {
        match event {
            JobEvent::Chunk(key, chunk) => {
                let Some(job) = self
                    .jobs
                    .get_mut(&key)
                    .filter(|job| !job.stop.is_cancelled())
                else {
                    return Ok(());
                };
                job.chunks.push(chunk.clone());
                self.send_chunk(chunk).await;
            }
            JobEvent::Ended {
                key,
                ending,
                result,
                tokens,
            } => {
                self.jobs.remove(&key);
                if let Some(result) = result {
                    self.results.insert(key, *result);
                }
                tracing::info!(lease = %key, ending = name_of(&ending), tokens, "task ended");
                let lost = match &ending {
                    Ending::Result | Ending::ResultWithBytes => None,
                    Ending::Stopped => Some(("cancelled", String::new())),
                    Ending::HandBack { message, .. } => Some(("handed_back", message.clone())),
                };
                if let Some((verdict, reason)) = lost {
                    self.metrics.task(verdict).inc();
                    let now = UnixMillis(self.clock.now_ms());
                    let booking = Booking::Lost { verdict, reason };
                    self.booked(key, booking, now).await?;
                }
                self.events.push_back(Event::Ended(key, ending));
            }
        }
        Ok(())
    }

    async fn take_call(&mut self, done: CallDone) -> Result<(), RunError> {
        if let Err(error) = self.check_coordinator() {
            self.not_believed(done, &error);
            return Ok(());
        }
        match done {
            CallDone::Registered(Ok(answer)) => {
                let now = UnixMillis(self.clock.now_ms());
                self.compare_clocks(answer.coordinator_time_ms);
                match register::outcome(*answer, &self.key, &self.network.trust, now) {
                    Ok(outcome) => self.registered(outcome).await?,
                    Err(error) => {
                        tracing::warn!(error = %Chain(&error), "the registration's answer is not usable");
                        self.registration_failed(&error);
                    }
                }
            }
            CallDone::Registered(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "registration failed, trying again");
                self.registration_failed(&error);
            }
            CallDone::Submitted(key, Ok(ack)) => self.book(key, &ack).await?,
            CallDone::Submitted(key, Err(error)) => {
                let is_final = error.is_final();
                tracing::warn!(lease = %key, error = %Chain(&error), is_final, "a result was not taken");
                if is_final {
                    let ack = ResultAck {
                        reason: error.to_string(),
                        ..ResultAck::default()
                    };
                    self.book(key, &ack).await?;
                } else {
                    self.events.push_back(Event::SubmitFailed(key));
                }
            }
            CallDone::Heartbeat(Ok(answer)) => {
                self.set_node_status(&answer.status, Origin::Coordinator);
                self.hint(&answer.newest_version);
            }
            CallDone::Heartbeat(Err(error)) => {
                tracing::debug!(error = %Chain(&error), "a heartbeat did not arrive");
            }
            CallDone::Network(outcome) => self.refreshed(outcome),
        }
        Ok(())
    }

    /// A call has ended whose answerer does not speak for the network (any more).
    fn not_believed(&mut self, done: CallDone, error: &NetworkError) {
        match done {
            CallDone::Registered(_) => self.registration_failed(error),
            CallDone::Submitted(key, _) => self.events.push_back(Event::SubmitFailed(key)),
            CallDone::Heartbeat(_) => {}
            // Documents hold by themselves.
            CallDone::Network(outcome) => self.refreshed(outcome),
        }
    }

    pub(super) fn registration_failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.picture.link_error = Some(Chain(error).to_string());
        self.refresh_network();
        // A renewal that fails leaves the membership as it is.
        if !self.registration_ended() {
            self.events
                .push_back(Event::Registered(Registration::Failed));
        }
    }

    /// Whether it was a renewal.
    fn registration_ended(&mut self) -> bool {
        self.renewal.ended(self.clock.monotonic(), &mut self.rng)
    }

    async fn registered(&mut self, outcome: Outcome) -> Result<(), RunError> {
        failpoint::hit_async(REGISTERED).await;
        self.registration_ended();
        let registration = match outcome {
            Outcome::Active {
                node_id,
                tier,
                heartbeat,
                stake_policy,
                membership,
            } => {
                tracing::info!(node.id = %node_id, "{}", register::active_line(tier, &stake_policy));
                self.checks.registered.ready();
                self.picture.reasons.clear();
                self.picture.link_error = None;
                self.picture.node_id = Some(node_id);
                self.picture.tier = tier.map(|tier| tier.to_string());
                self.picture.stake_policy = Some(stake_policy);
                self.picture.origins.tier = Some(Origin::Registration);
                if let Some((said, envelope)) = membership.map(|both| *both) {
                    let (path, bytes) = (self.membership_file.clone(), envelope.to_stored());
                    tokio::task::spawn_blocking(move || write_atomically(&path, &bytes)).await??;
                    self.admit(said, envelope, Origin::Registration);
                }
                Registration::Active { heartbeat }
            }
            Outcome::Pending { reasons } => {
                for reason in &reasons {
                    tracing::warn!("registration is pending: {reason}");
                }
                self.checks.registered.not_ready("pending");
                self.picture.reasons = reasons;
                Registration::Pending
            }
            Outcome::Refused { reasons } => Registration::Refused {
                reason: reasons.join("; "),
            },
        };
        self.events.push_back(Event::Registered(registration));
        Ok(())
    }

    fn take_model(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::Busy(what) => {
                self.picture.model_state = Some(what);
                self.picture.model_failed = false;
            }
            ModelEvent::Failed(why) => {
                self.picture.model_state = Some(why);
                self.picture.model_failed = true;
            }
            ModelEvent::Damaged(what) => self.picture.model_damage = Some(what),
            ModelEvent::Loaded(loaded) => {
                self.checks.model.ready();
                self.say_if_a_gpu_idles(&loaded);
                self.picture.model_state = None;
                self.picture.model_failed = false;
                self.picture.model = Some(ModelStatus {
                    version: loaded.version.to_string(),
                    sha256: loaded.weights_hex(),
                    sub_models: loaded.sub_models.keys().map(ToString::to_string).collect(),
                    note: loaded.note.clone(),
                    timestamps: "require = none: timestamps are not checked yet".into(),
                    engine: loaded.engine(),
                });
                self.events.push_back(Event::Weights(loaded.weights_hex()));
                self.loaded = Some(loaded);
            }
        }
    }

    /// A machine with a GPU that computes on its CPU must not do so in silence.
    fn say_if_a_gpu_idles(&self, loaded: &LoadedModel) {
        let gpus = self.application.capabilities.gpus.join(", ");
        if let Some(engine) = loaded
            .engine()
            .filter(|e| !gpus.is_empty() && e.backend.contains("flex"))
        {
            let reason = engine.device_reason;
            tracing::warn!(%gpus, %reason, "this machine has a GPU, but the model runs on the CPU");
        }
    }

    /// Publishes the picture if it has changed.
    pub(super) fn show(&mut self) {
        let (phase, linked) = (self.session.phase(), self.session.is_linked());
        if linked && !self.picture.linked {
            self.checks.linked.ready();
        } else if !linked {
            let why = self
                .picture
                .link_error
                .clone()
                .unwrap_or_else(|| "connecting".into());
            self.checks.linked.not_ready(why);
        }
        let running = self.session.running().count();
        self.gauge(phase, linked);
        self.picture.phase = phase;
        self.picture.linked = linked;
        self.picture.running = running as u32;
        self.picture.unacknowledged = self.session.unacked_count() as u32;
        self.coordinator
            .target()
            .clone_into(&mut self.picture.coordinator);
        self.status.send_if_modified(|shown| {
            let changed = *shown != self.picture;
            if changed {
                shown.clone_from(&self.picture);
            }
            changed
        });
    }
}

fn name_of(ending: &Ending) -> &'static str {
    match ending {
        Ending::Result | Ending::ResultWithBytes => "result",
        Ending::HandBack { .. } => "handed_back",
        Ending::Stopped => "stopped",
    }
}

/// A foreign text, bounded and without control characters.
pub(super) fn short(text: &str) -> String {
    /// Longest foreign text that is shown, in characters.
    const CHARS_MAX: usize = 300;
    text.chars()
        .filter(|c| !c.is_control())
        .take(CHARS_MAX)
        .collect()
}
