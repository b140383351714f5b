-- Federated rounds (spec §10): what a round was opened with, where it is, who took part, what was computed. Authority
-- lies in the columns added here; the founding ones are derived in the same write.

ALTER TABLE fl_rounds
    ADD COLUMN phase          TEXT NOT NULL CHECK (phase IN
        ('open','collecting','sealed','aggregated','evaluated','published','anchored','abandoned')),
    ADD COLUMN sub_model      TEXT NOT NULL,
    ADD COLUMN parent_version TEXT NOT NULL REFERENCES model_versions(version_id),
    ADD COLUMN parent_hash    TEXT NOT NULL CHECK (parent_hash ~ '^[0-9a-f]{64}$'),
    ADD COLUMN config         BYTEA NOT NULL,
    ADD COLUMN state          BYTEA NOT NULL,
    ADD COLUMN residue_before TEXT CHECK (residue_before ~ '^[0-9a-f]{64}$'),
    ADD COLUMN residue_after  TEXT CHECK (residue_after ~ '^[0-9a-f]{64}$'),
    ADD COLUMN delta_hash     TEXT CHECK (delta_hash ~ '^[0-9a-f]{64}$'),
    ADD COLUMN abandoned      TEXT,
    ADD COLUMN trouble        TEXT NOT NULL DEFAULT '',
    ADD COLUMN moved_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    ADD CONSTRAINT fl_rounds_abandoned_why CHECK ((phase = 'abandoned') = (abandoned IS NOT NULL)),
    ADD CONSTRAINT fl_rounds_published_what CHECK (phase NOT IN ('published','anchored')
        OR (model_version IS NOT NULL AND checkpoint_hash IS NOT NULL AND delta_hash IS NOT NULL
            AND residue_after IS NOT NULL));
-- Two rounds of one sub-model would train from the same parent, and the second would undo the first.
CREATE UNIQUE INDEX fl_rounds_one_open ON fl_rounds(sub_model)
    WHERE phase IN ('open','collecting','sealed','aggregated','evaluated');
CREATE INDEX fl_rounds_checkpoint ON fl_rounds(checkpoint_hash);
COMMENT ON COLUMN fl_rounds.phase IS 'open, collecting, sealed, aggregated, evaluated, published, anchored, abandoned; status is derived from it.';
COMMENT ON COLUMN fl_rounds.sub_model IS 'Which sub-model is trained.';
COMMENT ON COLUMN fl_rounds.parent_version IS 'The version it was opened on.';
COMMENT ON COLUMN fl_rounds.parent_hash IS 'SHA-256 of the parent''s weights file, lowercase hex.';
COMMENT ON COLUMN fl_rounds.config IS 'All that was published when it was opened, and all that the arithmetic takes beside the updates: exact JSON bytes, written once.';
COMMENT ON COLUMN fl_rounds.state IS 'The round machine''s state, JSON: resumed from here after a crash.';
COMMENT ON COLUMN fl_rounds.residue_before IS 'SHA-256 of the server''s residue that goes in; NULL: none.';
COMMENT ON COLUMN fl_rounds.residue_after IS 'SHA-256 of the server''s residue that a published round left.';
COMMENT ON COLUMN fl_rounds.delta_hash IS 'SHA-256 of the published delta.';
COMMENT ON COLUMN fl_rounds.abandoned IS 'Why nothing came of it.';
COMMENT ON COLUMN fl_rounds.trouble IS 'What holds it up now, for people; empty: nothing.';
COMMENT ON COLUMN fl_rounds.moved_at IS 'When its phase last changed.';

CREATE FUNCTION fl_rounds_derive_founding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.config IS DISTINCT FROM OLD.config THEN
        RAISE EXCEPTION 'a round''s config is written once and never changed'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'fl_rounds_config_once';
    END IF;
    NEW.status := CASE NEW.phase
        WHEN 'open' THEN 'open' WHEN 'collecting' THEN 'open'
        WHEN 'published' THEN 'complete' WHEN 'anchored' THEN 'complete'
        WHEN 'abandoned' THEN 'failed' ELSE 'aggregating' END;
    RETURN NEW;
END $$;
CREATE TRIGGER fl_rounds_derive_founding BEFORE INSERT OR UPDATE ON fl_rounds
    FOR EACH ROW EXECUTE FUNCTION fl_rounds_derive_founding();

ALTER TABLE fl_participants
    ADD COLUMN task_id          UUID NOT NULL UNIQUE REFERENCES tasks(task_id),
    ADD COLUMN refused          TEXT NOT NULL DEFAULT '',
    ADD COLUMN verdict          BYTEA,
    ADD COLUMN quality_permille INTEGER CHECK (quality_permille BETWEEN 0 AND 1000);
COMMENT ON COLUMN fl_participants.task_id IS 'Its lease (type fl_round), which only this node gets; commit, report and reward are the task''s.';
COMMENT ON COLUMN fl_participants.refused IS 'Why the round did not take its update before any gate: late, or no update of the round.';
COMMENT ON COLUMN fl_participants.verdict IS 'What the gates of the last attempt said, and its weight, JSON; NULL: not judged.';
COMMENT ON COLUMN fl_participants.quality_permille IS '1000: the update counted; 0: a gate rejected it; NULL: not judged.';

CREATE TABLE round_evaluations (
    evaluation_id UUID PRIMARY KEY REFERENCES evaluations(evaluation_id),
    round_id      INTEGER NOT NULL REFERENCES fl_rounds(round_id),
    purpose       TEXT NOT NULL CHECK (purpose IN ('part','reference','candidate','parent')),
    attempt       TEXT NOT NULL CHECK (attempt IN ('first','fallback')),
    node_id       UUID REFERENCES nodes(node_id),
    CHECK ((purpose = 'part') = (node_id IS NOT NULL))
);
CREATE UNIQUE INDEX round_evaluations_once ON round_evaluations(round_id, purpose, attempt, node_id) NULLS NOT DISTINCT;
COMMENT ON TABLE round_evaluations IS 'What a round has asked nodes for: a part of each participant, a reference update, the losses of a candidate and of its parent.';
COMMENT ON COLUMN round_evaluations.evaluation_id IS 'What was asked, with its tasks and reports.';
COMMENT ON COLUMN round_evaluations.round_id IS 'By which round.';
COMMENT ON COLUMN round_evaluations.purpose IS 'part, reference, candidate, parent.';
COMMENT ON COLUMN round_evaluations.attempt IS 'For which attempt at a candidate: first, fallback.';
COMMENT ON COLUMN round_evaluations.node_id IS 'Of a part: whose.';

CREATE TABLE round_attempts (
    round_id        INTEGER NOT NULL REFERENCES fl_rounds(round_id),
    attempt         TEXT NOT NULL CHECK (attempt IN ('first','fallback')),
    inputs          BYTEA NOT NULL,
    decision        BYTEA NOT NULL,
    checkpoint_hash TEXT NOT NULL CHECK (checkpoint_hash ~ '^[0-9a-f]{64}$'),
    delta_hash      TEXT NOT NULL CHECK (delta_hash ~ '^[0-9a-f]{64}$'),
    residue_after   TEXT NOT NULL CHECK (residue_after ~ '^[0-9a-f]{64}$'),
    files           BYTEA NOT NULL,
    made_at         TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (round_id, attempt)
);
COMMENT ON TABLE round_attempts IS 'What a round has computed, with all that went in: enough to compute it again, byte for byte.';
COMMENT ON COLUMN round_attempts.round_id IS 'Which round.';
COMMENT ON COLUMN round_attempts.attempt IS 'first: by its own strategy; fallback: by multi_krum.';
COMMENT ON COLUMN round_attempts.inputs IS 'Submissions with the SHA-256 of each update, and the reference''s: JSON.';
COMMENT ON COLUMN round_attempts.decision IS 'What the strategy decided: gates with reasons, weights, caps: JSON.';
COMMENT ON COLUMN round_attempts.checkpoint_hash IS 'SHA-256 of the candidate.';
COMMENT ON COLUMN round_attempts.delta_hash IS 'SHA-256 of its delta.';
COMMENT ON COLUMN round_attempts.residue_after IS 'SHA-256 of the server''s residue if it is published.';
COMMENT ON COLUMN round_attempts.files IS 'Candidate and delta as a manifest names them: JSON.';
COMMENT ON COLUMN round_attempts.made_at IS 'When.';
