//! Tells connected nodes of a version that was published since; they fetch and load it on their own.

use std::sync::Mutex;

use owm_coordinator_store::StoreError;
use owm_proto::{VersionId, wire::coordinator::work_down::Message};
use owm_service::reconcile::{Reconciler, Status};

use crate::app::App;

/// The reconciler.
#[derive(Debug)]
pub struct Announce {
    app: App,
    told: Mutex<Option<VersionId>>,
}

impl Announce {
    /// Nothing has been told yet: nodes learn the newest version in their welcome.
    pub fn new(app: App) -> Self {
        Self {
            app,
            told: Mutex::new(None),
        }
    }
}

impl Reconciler for Announce {
    const NAME: &'static str = "announce";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let newest = self
            .app
            .current_model()
            .await?
            .map(|m| m.manifest.version.clone());
        let mut told = self
            .told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(version) = newest.clone().filter(|_| *told != newest) {
            self.app
                .sessions
                .broadcast(&Message::NewestVersion(version.to_string()));
            *told = newest;
        }
        Ok(Status(serde_json::json!({ "newest": *told })))
    }
}
