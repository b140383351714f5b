-- The founding schema, as first designed: names, types and meaning stay for good (spec §15).
-- Authority moves into columns that later migrations add; the founding ones are then derived.

CREATE TABLE nodes (
    node_id         UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    public_key      TEXT NOT NULL UNIQUE,
    ln_node_uri     TEXT NOT NULL,
    tier            TEXT NOT NULL CHECK (tier IN ('t1','t2','t3')),
    vram_gb         NUMERIC(6,2),
    ram_gb          NUMERIC(6,2),
    bandwidth_mbps  NUMERIC(8,2),
    reliability     NUMERIC(5,4) DEFAULT 1.0,
    total_tasks     INTEGER DEFAULT 0,
    total_sats      BIGINT DEFAULT 0,
    status          TEXT NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending','active','degraded','suspended')),
    registered_at   TIMESTAMPTZ DEFAULT now(),
    last_heartbeat  TIMESTAMPTZ
);
COMMENT ON TABLE nodes IS 'Contributors'' nodes: identity, hardware, standing, totals.';
COMMENT ON COLUMN nodes.node_id IS 'The database''s name of the node; on the wire it is public_key.';
COMMENT ON COLUMN nodes.public_key IS 'Ed25519 public key, 64 lowercase hex digits: the identity.';
COMMENT ON COLUMN nodes.ln_node_uri IS 'Lightning node, pubkey@host:port; empty: no wallet.';
COMMENT ON COLUMN nodes.tier IS 'What the hardware is good for: t1, t2, t3 (t1 also where it reaches none and status is pending).';
COMMENT ON COLUMN nodes.vram_gb IS 'Video memory in decimal GB; derived from vram_bytes.';
COMMENT ON COLUMN nodes.ram_gb IS 'Main memory in decimal GB; derived from ram_bytes.';
COMMENT ON COLUMN nodes.bandwidth_mbps IS 'Bandwidth in Mbit/s; derived from bandwidth_kbps.';
COMMENT ON COLUMN nodes.reliability IS 'Success rate times uptime over rolling 7 days, 0 to 1; derived from reliability_permille.';
COMMENT ON COLUMN nodes.total_tasks IS 'Tasks that ended on this node, failed ones included; derived from tasks_total.';
COMMENT ON COLUMN nodes.total_sats IS 'Earned so far in whole satoshi; derived from earned_msat.';
COMMENT ON COLUMN nodes.status IS 'Standing: pending, active, degraded, suspended. Only the coordinator changes it, never gossip.';
COMMENT ON COLUMN nodes.registered_at IS 'First successful registration; the uptime window starts here.';
COMMENT ON COLUMN nodes.last_heartbeat IS 'Arrival of the newest valid heartbeat, whatever way it came.';

CREATE TABLE node_stakes (
    node_id             UUID PRIMARY KEY REFERENCES nodes(node_id),
    channel_id          TEXT NOT NULL UNIQUE,
    channel_capacity    BIGINT NOT NULL,
    local_balance       BIGINT NOT NULL,
    tier_minimum        BIGINT NOT NULL,
    bonus_multiplier    NUMERIC(4,3) DEFAULT 1.0,
    stake_status        TEXT NOT NULL DEFAULT 'active'
                        CHECK (stake_status IN ('active','degraded','force_closed')),
    opened_at           TIMESTAMPTZ DEFAULT now(),
    last_verified_at    TIMESTAMPTZ DEFAULT now(),
    degraded_since      TIMESTAMPTZ
);
COMMENT ON TABLE node_stakes IS 'The Lightning channel that is a node''s stake.';
COMMENT ON COLUMN node_stakes.node_id IS 'Whose stake.';
COMMENT ON COLUMN node_stakes.channel_id IS 'Lightning channel id, hex.';
COMMENT ON COLUMN node_stakes.channel_capacity IS 'Total satoshi in the channel.';
COMMENT ON COLUMN node_stakes.local_balance IS 'The node''s locked satoshi.';
COMMENT ON COLUMN node_stakes.tier_minimum IS 'Satoshi the tier requires.';
COMMENT ON COLUMN node_stakes.bonus_multiplier IS 'Stake bonus, 1.000 to 2.000.';
COMMENT ON COLUMN node_stakes.stake_status IS 'active, degraded (below the minimum) or force_closed (slashed).';
COMMENT ON COLUMN node_stakes.opened_at IS 'When the channel was first seen usable.';
COMMENT ON COLUMN node_stakes.last_verified_at IS 'When the treasury last confirmed the figures.';
COMMENT ON COLUMN node_stakes.degraded_since IS 'When the stake fell below the minimum; 24 h to restore.';

CREATE TABLE tasks (
    task_id         UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    task_type       TEXT NOT NULL,
    assigned_node   UUID REFERENCES nodes(node_id),
    status          TEXT NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending','running','completed','failed','timeout')),
    input_hash      TEXT,
    output_hash     TEXT,
    reward_sats     INTEGER,
    payment_status  TEXT DEFAULT 'pending'
                    CHECK (payment_status IN ('pending','paid','failed')),
    payment_preimage TEXT,
    submitted_at    TIMESTAMPTZ DEFAULT now(),
    started_at      TIMESTAMPTZ,
    completed_at    TIMESTAMPTZ,
    timeout_seconds INTEGER DEFAULT 30
);
COMMENT ON TABLE tasks IS 'Work items: one row from submission to its end, leased to nodes in between.';
COMMENT ON COLUMN tasks.task_id IS 'The task; shown in logs, no capability.';
COMMENT ON COLUMN tasks.task_type IS 'fl_round, inference, gradient_agg, evaluate, audit, data_ingest, embed_data.';
COMMENT ON COLUMN tasks.assigned_node IS 'The node that holds, held last, or won it; derived from lease_node and winner_node.';
COMMENT ON COLUMN tasks.status IS 'Derived from phase: queued is pending, leased running, done completed, failed failed (timeout where failure_code is timeout), cancelled failed.';
COMMENT ON COLUMN tasks.input_hash IS 'SHA-256 of the opened payload, lowercase hex; kept after the payload is deleted.';
COMMENT ON COLUMN tasks.output_hash IS 'SHA-256 of the accepted output, lowercase hex; kept after the output is deleted.';
COMMENT ON COLUMN tasks.reward_sats IS 'Reward in whole satoshi; derived from reward_msat.';
COMMENT ON COLUMN tasks.payment_status IS 'pending until a payout is proved; booked as owed is still pending.';
COMMENT ON COLUMN tasks.payment_preimage IS 'Preimage of the payout, hex, where the payee''s wallet gave an invoice.';
COMMENT ON COLUMN tasks.submitted_at IS 'When it was queued.';
COMMENT ON COLUMN tasks.started_at IS 'When it was first leased.';
COMMENT ON COLUMN tasks.completed_at IS 'When it ended, well or not.';
COMMENT ON COLUMN tasks.timeout_seconds IS 'Length of one lease in seconds; derived from lease_ms, rounded up.';

CREATE TABLE fl_rounds (
    round_id        SERIAL PRIMARY KEY,
    round_number    INTEGER NOT NULL UNIQUE,
    status          TEXT NOT NULL DEFAULT 'open'
                    CHECK (status IN ('open','aggregating','complete','failed')),
    model_version   TEXT,
    checkpoint_hash TEXT,
    ots_proof_path  TEXT,
    btc_block       INTEGER,
    started_at      TIMESTAMPTZ DEFAULT now(),
    completed_at    TIMESTAMPTZ,
    participant_count INTEGER
);
COMMENT ON TABLE fl_rounds IS 'Federated rounds.';
COMMENT ON COLUMN fl_rounds.round_id IS 'The round''s row.';
COMMENT ON COLUMN fl_rounds.round_number IS 'Counts up; what people and manifests call the round.';
COMMENT ON COLUMN fl_rounds.status IS 'open, aggregating, complete, failed.';
COMMENT ON COLUMN fl_rounds.model_version IS 'The version the round published.';
COMMENT ON COLUMN fl_rounds.checkpoint_hash IS 'SHA-256 of the published checkpoint, lowercase hex.';
COMMENT ON COLUMN fl_rounds.ots_proof_path IS 'Object key of the OpenTimestamps proof.';
COMMENT ON COLUMN fl_rounds.btc_block IS 'Height of the block that anchors the checkpoint.';
COMMENT ON COLUMN fl_rounds.started_at IS 'When the round opened.';
COMMENT ON COLUMN fl_rounds.completed_at IS 'When it was published or abandoned.';
COMMENT ON COLUMN fl_rounds.participant_count IS 'Nodes whose update was accepted.';

CREATE TABLE fl_participants (
    round_id        INTEGER REFERENCES fl_rounds(round_id),
    node_id         UUID REFERENCES nodes(node_id),
    gradient_hash   TEXT,
    anomaly_flagged BOOLEAN DEFAULT FALSE,
    reward_sats     INTEGER,
    PRIMARY KEY (round_id, node_id)
);
COMMENT ON TABLE fl_participants IS 'Who took part in which round.';
COMMENT ON COLUMN fl_participants.round_id IS 'The round.';
COMMENT ON COLUMN fl_participants.node_id IS 'The node.';
COMMENT ON COLUMN fl_participants.gradient_hash IS 'SHA-256 of the canonical update, lowercase hex.';
COMMENT ON COLUMN fl_participants.anomaly_flagged IS 'A gate flagged the update.';
COMMENT ON COLUMN fl_participants.reward_sats IS 'Reward in whole satoshi.';

CREATE TABLE model_versions (
    version_id          TEXT PRIMARY KEY,
    round_number        INTEGER REFERENCES fl_rounds(round_number),
    created_at          TIMESTAMPTZ DEFAULT now(),
    sub_model_hashes    JSONB,
    ots_proof_paths     JSONB,
    btc_block           INTEGER,
    coordinator_sig     TEXT,
    is_current          BOOLEAN DEFAULT FALSE
);
COMMENT ON TABLE model_versions IS 'Published model versions, each a signed manifest.';
COMMENT ON COLUMN model_versions.version_id IS 'Name, as owm-v0.4.2.';
COMMENT ON COLUMN model_versions.round_number IS 'The round it came from; NULL: imported.';
COMMENT ON COLUMN model_versions.created_at IS 'When it was published here.';
COMMENT ON COLUMN model_versions.sub_model_hashes IS 'Sub-model id to the SHA-256 of its weights: text, or an array in manifest order.';
COMMENT ON COLUMN model_versions.ots_proof_paths IS 'Sub-model id to the object key of its OpenTimestamps proof.';
COMMENT ON COLUMN model_versions.btc_block IS 'Height of the anchoring block; NULL until Bitcoin confirms.';
COMMENT ON COLUMN model_versions.coordinator_sig IS 'Signature over the manifest, hex; derived from manifest_signature.';
COMMENT ON COLUMN model_versions.is_current IS 'The version new tasks run on; at most one.';

CREATE TABLE slashing_events (
    event_id            UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    node_id             UUID REFERENCES nodes(node_id),
    channel_id          TEXT NOT NULL,
    tier                TEXT NOT NULL,
    reason              TEXT NOT NULL,
    evidence_hash       TEXT NOT NULL,
    signal_count        INTEGER NOT NULL,
    executed_at         TIMESTAMPTZ DEFAULT now(),
    cooldown_expires_at TIMESTAMPTZ NOT NULL,
    coordinator_sig     TEXT NOT NULL
);
COMMENT ON TABLE slashing_events IS 'Stakes taken: the public, signed log.';
COMMENT ON COLUMN slashing_events.event_id IS 'The event.';
COMMENT ON COLUMN slashing_events.node_id IS 'Who was slashed.';
COMMENT ON COLUMN slashing_events.channel_id IS 'The channel that was force-closed, hex.';
COMMENT ON COLUMN slashing_events.tier IS 'The node''s tier at the time.';
COMMENT ON COLUMN slashing_events.reason IS 'Why, in words.';
COMMENT ON COLUMN slashing_events.evidence_hash IS 'SHA-256 of the evidence, lowercase hex.';
COMMENT ON COLUMN slashing_events.signal_count IS 'Signals it rested on.';
COMMENT ON COLUMN slashing_events.executed_at IS 'When the channel was closed.';
COMMENT ON COLUMN slashing_events.cooldown_expires_at IS 'When the node may register again (30 days).';
COMMENT ON COLUMN slashing_events.coordinator_sig IS 'Signature over the event, hex.';

CREATE TABLE misbehavior_signals (
    signal_id       UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    node_id         UUID REFERENCES nodes(node_id),
    signal_type     TEXT NOT NULL,
    evidence_hash   TEXT NOT NULL,
    detected_at     TIMESTAMPTZ DEFAULT now(),
    slashing_event  UUID REFERENCES slashing_events(event_id)
);
COMMENT ON TABLE misbehavior_signals IS 'Self-contained, provable faults of nodes.';
COMMENT ON COLUMN misbehavior_signals.signal_id IS 'The signal.';
COMMENT ON COLUMN misbehavior_signals.node_id IS 'Whose fault.';
COMMENT ON COLUMN misbehavior_signals.signal_type IS 'What kind of fault.';
COMMENT ON COLUMN misbehavior_signals.evidence_hash IS 'SHA-256 of the evidence, lowercase hex.';
COMMENT ON COLUMN misbehavior_signals.detected_at IS 'When it was found.';
COMMENT ON COLUMN misbehavior_signals.slashing_event IS 'The slashing it counted towards, if any.';

CREATE TABLE bounties (
    bounty_id       UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    github_issue    TEXT NOT NULL UNIQUE,
    github_repo     TEXT NOT NULL,
    amount_sats     BIGINT NOT NULL,
    status          TEXT NOT NULL DEFAULT 'open'
                    CHECK (status IN ('open','claimed','paid','expired')),
    claimed_by      TEXT,
    merged_pr_url   TEXT,
    created_at      TIMESTAMPTZ DEFAULT now(),
    paid_at         TIMESTAMPTZ,
    payment_preimage TEXT
);
COMMENT ON TABLE bounties IS 'Satoshi offered for issues.';
COMMENT ON COLUMN bounties.bounty_id IS 'The bounty.';
COMMENT ON COLUMN bounties.github_issue IS 'The issue it is for.';
COMMENT ON COLUMN bounties.github_repo IS 'The repository, owner/name.';
COMMENT ON COLUMN bounties.amount_sats IS 'Satoshi offered.';
COMMENT ON COLUMN bounties.status IS 'open, claimed, paid, expired.';
COMMENT ON COLUMN bounties.claimed_by IS 'GitHub login of the claimant.';
COMMENT ON COLUMN bounties.merged_pr_url IS 'The merged pull request.';
COMMENT ON COLUMN bounties.created_at IS 'When it was offered.';
COMMENT ON COLUMN bounties.paid_at IS 'When it was paid.';
COMMENT ON COLUMN bounties.payment_preimage IS 'Preimage of the payment, hex.';

CREATE INDEX idx_nodes_status         ON nodes(status);
CREATE INDEX idx_nodes_pubkey         ON nodes(public_key);
CREATE INDEX idx_tasks_assigned_node  ON tasks(assigned_node, status);
CREATE INDEX idx_tasks_submitted      ON tasks(submitted_at DESC);
CREATE INDEX idx_slashing_node        ON slashing_events(node_id);
CREATE INDEX idx_signals_node         ON misbehavior_signals(node_id, detected_at DESC);
