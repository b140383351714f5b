-- The coordinator as a peer of the swarm (spec §7): signed checkpoints, and what nodes say by gossip.

CREATE TABLE checkpoints (
    sequence    BIGINT PRIMARY KEY CHECK (sequence > 0),
    version_id  TEXT NOT NULL REFERENCES model_versions(version_id),
    payload     BYTEA NOT NULL,
    signature   BYTEA NOT NULL CHECK (octet_length(signature) = 64),
    release_key TEXT NOT NULL CHECK (release_key ~ '^[0-9a-f]{64}$'),
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON TABLE checkpoints IS 'Signed checkpoints, one for each release: what peers gossip to say which version is the newest. Append-only.';
COMMENT ON COLUMN checkpoints.sequence IS 'The version''s sequence, in the payload too.';
COMMENT ON COLUMN checkpoints.version_id IS 'The version.';
COMMENT ON COLUMN checkpoints.payload IS 'The statement''s exact UTF-8 JSON bytes (owm/checkpoint/v1).';
COMMENT ON COLUMN checkpoints.signature IS 'Ed25519 signature over their envelope preimage.';
COMMENT ON COLUMN checkpoints.release_key IS 'Delegated release key that signed, 64 lowercase hex digits.';
COMMENT ON COLUMN checkpoints.created_at IS 'When it was signed: at publication, or later for a version published before there were checkpoints.';

CREATE FUNCTION checkpoints_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % refused: a signed checkpoint stands, publish a newer version', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'checkpoints_append_only';
END $$;
CREATE TRIGGER checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION checkpoints_refuse_change();

CREATE TABLE node_announcements (
    node_id             UUID PRIMARY KEY REFERENCES nodes(node_id) ON DELETE CASCADE,
    heartbeat_sequence  BIGINT NOT NULL DEFAULT -1,
    heartbeat_heard_at  TIMESTAMPTZ,
    capability_sequence BIGINT NOT NULL DEFAULT -1,
    capability_heard_at TIMESTAMPTZ,
    software_version    TEXT NOT NULL DEFAULT '',
    roles               JSONB NOT NULL DEFAULT '[]',
    addresses           JSONB NOT NULL DEFAULT '[]',
    holds               INTEGER NOT NULL DEFAULT 0 CHECK (holds >= 0),
    checkpoint_sequence BIGINT NOT NULL DEFAULT 0 CHECK (checkpoint_sequence >= 0),
    relay               BOOLEAN NOT NULL DEFAULT FALSE
);
COMMENT ON TABLE node_announcements IS 'What registered nodes say by gossip, newest only: shown, never decided by. Nothing here changes a status.';
COMMENT ON COLUMN node_announcements.node_id IS 'The node.';
COMMENT ON COLUMN node_announcements.heartbeat_sequence IS 'Sequence of the newest heartbeat that came by gossip, whatever way it came first; -1: none yet.';
COMMENT ON COLUMN node_announcements.heartbeat_heard_at IS 'When it was heard; NULL: none yet.';
COMMENT ON COLUMN node_announcements.capability_sequence IS 'Sequence of the newest capability; -1: none yet.';
COMMENT ON COLUMN node_announcements.capability_heard_at IS 'When it was heard; NULL: none yet.';
COMMENT ON COLUMN node_announcements.software_version IS 'What the node says it runs.';
COMMENT ON COLUMN node_announcements.roles IS 'What it says it does, as a JSON array of words.';
COMMENT ON COLUMN node_announcements.addresses IS 'Multiaddresses at which it says it can be reached, as a JSON array of texts; empty: through others only. For operators, on no public page.';
COMMENT ON COLUMN node_announcements.holds IS 'How many complete files it says it serves.';
COMMENT ON COLUMN node_announcements.checkpoint_sequence IS 'Sequence of the newest checkpoint it says it has verified; 0: none.';
COMMENT ON COLUMN node_announcements.relay IS 'Whether it says it carries connections for peers behind NAT.';
CREATE INDEX node_announcements_heard ON node_announcements(capability_heard_at);
