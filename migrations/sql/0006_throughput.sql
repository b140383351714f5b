-- For throughput: the same guarantees, checked once per statement instead of once per row, and no attempt
-- to compress ciphertext.

-- Replaces the row trigger of 0004: entries still belong into the transaction that booked their event,
-- and to accounts that fit. A statement that inserts a thousand lines is checked by one query.
CREATE OR REPLACE FUNCTION ledger_entry_belongs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong RECORD;
BEGIN
    SELECT n.event_id, n.account, e.event_id IS NULL AS stranger INTO wrong
        FROM entries_new n
            LEFT JOIN ledger_events e
                ON e.event_id = n.event_id AND e.booked_xact = pg_current_xact_id()
            LEFT JOIN ledger_accounts a ON a.account = n.account
        WHERE e.event_id IS NULL OR (n.node_id IS NOT NULL) <> a.of_node
        LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF wrong.stranger THEN
        RAISE EXCEPTION 'entries of event % belong into the transaction that booked it', wrong.event_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_entry_belongs';
    END IF;
    RAISE EXCEPTION 'account % and node_id do not fit: see ledger_accounts.of_node', wrong.account
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_entry_belongs';
END $$;
DROP TRIGGER ledger_entry_belongs ON ledger_entries;
CREATE TRIGGER ledger_entry_belongs AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS entries_new
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_entry_belongs();

-- Ciphertext does not compress: store it as it is.
ALTER TABLE tasks ALTER COLUMN payload_ciphertext SET STORAGE EXTERNAL;
ALTER TABLE requests
    ALTER COLUMN answer_ciphertext SET STORAGE EXTERNAL,
    ALTER COLUMN receipt_ciphertext SET STORAGE EXTERNAL;
ALTER TABLE task_chunks
    ALTER COLUMN tokens_ciphertext SET STORAGE EXTERNAL,
    ALTER COLUMN text_ciphertext SET STORAGE EXTERNAL;
