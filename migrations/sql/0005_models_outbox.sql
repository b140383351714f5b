-- Authority over model versions and their files (spec §8, §15), and the outbox.

ALTER TABLE model_versions
    ADD COLUMN sequence            BIGINT NOT NULL UNIQUE CHECK (sequence > 0),
    ADD COLUMN parent              TEXT REFERENCES model_versions(version_id),
    ADD COLUMN manifest            BYTEA NOT NULL,
    ADD COLUMN manifest_sha256     TEXT NOT NULL UNIQUE CHECK (manifest_sha256 ~ '^[0-9a-f]{64}$'),
    ADD COLUMN manifest_signature  BYTEA NOT NULL CHECK (octet_length(manifest_signature) = 64),
    ADD COLUMN release_key         TEXT NOT NULL CHECK (release_key ~ '^[0-9a-f]{64}$'),
    ADD COLUMN note                TEXT NOT NULL DEFAULT '',
    ADD COLUMN withdrawn_at        TIMESTAMPTZ,
    ADD COLUMN withdrawal          BYTEA,
    ADD COLUMN withdrawal_sequence BIGINT UNIQUE,
    ADD COLUMN replaced_by         TEXT REFERENCES model_versions(version_id),
    ADD CONSTRAINT model_versions_withdrawal_whole CHECK (
        (withdrawn_at IS NULL) = (withdrawal IS NULL)
        AND (withdrawn_at IS NULL) = (withdrawal_sequence IS NULL)
        AND (withdrawal_sequence IS NULL OR withdrawal_sequence > sequence)),
    ADD CONSTRAINT model_versions_current_not_withdrawn CHECK (NOT (is_current AND withdrawn_at IS NOT NULL));
CREATE UNIQUE INDEX model_versions_one_current ON model_versions((TRUE)) WHERE is_current;

COMMENT ON COLUMN model_versions.sequence IS 'Rises over releases and withdrawals.';
COMMENT ON COLUMN model_versions.parent IS 'Version it was trained from; NULL: imported.';
COMMENT ON COLUMN model_versions.manifest IS 'The manifest''s exact UTF-8 JSON bytes.';
COMMENT ON COLUMN model_versions.manifest_sha256 IS 'SHA-256 of those bytes, lowercase hex.';
COMMENT ON COLUMN model_versions.manifest_signature IS 'Ed25519 signature over their envelope preimage (owm/manifest/v1).';
COMMENT ON COLUMN model_versions.release_key IS 'Delegated release key that signed, 64 lowercase hex digits.';
COMMENT ON COLUMN model_versions.note IS 'What has to be said wherever the model is shown, as: a stand-in, no quality claimed.';
COMMENT ON COLUMN model_versions.withdrawn_at IS 'When it was withdrawn; NULL: it stands.';
COMMENT ON COLUMN model_versions.withdrawal IS 'The signed withdrawal, encoded SignedEnvelope.';
COMMENT ON COLUMN model_versions.withdrawal_sequence IS 'The withdrawal''s own sequence, from the same counter as sequence.';
COMMENT ON COLUMN model_versions.replaced_by IS 'The version the withdrawal names instead.';

CREATE FUNCTION model_versions_derive_founding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.coordinator_sig := encode(NEW.manifest_signature, 'hex');
    RETURN NEW;
END $$;
CREATE TRIGGER model_versions_derive_founding
    BEFORE INSERT OR UPDATE OF manifest_signature, coordinator_sig
    ON model_versions FOR EACH ROW EXECUTE FUNCTION model_versions_derive_founding();

CREATE TABLE model_files (
    sha256     TEXT PRIMARY KEY CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    size_bytes BIGINT NOT NULL CHECK (size_bytes >= 0),
    object_key TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON TABLE model_files IS 'Files the object store holds and serves; one file may serve many versions.';
COMMENT ON COLUMN model_files.sha256 IS 'SHA-256 of the whole file, lowercase hex; its name.';
COMMENT ON COLUMN model_files.size_bytes IS 'Size in bytes.';
COMMENT ON COLUMN model_files.object_key IS 'Key in the object store.';
COMMENT ON COLUMN model_files.created_at IS 'When it was stored and its hash checked.';

CREATE TABLE outbox (
    id              BIGSERIAL PRIMARY KEY,
    kind            TEXT NOT NULL,
    payload         JSONB NOT NULL DEFAULT '{}',
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    next_attempt_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    attempts        INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error      TEXT NOT NULL DEFAULT '',
    done_at         TIMESTAMPTZ
);
CREATE INDEX outbox_due ON outbox(next_attempt_at, id) WHERE done_at IS NULL;
COMMENT ON TABLE outbox IS 'What is to happen outside the database, written in the transaction that decided it. Claimed by row lock, never by id order.';
COMMENT ON COLUMN outbox.id IS 'The row; later ids may commit earlier.';
COMMENT ON COLUMN outbox.kind IS 'What is to be done.';
COMMENT ON COLUMN outbox.payload IS 'With what; ids and hashes, never users'' text or secrets.';
COMMENT ON COLUMN outbox.created_at IS 'When it was decided.';
COMMENT ON COLUMN outbox.next_attempt_at IS 'Not tried before.';
COMMENT ON COLUMN outbox.attempts IS 'Tries so far.';
COMMENT ON COLUMN outbox.last_error IS 'Why the last try failed; empty: it has not.';
COMMENT ON COLUMN outbox.done_at IS 'When it was done; NULL: due.';
