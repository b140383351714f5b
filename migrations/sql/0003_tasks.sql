-- Authority over tasks (spec §9, §15): phases, leases, attempts, the journal of delivered chunks,
-- and the public requests that wait for an answer.

ALTER TABLE tasks
    ADD COLUMN phase              TEXT NOT NULL DEFAULT 'queued'
                                  CHECK (phase IN ('queued','leased','done','failed','cancelled')),
    ADD COLUMN role               TEXT NOT NULL CHECK (role IN ('infer','train','ingest')),
    ADD COLUMN priority           SMALLINT NOT NULL,
    ADD COLUMN min_tier           TEXT NOT NULL DEFAULT 't1' CHECK (min_tier IN ('t1','t2','t3')),
    ADD COLUMN sub_model          TEXT NOT NULL DEFAULT '',
    ADD COLUMN model_version      TEXT REFERENCES model_versions(version_id),
    ADD COLUMN model_sha256       TEXT[] NOT NULL DEFAULT '{}',
    ADD COLUMN request_key        BYTEA UNIQUE CHECK (octet_length(request_key) = 32),
    ADD COLUMN streaming          BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN max_tokens         INTEGER CHECK (max_tokens > 0),
    ADD COLUMN seed               BYTEA CHECK (octet_length(seed) = 8),
    ADD COLUMN payload_ciphertext BYTEA,
    ADD COLUMN deadline_at        TIMESTAMPTZ NOT NULL,
    ADD COLUMN lease_ms           INTEGER NOT NULL DEFAULT 30000 CHECK (lease_ms > 0),
    ADD COLUMN lease_epoch        BIGINT NOT NULL DEFAULT 0 CHECK (lease_epoch >= 0),
    ADD COLUMN lease_node         UUID REFERENCES nodes(node_id),
    ADD COLUMN lease_expires_at   TIMESTAMPTZ,
    ADD COLUMN attempts           SMALLINT NOT NULL DEFAULT 0,
    ADD COLUMN max_attempts       SMALLINT NOT NULL DEFAULT 3 CHECK (max_attempts BETWEEN 1 AND 3),
    ADD COLUMN tried_nodes        UUID[] NOT NULL DEFAULT '{}',
    ADD COLUMN winner_node        UUID REFERENCES nodes(node_id),
    ADD COLUMN winner_epoch       BIGINT,
    ADD COLUMN reward_msat        BIGINT CHECK (reward_msat >= 0),
    ADD COLUMN finish_reason      TEXT,
    ADD COLUMN prompt_tokens      INTEGER CHECK (prompt_tokens >= 0),
    ADD COLUMN output_tokens      INTEGER CHECK (output_tokens >= 0),
    ADD COLUMN exec_ms            BIGINT CHECK (exec_ms >= 0),
    ADD COLUMN failure_code       TEXT,
    ADD COLUMN failure_message    TEXT,
    ADD CONSTRAINT tasks_type_known CHECK (task_type IN
        ('fl_round','inference','gradient_agg','evaluate','audit','data_ingest','embed_data')),
    ADD CONSTRAINT tasks_lease_whole CHECK (
        (phase = 'leased') = (lease_node IS NOT NULL)
        AND (phase = 'leased') = (lease_expires_at IS NOT NULL)
        AND (phase <> 'leased' OR (lease_epoch > 0 AND attempts > 0))),
    ADD CONSTRAINT tasks_attempts_bounded CHECK (attempts BETWEEN 0 AND max_attempts),
    ADD CONSTRAINT tasks_done_whole CHECK (
        (phase = 'done') = (winner_node IS NOT NULL)
        AND (phase = 'done') = (winner_epoch IS NOT NULL)
        AND (phase <> 'done' OR (output_hash IS NOT NULL AND winner_epoch BETWEEN 1 AND lease_epoch))),
    ADD CONSTRAINT tasks_failure_named CHECK ((phase = 'failed') = (failure_code IS NOT NULL)),
    ADD CONSTRAINT tasks_end_dated CHECK ((phase IN ('done','failed','cancelled')) = (completed_at IS NOT NULL)),
    ADD CONSTRAINT tasks_input_hash_hex CHECK (input_hash ~ '^[0-9a-f]{64}$'),
    ADD CONSTRAINT tasks_output_hash_hex CHECK (output_hash ~ '^[0-9a-f]{64}$');

CREATE INDEX tasks_dispatch ON tasks(role, priority, submitted_at, task_id) WHERE phase = 'queued';
CREATE INDEX tasks_lease_expiry ON tasks(lease_expires_at) WHERE phase = 'leased';
CREATE INDEX tasks_lease_node ON tasks(lease_node) WHERE phase = 'leased';
CREATE INDEX tasks_deadline ON tasks(deadline_at) WHERE phase IN ('queued','leased');
CREATE INDEX tasks_payload_purge ON tasks(completed_at) WHERE payload_ciphertext IS NOT NULL;

COMMENT ON COLUMN tasks.phase IS 'queued, leased, done, failed, cancelled: the authority; status is derived from it.';
COMMENT ON COLUMN tasks.role IS 'Which slots it takes: infer, train, ingest.';
COMMENT ON COLUMN tasks.priority IS 'Lower goes first within a role.';
COMMENT ON COLUMN tasks.min_tier IS 'The least effective tier that may do it.';
COMMENT ON COLUMN tasks.sub_model IS 'Sub-model it runs on, owm-code; empty: none.';
COMMENT ON COLUMN tasks.model_version IS 'Version it runs on, fixed at submission.';
COMMENT ON COLUMN tasks.model_sha256 IS 'SHA-256s (hex) of the weights files, in manifest order.';
COMMENT ON COLUMN tasks.request_key IS 'SHA-256 of the public request''s id; NULL: no user waits. The id itself is never stored in clear.';
COMMENT ON COLUMN tasks.streaming IS 'The user is sent chunks as they come.';
COMMENT ON COLUMN tasks.max_tokens IS 'Limit on generated tokens; NULL where none are generated.';
COMMENT ON COLUMN tasks.seed IS 'Sampling seed, 8 bytes big-endian (u64).';
COMMENT ON COLUMN tasks.payload_ciphertext IS 'The payload under the coordinator''s data key; NULL once deleted (10 min after delivery) or where there is none.';
COMMENT ON COLUMN tasks.deadline_at IS 'Overall end of patience, over all attempts.';
COMMENT ON COLUMN tasks.lease_ms IS 'Length of one lease in milliseconds.';
COMMENT ON COLUMN tasks.lease_epoch IS 'Counts leases; every later write of a node carries the epoch it was leased under.';
COMMENT ON COLUMN tasks.lease_node IS 'Who holds the lease now; NULL unless leased.';
COMMENT ON COLUMN tasks.lease_expires_at IS 'End of the lease now held; NULL unless leased.';
COMMENT ON COLUMN tasks.attempts IS 'Leases that count against max_attempts (a hand-back before any work does not).';
COMMENT ON COLUMN tasks.max_attempts IS 'At most 3, each on another node.';
COMMENT ON COLUMN tasks.tried_nodes IS 'Nodes that don''t get it again.';
COMMENT ON COLUMN tasks.winner_node IS 'Whose result was the first valid one; NULL unless done.';
COMMENT ON COLUMN tasks.winner_epoch IS 'Under which lease; may be older than lease_epoch.';
COMMENT ON COLUMN tasks.reward_msat IS 'Booked for the winner, in millisatoshi.';
COMMENT ON COLUMN tasks.finish_reason IS 'How generation ended: stop, length.';
COMMENT ON COLUMN tasks.prompt_tokens IS 'Tokens of the prompt.';
COMMENT ON COLUMN tasks.output_tokens IS 'Tokens of the answer, forced prefix included.';
COMMENT ON COLUMN tasks.exec_ms IS 'Milliseconds the winner says it computed.';
COMMENT ON COLUMN tasks.failure_code IS 'Machine-readable cause; NULL unless failed.';
COMMENT ON COLUMN tasks.failure_message IS 'The cause in words, without any user''s text.';

CREATE FUNCTION tasks_derive_founding() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := CASE NEW.phase
        WHEN 'queued' THEN 'pending'
        WHEN 'leased' THEN 'running'
        WHEN 'done' THEN 'completed'
        ELSE CASE WHEN NEW.failure_code = 'timeout' THEN 'timeout' ELSE 'failed' END
    END;
    NEW.assigned_node   := COALESCE(NEW.winner_node, NEW.lease_node, NEW.assigned_node);
    -- LEAST skips NULL, so an unknown reward has to be told apart.
    NEW.reward_sats     := CASE WHEN NEW.reward_msat IS NOT NULL THEN LEAST(NEW.reward_msat / 1000, 2147483647) END;
    NEW.timeout_seconds := (NEW.lease_ms + 999) / 1000;
    RETURN NEW;
END $$;
CREATE TRIGGER tasks_derive_founding
    BEFORE INSERT OR UPDATE OF phase, failure_code, winner_node, lease_node, reward_msat, lease_ms,
        status, assigned_node, reward_sats, timeout_seconds
    ON tasks FOR EACH ROW EXECUTE FUNCTION tasks_derive_founding();

CREATE TABLE task_attempts (
    task_id          UUID NOT NULL REFERENCES tasks(task_id) ON DELETE CASCADE,
    epoch            BIGINT NOT NULL CHECK (epoch > 0),
    node_id          UUID NOT NULL REFERENCES nodes(node_id),
    leased_at        TIMESTAMPTZ NOT NULL,
    expires_at       TIMESTAMPTZ NOT NULL,
    committed_at     TIMESTAMPTZ,
    commit_hash      BYTEA CHECK (octet_length(commit_hash) = 32),
    commit_envelope  BYTEA,
    on_time          BOOLEAN,
    ended_at         TIMESTAMPTZ,
    outcome          TEXT CHECK (outcome IN
                     ('accepted','late','rejected','expired','lost','handed_back','cancelled')),
    reason           TEXT NOT NULL DEFAULT '',
    result_hash      BYTEA CHECK (octet_length(result_hash) = 32),
    result_envelope  BYTEA,
    result_at        TIMESTAMPTZ,
    late             BOOLEAN NOT NULL DEFAULT FALSE,
    hand_back_reason TEXT CHECK (hand_back_reason IN ('shutting_down','cannot_do','failed','input_refused')),
    PRIMARY KEY (task_id, epoch),
    CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CHECK ((committed_at IS NULL) = (commit_hash IS NULL) AND (committed_at IS NULL) = (on_time IS NULL)),
    CHECK (outcome IS DISTINCT FROM 'accepted' OR (on_time IS TRUE AND result_envelope IS NOT NULL)),
    CHECK (NOT late OR on_time IS TRUE),
    CHECK ((outcome IS NOT DISTINCT FROM 'handed_back') = (hand_back_reason IS NOT NULL))
);
-- One accepted attempt per task, whatever the code does.
CREATE UNIQUE INDEX task_attempts_one_winner ON task_attempts(task_id) WHERE outcome = 'accepted';
CREATE INDEX task_attempts_node ON task_attempts(node_id, leased_at DESC);
COMMENT ON TABLE task_attempts IS 'Each lease of each task: who, until when, what was committed and how it ended.';
COMMENT ON COLUMN task_attempts.task_id IS 'The task.';
COMMENT ON COLUMN task_attempts.epoch IS 'The lease''s number; fences every write of the node.';
COMMENT ON COLUMN task_attempts.node_id IS 'Who held it.';
COMMENT ON COLUMN task_attempts.leased_at IS 'Start of the lease.';
COMMENT ON COLUMN task_attempts.expires_at IS 'Its end, outages added.';
COMMENT ON COLUMN task_attempts.committed_at IS 'Arrival of the commit by the coordinator''s clock; the first one counts.';
COMMENT ON COLUMN task_attempts.commit_hash IS 'SHA-256 of the result''s payload the node committed to.';
COMMENT ON COLUMN task_attempts.commit_envelope IS 'The signed commit (owm/commit/v1), encoded SignedEnvelope.';
COMMENT ON COLUMN task_attempts.on_time IS 'The lease was live when the commit arrived.';
COMMENT ON COLUMN task_attempts.ended_at IS 'When the lease stopped being live.';
COMMENT ON COLUMN task_attempts.outcome IS 'accepted, late (on time, but another won), rejected, expired, lost (session gone), handed_back, cancelled; a result that comes later may still turn expired, lost or cancelled into accepted or late if it was committed on time.';
COMMENT ON COLUMN task_attempts.reason IS 'The outcome in words.';
COMMENT ON COLUMN task_attempts.result_hash IS 'SHA-256 of the result''s payload; what makes a repeat a duplicate.';
COMMENT ON COLUMN task_attempts.result_envelope IS 'The signed result (owm/result/v1), encoded SignedEnvelope; hashes and figures only, no user''s text.';
COMMENT ON COLUMN task_attempts.result_at IS 'Arrival of the result.';
COMMENT ON COLUMN task_attempts.late IS 'Committed on time but lost the race: booked at the late share.';
COMMENT ON COLUMN task_attempts.hand_back_reason IS 'Why the node gave it back.';

CREATE TABLE task_chunks (
    task_id           UUID NOT NULL REFERENCES tasks(task_id) ON DELETE CASCADE,
    from_token        INTEGER NOT NULL CHECK (from_token >= 0),
    to_token          INTEGER NOT NULL,
    epoch             BIGINT NOT NULL,
    node_id           UUID NOT NULL REFERENCES nodes(node_id),
    tokens_ciphertext BYTEA NOT NULL,
    text_ciphertext   BYTEA NOT NULL,
    segment_envelope  BYTEA,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, from_token),
    UNIQUE (task_id, to_token),
    FOREIGN KEY (task_id, epoch) REFERENCES task_attempts(task_id, epoch) ON DELETE CASCADE,
    CHECK (to_token > from_token)
);
COMMENT ON TABLE task_chunks IS 'Write-ahead journal of what a streaming user is shown: written before it is sent, so that a successor continues exactly there. Deleted with the request''s answer.';
COMMENT ON COLUMN task_chunks.task_id IS 'The task.';
COMMENT ON COLUMN task_chunks.from_token IS 'Index of the first token here, forced prefix included.';
COMMENT ON COLUMN task_chunks.to_token IS 'Index after the last token here: the next chunk''s from_token.';
COMMENT ON COLUMN task_chunks.epoch IS 'Lease that produced it.';
COMMENT ON COLUMN task_chunks.node_id IS 'Node that produced it.';
COMMENT ON COLUMN task_chunks.tokens_ciphertext IS 'Token ids (u32 little-endian) under the coordinator''s data key.';
COMMENT ON COLUMN task_chunks.text_ciphertext IS 'Their text, whole UTF-8 characters, under the coordinator''s data key.';
COMMENT ON COLUMN task_chunks.segment_envelope IS 'The node''s signed segment (owm/segment/v1) over all it had produced up to here.';
COMMENT ON COLUMN task_chunks.created_at IS 'When it was journalled.';

CREATE TABLE requests (
    request_key       BYTEA PRIMARY KEY CHECK (octet_length(request_key) = 32),
    task_id           UUID NOT NULL UNIQUE REFERENCES tasks(task_id),
    api_key_id        UUID REFERENCES api_keys(key_id),
    id_ciphertext     BYTEA,
    options           JSONB NOT NULL DEFAULT '{}',
    state             TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open','answered','failed')),
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    answered_at       TIMESTAMPTZ,
    answer_ciphertext BYTEA,
    answer_hash       BYTEA CHECK (octet_length(answer_hash) = 32),
    receipt_ciphertext BYTEA,
    receipt_hash      BYTEA CHECK (octet_length(receipt_hash) = 32),
    error             JSONB,
    delivered_at      TIMESTAMPTZ,
    delete_after      TIMESTAMPTZ,
    deleted_at        TIMESTAMPTZ,
    CHECK ((state = 'open') = (answered_at IS NULL)),
    CHECK ((state = 'answered') = (answer_hash IS NOT NULL)),
    CHECK ((state = 'failed') = (error IS NOT NULL)),
    CHECK (state <> 'open' OR (answer_ciphertext IS NULL AND receipt_ciphertext IS NULL AND deleted_at IS NULL)),
    CHECK (deleted_at IS NULL OR (id_ciphertext IS NULL AND answer_ciphertext IS NULL AND receipt_ciphertext IS NULL)),
    CHECK (state <> 'answered' OR deleted_at IS NOT NULL OR answer_ciphertext IS NOT NULL),
    CHECK (receipt_ciphertext IS NULL OR receipt_hash IS NOT NULL)
);
CREATE INDEX requests_delete_after ON requests(delete_after) WHERE deleted_at IS NULL AND delete_after IS NOT NULL;
CREATE INDEX requests_open ON requests(created_at) WHERE state = 'open';
CREATE INDEX requests_api_key ON requests(api_key_id, created_at DESC);
COMMENT ON TABLE requests IS 'Public requests: exactly one answer each, the same for every reader until it is deleted.';
COMMENT ON COLUMN requests.request_key IS 'SHA-256 of the request''s id, which is the capability and is never stored in clear.';
COMMENT ON COLUMN requests.task_id IS 'The task that answers it.';
COMMENT ON COLUMN requests.api_key_id IS 'The API key it is bound to; NULL: none was used.';
COMMENT ON COLUMN requests.id_ciphertext IS 'The request''s id under the coordinator''s data key: a receipt made after a restart has to name it; NULL once deleted.';
COMMENT ON COLUMN requests.options IS 'How the answer is to be shown (endpoint, template, return_token_ids); none of the user''s text.';
COMMENT ON COLUMN requests.state IS 'open, answered, failed; leaves open once and never changes again.';
COMMENT ON COLUMN requests.created_at IS 'When it was asked.';
COMMENT ON COLUMN requests.answered_at IS 'When the answer or failure was recorded.';
COMMENT ON COLUMN requests.answer_ciphertext IS 'The answer under the coordinator''s data key; NULL once deleted.';
COMMENT ON COLUMN requests.answer_hash IS 'SHA-256 of the answer''s text; kept after deletion.';
COMMENT ON COLUMN requests.receipt_ciphertext IS 'The signed receipt under the coordinator''s data key (it names the request''s id); NULL once deleted.';
COMMENT ON COLUMN requests.receipt_hash IS 'SHA-256 of the receipt''s exact JSON bytes; kept after deletion.';
COMMENT ON COLUMN requests.error IS 'What the asker is told where it failed.';
COMMENT ON COLUMN requests.delivered_at IS 'When the answer was first handed out whole.';
COMMENT ON COLUMN requests.delete_after IS 'When text and receipt are deleted: 10 min after delivery, or the retention limit if never fetched.';
COMMENT ON COLUMN requests.deleted_at IS 'When they were.';

CREATE FUNCTION requests_answered_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state <> 'open' AND (
        NEW.state <> OLD.state
        OR NEW.answer_hash IS DISTINCT FROM OLD.answer_hash
        OR NEW.receipt_hash IS DISTINCT FROM OLD.receipt_hash
        OR NEW.error IS DISTINCT FROM OLD.error
        OR (NEW.answer_ciphertext IS NOT NULL AND NEW.answer_ciphertext IS DISTINCT FROM OLD.answer_ciphertext)
        OR (NEW.receipt_ciphertext IS NOT NULL AND NEW.receipt_ciphertext IS DISTINCT FROM OLD.receipt_ciphertext)
    ) THEN
        RAISE EXCEPTION 'the request is answered already: an answer is given once and never changed'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'requests_answered_once';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER requests_answered_once BEFORE UPDATE ON requests
    FOR EACH ROW EXECUTE FUNCTION requests_answered_once();
