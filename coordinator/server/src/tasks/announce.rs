//! Tells connected nodes of a version that was published since (they fetch and load it on their own), and the
//! swarm of its signed checkpoint. Publishing is another process: this one looks once a second.

use std::sync::{Mutex, MutexGuard, PoisonError};

use owm_coordinator_store::StoreError;
use owm_proto::{VersionId, wire::coordinator::work_down::Message};
use owm_service::reconcile::{Reconciler, Status};

use crate::{app::App, swarm::checkpoint};

/// The reconciler.
#[derive(Debug)]
pub struct Announce {
    app: App,
    told: Mutex<Option<VersionId>>,
    /// The version whose checkpoint the swarm serves, or that has none and can't get one, and by how many
    /// statements of the root key that was judged: newer ones may change it.
    announced: Mutex<Option<(VersionId, usize)>>,
}

impl Announce {
    /// Nothing has been told yet: nodes learn the newest version in their welcome.
    pub fn new(app: App) -> Self {
        Self {
            app,
            told: Mutex::new(None),
            announced: Mutex::new(None),
        }
    }
}

fn lock<T>(told: &Mutex<T>) -> MutexGuard<'_, T> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reconciler for Announce {
    const NAME: &'static str = "announce";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let model = self.app.current_model().await?;
        let newest = model.as_ref().map(|m| m.manifest.version.clone());
        let statements = self.app.authority.statements();
        let statements = statements.delegations.len() + statements.revocations.len();
        let judged = newest.clone().map(|version| (version, statements));
        if let Some(model) = &model
            && *lock(&self.announced) != judged
            && checkpoint::announce(&self.app, model).await?
        {
            *lock(&self.announced) = judged;
        }
        let mut told = lock(&self.told);
        if let Some(version) = newest.clone().filter(|_| *told != newest) {
            self.app
                .sessions
                .broadcast(&Message::NewestVersion(version.to_string()));
            *told = newest;
        }
        Ok(Status(serde_json::json!({ "newest": *told })))
    }
}
