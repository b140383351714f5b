-- A report is owed once its evaluation is decided (spec §10.8, §11): all tasks have ended, and the reports were compared.

ALTER TABLE evaluations ADD COLUMN settled_at TIMESTAMPTZ;
COMMENT ON COLUMN evaluations.settled_at IS 'When its reports were compared and what they earn was booked, once; NULL: tasks are open, or it is due.';

-- Until now each report was booked when it came in.
UPDATE evaluations e SET settled_at = now() WHERE NOT EXISTS (
    SELECT 1 FROM evaluation_tasks x JOIN tasks t ON t.task_id = x.task_id
    WHERE x.evaluation_id = e.evaluation_id AND t.phase IN ('queued', 'leased'));

CREATE INDEX evaluations_unsettled ON evaluations(created_at) WHERE settled_at IS NULL;

CREATE FUNCTION evaluations_settle_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.settled_at IS NOT NULL AND NEW.settled_at IS DISTINCT FROM OLD.settled_at THEN
        RAISE EXCEPTION 'the evaluation is settled already: that happens once'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'evaluations_settle_once';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER evaluations_settle_once BEFORE UPDATE ON evaluations
    FOR EACH ROW EXECUTE FUNCTION evaluations_settle_once();
