-- Authority over nodes (spec §5, §6, §15): exact figures, standing, the live session, liveness by
-- minute, replay protection, and the coordinators that serve them.

ALTER TABLE nodes
    ALTER COLUMN ln_node_uri SET DEFAULT '',
    ALTER COLUMN tier SET DEFAULT 't1',
    ADD COLUMN owner_key             TEXT NOT NULL CHECK (owner_key ~ '^[0-9a-f]{64}$'),
    ADD COLUMN capabilities          JSONB NOT NULL DEFAULT '{}',
    ADD COLUMN software_version      TEXT NOT NULL DEFAULT '',
    ADD COLUMN vram_bytes            BIGINT CHECK (vram_bytes BETWEEN 0 AND 9999990000000),
    ADD COLUMN ram_bytes             BIGINT CHECK (ram_bytes BETWEEN 0 AND 9999990000000),
    ADD COLUMN bandwidth_kbps        BIGINT CHECK (bandwidth_kbps BETWEEN 0 AND 999999990),
    ADD COLUMN cpu_only              BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN effective_tier        TEXT NOT NULL DEFAULT 't1' CHECK (effective_tier IN ('t1','t2','t3')),
    ADD COLUMN stake_bonus_permille  INTEGER NOT NULL DEFAULT 1000 CHECK (stake_bonus_permille BETWEEN 1000 AND 2000),
    ADD COLUMN uptime_permille       INTEGER NOT NULL DEFAULT 1000 CHECK (uptime_permille BETWEEN 0 AND 1000),
    ADD COLUMN reliability_permille  INTEGER NOT NULL DEFAULT 1000 CHECK (reliability_permille BETWEEN 0 AND 1000),
    ADD COLUMN tasks_total           BIGINT NOT NULL DEFAULT 0 CHECK (tasks_total >= 0),
    ADD COLUMN tasks_succeeded       BIGINT NOT NULL DEFAULT 0 CHECK (tasks_succeeded BETWEEN 0 AND tasks_total),
    ADD COLUMN earned_msat           BIGINT NOT NULL DEFAULT 0 CHECK (earned_msat >= 0),
    ADD COLUMN status_reason         TEXT NOT NULL DEFAULT '',
    ADD COLUMN status_changed_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    ADD COLUMN membership_expires_at TIMESTAMPTZ,
    ADD COLUMN session_id            BYTEA CHECK (octet_length(session_id) = 16),
    ADD COLUMN session_epoch         BIGINT NOT NULL DEFAULT 0 CHECK (session_epoch >= 0),
    ADD COLUMN session_started_ms    BIGINT,
    ADD COLUMN session_kind          TEXT CHECK (session_kind IN ('stream','poll','tor')),
    ADD COLUMN session_instance      TEXT,
    ADD COLUMN session_seen_at       TIMESTAMPTZ,
    ADD COLUMN loaded_sha256         TEXT[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT nodes_public_key_hex CHECK (public_key ~ '^[0-9a-f]{64}$'),
    ADD CONSTRAINT nodes_session_whole
        CHECK (session_id IS NULL OR (session_epoch > 0 AND session_started_ms IS NOT NULL));

CREATE INDEX nodes_owner ON nodes(owner_key);

COMMENT ON COLUMN nodes.owner_key IS 'Ed25519 key of the operator, 64 lowercase hex digits; the node''s own where no binding was given.';
COMMENT ON COLUMN nodes.capabilities IS 'What the node last said of its hardware, as parsed; absent members are unknown.';
COMMENT ON COLUMN nodes.software_version IS 'Version the node last registered or connected with.';
COMMENT ON COLUMN nodes.vram_bytes IS 'Video memory in bytes; NULL: unknown, 0: none.';
COMMENT ON COLUMN nodes.ram_bytes IS 'Main memory in bytes; NULL: unknown.';
COMMENT ON COLUMN nodes.bandwidth_kbps IS 'Measured bandwidth in kbit/s; NULL: not measured, counts as met.';
COMMENT ON COLUMN nodes.cpu_only IS 'Admitted under allow_cpu: at most t1, CPU-capable tasks only.';
COMMENT ON COLUMN nodes.effective_tier IS 'Tier for rewards and selection: tier, or one lower while the uptime target is missed.';
COMMENT ON COLUMN nodes.stake_bonus_permille IS 'Stake bonus in thousandths, 1000 to 2000.';
COMMENT ON COLUMN nodes.uptime_permille IS 'Share of minutes with a heartbeat over rolling 7 days, in thousandths.';
COMMENT ON COLUMN nodes.reliability_permille IS 'Success rate times uptime, in thousandths; 1000 until the first task.';
COMMENT ON COLUMN nodes.tasks_total IS 'Attempts that ended and count: accepted, rejected, failed, expired.';
COMMENT ON COLUMN nodes.tasks_succeeded IS 'Of those, accepted ones and on-time ones that lost the race.';
COMMENT ON COLUMN nodes.earned_msat IS 'Booked as owed to the node so far, in millisatoshi; the ledger is the authority.';
COMMENT ON COLUMN nodes.status_reason IS 'Why the node has this status; empty where active needs no reason.';
COMMENT ON COLUMN nodes.status_changed_at IS 'When status last changed.';
COMMENT ON COLUMN nodes.membership_expires_at IS 'End of the newest signed membership statement (7 days).';
COMMENT ON COLUMN nodes.session_id IS 'The process now speaking for the key: 16 random bytes; NULL: none.';
COMMENT ON COLUMN nodes.session_epoch IS 'Counts sessions; the higher fences the lower (one key running twice).';
COMMENT ON COLUMN nodes.session_started_ms IS 'Start of that process by its own clock, Unix ms.';
COMMENT ON COLUMN nodes.session_kind IS 'stream, poll or tor; decides after how long a silent session is gone.';
COMMENT ON COLUMN nodes.session_instance IS 'Instance key (hex) of the coordinator that holds the session.';
COMMENT ON COLUMN nodes.session_seen_at IS 'Last sign of life on the session, written at most every few seconds.';
COMMENT ON COLUMN nodes.loaded_sha256 IS 'SHA-256s (hex) of the weights the node last said it has loaded.';

-- The founding columns follow in the same write, whoever writes.
CREATE FUNCTION nodes_derive_founding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.vram_gb        := round(NEW.vram_bytes::numeric / 1000000000, 2);
    NEW.ram_gb         := round(NEW.ram_bytes::numeric / 1000000000, 2);
    NEW.bandwidth_mbps := round(NEW.bandwidth_kbps::numeric / 1000, 2);
    NEW.reliability    := NEW.reliability_permille::numeric / 1000;
    NEW.total_tasks    := LEAST(NEW.tasks_total, 2147483647);
    NEW.total_sats     := NEW.earned_msat / 1000;
    RETURN NEW;
END $$;
CREATE TRIGGER nodes_derive_founding
    BEFORE INSERT OR UPDATE OF vram_bytes, ram_bytes, bandwidth_kbps, reliability_permille,
        tasks_total, earned_msat, vram_gb, ram_gb, bandwidth_mbps, reliability, total_tasks, total_sats
    ON nodes FOR EACH ROW EXECUTE FUNCTION nodes_derive_founding();

CREATE TABLE node_minutes (
    node_id UUID NOT NULL REFERENCES nodes(node_id) ON DELETE CASCADE,
    minute  BIGINT NOT NULL CHECK (minute > 0),
    PRIMARY KEY (node_id, minute)
);
COMMENT ON TABLE node_minutes IS 'Minutes in which any valid heartbeat of a node arrived; pruned per node after 8 days.';
COMMENT ON COLUMN node_minutes.node_id IS 'The node.';
COMMENT ON COLUMN node_minutes.minute IS 'Unix time in whole minutes, by the coordinator''s clock.';

CREATE TABLE envelope_sequences (
    public_key TEXT NOT NULL CHECK (public_key ~ '^[0-9a-f]{64}$'),
    purpose    TEXT NOT NULL,
    sequence   BIGINT NOT NULL CHECK (sequence >= 0),
    seen_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (public_key, purpose)
);
COMMENT ON TABLE envelope_sequences IS 'Newest sequence of each signer''s state envelopes: equal is a duplicate, lower is stale.';
COMMENT ON COLUMN envelope_sequences.public_key IS 'Who signed, 64 lowercase hex digits.';
COMMENT ON COLUMN envelope_sequences.purpose IS 'The envelope''s purpose, owm/<purpose>/v1.';
COMMENT ON COLUMN envelope_sequences.sequence IS 'The highest sequence accepted.';
COMMENT ON COLUMN envelope_sequences.seen_at IS 'When it was accepted.';

CREATE TABLE request_log (
    public_key TEXT NOT NULL CHECK (public_key ~ '^[0-9a-f]{64}$'),
    purpose    TEXT NOT NULL,
    request_id BYTEA NOT NULL CHECK (octet_length(request_id) = 16),
    body_hash  BYTEA NOT NULL CHECK (octet_length(body_hash) = 32),
    response   BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (public_key, purpose, request_id)
);
CREATE INDEX request_log_created ON request_log(created_at);
COMMENT ON TABLE request_log IS 'First answers to signed requests: a repeat gets the same bytes. Pruned once the request''s own expiry is past.';
COMMENT ON COLUMN request_log.public_key IS 'Who asked, 64 lowercase hex digits.';
COMMENT ON COLUMN request_log.purpose IS 'The envelope''s purpose, owm/<purpose>/v1.';
COMMENT ON COLUMN request_log.request_id IS 'The asker''s 16 bytes.';
COMMENT ON COLUMN request_log.body_hash IS 'SHA-256 of the signed payload: the same id over other bytes is a fault.';
COMMENT ON COLUMN request_log.response IS 'The first answer, encoded as it was sent.';
COMMENT ON COLUMN request_log.created_at IS 'When it was answered.';

CREATE TABLE api_keys (
    key_id       UUID PRIMARY KEY,
    key_hash     BYTEA NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    name         TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_used_at TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ
);
COMMENT ON TABLE api_keys IS 'Keys of the public API; the key itself is shown once and not stored.';
COMMENT ON COLUMN api_keys.key_id IS 'What requests and logs refer to.';
COMMENT ON COLUMN api_keys.key_hash IS 'SHA-256 of the key.';
COMMENT ON COLUMN api_keys.name IS 'What the operator calls it.';
COMMENT ON COLUMN api_keys.created_at IS 'When it was made.';
COMMENT ON COLUMN api_keys.last_used_at IS 'Last use, written at most once a minute.';
COMMENT ON COLUMN api_keys.revoked_at IS 'From then on refused; NULL: valid.';

CREATE TABLE coordinator_instances (
    instance_key  TEXT PRIMARY KEY CHECK (instance_key ~ '^[0-9a-f]{64}$'),
    started_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_alive_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    stopped_at    TIMESTAMPTZ
);
COMMENT ON TABLE coordinator_instances IS 'Coordinator processes on this database; their silence measures an outage.';
COMMENT ON COLUMN coordinator_instances.instance_key IS 'Delegated Ed25519 key of the process, 64 lowercase hex digits.';
COMMENT ON COLUMN coordinator_instances.started_at IS 'Start of its current run.';
COMMENT ON COLUMN coordinator_instances.last_alive_at IS 'Written every second or so while it serves.';
COMMENT ON COLUMN coordinator_instances.stopped_at IS 'Clean stop of its last run; NULL while it runs or after a kill.';

CREATE TABLE coordinator_outages (
    outage_id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_at         TIMESTAMPTZ NOT NULL UNIQUE,
    to_at           TIMESTAMPTZ NOT NULL,
    leases_extended INTEGER NOT NULL CHECK (leases_extended >= 0),
    CHECK (to_at > from_at)
);
COMMENT ON TABLE coordinator_outages IS 'Times in which no coordinator was alive; each extends all leases once.';
COMMENT ON COLUMN coordinator_outages.outage_id IS 'The outage.';
COMMENT ON COLUMN coordinator_outages.from_at IS 'Last sign of life of any instance before it; unique, so that two replicas starting at once extend once.';
COMMENT ON COLUMN coordinator_outages.to_at IS 'When the first instance was back.';
COMMENT ON COLUMN coordinator_outages.leases_extended IS 'Live leases whose end was moved by the outage''s length.';
