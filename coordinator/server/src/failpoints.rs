//! The named places of a coordinator where a test may kill it: before and after every commit that a
//! node, an asker or the operator relies on. (Those of dispatch, verdicts and chunks stand beside their
//! code.) `cli` registers them; the crash harness in `tests/e2e` kills a coordinator at each, so a new
//! one here is tried by itself, and one that is never reached fails the run.

owm_service::failpoints! {
    /// `init` has written the configuration, the network is not made yet.
    pub const INIT_CONFIG_WRITTEN = "coordinator.init.config_written";
    /// `init` has made keys, delegations and the genesis document in their staging folder.
    pub const INIT_STAGED = "coordinator.init.staged";
    /// `init` has put one of them in place.
    pub const INIT_MOVED = "coordinator.init.moved";
    /// A model's files are in the object store; no version names them yet.
    pub const PUBLISH_BLOBS_PLACED = "coordinator.publish.blobs_placed";
    /// A version is signed and written, not yet committed.
    pub const PUBLISH_BEFORE_COMMIT = "coordinator.publish.before_commit";
    /// A version is committed; whoever published it has not been told.
    pub const PUBLISH_AFTER_COMMIT = "coordinator.publish.after_commit";
    /// A registration is decided and written, not yet committed.
    pub const REGISTER_BEFORE_COMMIT = "coordinator.register.before_commit";
    /// A registration is committed; the node has not been told.
    pub const REGISTER_AFTER_COMMIT = "coordinator.register.after_commit";
    /// A session counts in the database; this process does not know it yet.
    pub const SESSION_OPENED = "coordinator.session.opened";
    /// A question is written, not yet committed.
    pub const ASK_BEFORE_COMMIT = "coordinator.ask.before_commit";
    /// A question is committed; its asker has not heard its id.
    pub const ASK_AFTER_COMMIT = "coordinator.ask.after_commit";
    /// A lease's end without a result is written, not yet committed.
    pub const LEASE_END_BEFORE_COMMIT = "coordinator.lease_end.before_commit";
    /// A lease's end without a result is committed; nobody has been told.
    pub const LEASE_END_AFTER_COMMIT = "coordinator.lease_end.after_commit";
    /// An answer is on its way; that it was delivered is not on record yet.
    pub const DELIVERED_BEFORE_COMMIT = "coordinator.delivered.before_commit";
    /// Leases were extended by an outage, not yet committed.
    pub const OUTAGE_BEFORE_COMMIT = "coordinator.outage.before_commit";
    /// A round's next state is written, not yet committed. (`tests/e2e/tests/rounds.rs` tries those of rounds.)
    pub const ROUND_BEFORE_COMMIT = "coordinator.round.before_commit";
    /// A round's candidate is in the object store; its row does not know of it yet.
    pub const ROUND_PLACED = "coordinator.round.placed";
    /// A round's parts are queued.
    pub const ROUND_COLLECTING = "coordinator.round.collecting";
    /// A round takes no more updates; nothing is computed yet.
    pub const ROUND_SEALED = "coordinator.round.sealed";
    /// A round's candidate waits for its losses.
    pub const ROUND_AGGREGATED = "coordinator.round.aggregated";
    /// A round's candidate is accepted, not published.
    pub const ROUND_EVALUATED = "coordinator.round.evaluated";
    /// A round's version is committed; nobody has been told.
    pub const ROUND_PUBLISHED = "coordinator.round.published";
}
