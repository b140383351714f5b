-- The ledger (spec §11): append-only, double-entry, integer millisatoshi, each event sums to zero.

CREATE TABLE ledger_accounts (
    account     TEXT PRIMARY KEY CHECK (account ~ '^[a-z][a-z_]{0,39}$'),
    of_node     BOOLEAN NOT NULL,
    description TEXT NOT NULL
);
COMMENT ON TABLE ledger_accounts IS 'The chart of accounts; grows by migrations.';
COMMENT ON COLUMN ledger_accounts.account IS 'The account''s name.';
COMMENT ON COLUMN ledger_accounts.of_node IS 'Kept per node: its entries name one.';
COMMENT ON COLUMN ledger_accounts.description IS 'What a positive and a negative balance mean.';
INSERT INTO ledger_accounts (account, of_node, description) VALUES
    ('owed_to_node', TRUE, 'Rewards earned and not paid: negative is what the network owes the node.'),
    ('reward_expense', FALSE, 'What work has cost the network: positive.');

CREATE TABLE ledger_events (
    event_id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE CHECK (length(idempotency_key) BETWEEN 1 AND 200),
    kind            TEXT NOT NULL CHECK (kind IN ('reward','late_share','correction')),
    task_id         UUID REFERENCES tasks(task_id),
    epoch           BIGINT,
    node_id         UUID REFERENCES nodes(node_id),
    factors         JSONB NOT NULL DEFAULT '{}',
    booked_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    booked_xact     XID8 NOT NULL DEFAULT pg_current_xact_id(),
    CHECK (kind = 'correction' OR (task_id IS NOT NULL AND epoch IS NOT NULL AND node_id IS NOT NULL))
);
-- Nothing is booked twice, whatever key the code chose.
CREATE UNIQUE INDEX ledger_one_reward_per_task ON ledger_events(task_id) WHERE kind = 'reward';
CREATE UNIQUE INDEX ledger_one_booking_per_attempt ON ledger_events(task_id, epoch) WHERE kind IN ('reward','late_share');
CREATE INDEX ledger_events_node ON ledger_events(node_id, event_id);
COMMENT ON TABLE ledger_events IS 'What happened to money, once each; never changed, never deleted.';
COMMENT ON COLUMN ledger_events.event_id IS 'Order of booking; gaps are possible.';
COMMENT ON COLUMN ledger_events.idempotency_key IS 'Names the cause; booking the same cause again is refused.';
COMMENT ON COLUMN ledger_events.kind IS 'reward (the first valid result), late_share (on time, lost the race), correction.';
COMMENT ON COLUMN ledger_events.task_id IS 'For which task.';
COMMENT ON COLUMN ledger_events.epoch IS 'Under which lease.';
COMMENT ON COLUMN ledger_events.node_id IS 'For which node.';
COMMENT ON COLUMN ledger_events.factors IS 'The factors as applied, in thousandths: base_rate_msat, tier, task_weight, quality, uptime_bonus, stake_bonus, share.';
COMMENT ON COLUMN ledger_events.booked_at IS 'When it was booked.';
COMMENT ON COLUMN ledger_events.booked_xact IS 'The transaction that booked it: entries are only added inside it.';

CREATE TABLE ledger_entries (
    event_id    BIGINT NOT NULL REFERENCES ledger_events(event_id),
    line        SMALLINT NOT NULL CHECK (line > 0),
    account     TEXT NOT NULL REFERENCES ledger_accounts(account),
    node_id     UUID REFERENCES nodes(node_id),
    amount_msat BIGINT NOT NULL,
    PRIMARY KEY (event_id, line)
);
CREATE INDEX ledger_entries_account ON ledger_entries(account, node_id) INCLUDE (amount_msat);
COMMENT ON TABLE ledger_entries IS 'Lines of ledger events; per event they sum to zero.';
COMMENT ON COLUMN ledger_entries.event_id IS 'The event.';
COMMENT ON COLUMN ledger_entries.line IS 'Counts lines from 1.';
COMMENT ON COLUMN ledger_entries.account IS 'The account moved.';
COMMENT ON COLUMN ledger_entries.node_id IS 'Whose account, where it is kept per node.';
COMMENT ON COLUMN ledger_entries.amount_msat IS 'Millisatoshi; positive debits, negative credits.';

CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % refused: the ledger only grows, book a correction', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_append_only';
END $$;
CREATE TRIGGER ledger_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_events
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

CREATE FUNCTION ledger_entry_belongs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM ledger_events e
                   WHERE e.event_id = NEW.event_id AND e.booked_xact = pg_current_xact_id()) THEN
        RAISE EXCEPTION 'entries of event % belong into the transaction that booked it', NEW.event_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_entry_belongs';
    END IF;
    IF (NEW.node_id IS NOT NULL) <> (SELECT of_node FROM ledger_accounts WHERE account = NEW.account) THEN
        RAISE EXCEPTION 'account % and node_id do not fit: see ledger_accounts.of_node', NEW.account
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_entry_belongs';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER ledger_entry_belongs BEFORE INSERT ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_entry_belongs();

-- Once per event, at commit; entries can't come later, so this sees them all.
CREATE FUNCTION ledger_event_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    lines BIGINT;
    total NUMERIC;
BEGIN
    SELECT count(*), COALESCE(sum(amount_msat), 0) INTO lines, total
        FROM ledger_entries WHERE event_id = NEW.event_id;
    IF lines < 2 OR total <> 0 THEN
        RAISE EXCEPTION 'ledger event % has % lines that sum to % msat: at least two, and zero, are wanted',
            NEW.event_id, lines, total
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_event_balanced';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_event_balanced AFTER INSERT ON ledger_events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_event_balanced();

CREATE VIEW ledger_balances AS
    SELECT account, node_id, sum(amount_msat)::bigint AS balance_msat
    FROM ledger_entries GROUP BY account, node_id;
COMMENT ON VIEW ledger_balances IS 'Balance of each account, per node where it is kept per node.';
COMMENT ON COLUMN ledger_balances.account IS 'The account.';
COMMENT ON COLUMN ledger_balances.node_id IS 'Whose, where it is kept per node.';
COMMENT ON COLUMN ledger_balances.balance_msat IS 'Sum of its entries in millisatoshi.';
