-- Evaluations (spec §10.4, §10.8): several tasks that look at one candidate, each at another owner's node.

ALTER TABLE tasks DROP CONSTRAINT tasks_role_check;
ALTER TABLE tasks ADD CONSTRAINT tasks_role_known CHECK (role IN ('infer','evaluate','train','ingest'));
COMMENT ON COLUMN tasks.role IS 'Which slots it takes: infer, evaluate, train, ingest.';

CREATE TABLE evaluations (
    evaluation_id UUID PRIMARY KEY,
    sub_model     TEXT NOT NULL,
    model_version TEXT NOT NULL REFERENCES model_versions(version_id),
    ask           BYTEA NOT NULL,
    wanted        INTEGER NOT NULL CHECK (wanted > 0),
    deadline_at   TIMESTAMPTZ NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX evaluations_newest ON evaluations(created_at DESC);
COMMENT ON TABLE evaluations IS 'One candidate, looked at by several nodes of different owners.';
COMMENT ON COLUMN evaluations.evaluation_id IS 'Its id.';
COMMENT ON COLUMN evaluations.sub_model IS 'Of which sub-model it is a candidate.';
COMMENT ON COLUMN evaluations.model_version IS 'The released version that it is, or that its other files come from.';
COMMENT ON COLUMN evaluations.ask IS 'What is asked of each node, encoded EvaluatePayload: files, corpus and shards, bounds, seed. No text is in it.';
COMMENT ON COLUMN evaluations.wanted IS 'Reports wanted; each of another owner.';
COMMENT ON COLUMN evaluations.deadline_at IS 'When it ends, with the reports that are there.';
COMMENT ON COLUMN evaluations.created_at IS 'When it was asked for.';

CREATE TABLE evaluation_tasks (
    task_id       UUID PRIMARY KEY REFERENCES tasks(task_id) ON DELETE CASCADE,
    evaluation_id UUID NOT NULL REFERENCES evaluations(evaluation_id) ON DELETE CASCADE,
    report        BYTEA,
    report_sha256 TEXT CHECK (report_sha256 ~ '^[0-9a-f]{64}$'),
    reported_at   TIMESTAMPTZ,
    CHECK ((report IS NULL) = (reported_at IS NULL) AND (report IS NULL) = (report_sha256 IS NULL))
);
CREATE INDEX evaluation_tasks_evaluation ON evaluation_tasks(evaluation_id);
COMMENT ON TABLE evaluation_tasks IS 'The tasks of an evaluation and what they found. A report is written once, in the transaction that accepts the task''s result.';
COMMENT ON COLUMN evaluation_tasks.task_id IS 'The task (type evaluate).';
COMMENT ON COLUMN evaluation_tasks.evaluation_id IS 'Of which evaluation.';
COMMENT ON COLUMN evaluation_tasks.report IS 'The report''s exact JSON bytes; NULL: none yet. The winner''s task_attempts.result_envelope signs their hash.';
COMMENT ON COLUMN evaluation_tasks.report_sha256 IS 'SHA-256 of these bytes, the task''s output_hash.';
COMMENT ON COLUMN evaluation_tasks.reported_at IS 'When it was accepted.';

CREATE FUNCTION evaluation_tasks_report_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.report IS NOT NULL AND NEW.report IS DISTINCT FROM OLD.report THEN
        RAISE EXCEPTION 'the task has a report already: it is written once and never changed'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'evaluation_tasks_report_once';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER evaluation_tasks_report_once BEFORE UPDATE ON evaluation_tasks
    FOR EACH ROW EXECUTE FUNCTION evaluation_tasks_report_once();
