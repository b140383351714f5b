-- The check of new ledger lines is planned once per connection, often while the tables are young: then it
-- would read the whole ledger for each booking, for as long as the connection lives. By index only.
ALTER FUNCTION ledger_entry_belongs() SET enable_seqscan = off;
ALTER FUNCTION ledger_entry_belongs() SET enable_hashjoin = off;
ALTER FUNCTION ledger_entry_belongs() SET enable_mergejoin = off;
ALTER FUNCTION ledger_event_balanced() SET enable_seqscan = off;
