"""The tables of the answer store, as the scripts that lead from each version to the next."""

# A trigger that `audit.remove` takes away while it removes damaged rows.
NO_DELETE = """CREATE TRIGGER no_delete BEFORE DELETE ON attempts
BEGIN SELECT RAISE(ABORT, 'append-only'); END"""

ONE = f"""
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    request_key TEXT NOT NULL,
    at TEXT NOT NULL,          -- UTC
    source TEXT NOT NULL,      -- base_url, or 'import'
    seconds REAL,
    status INTEGER,            -- of HTTP; null when no answer came
    error TEXT,                -- class of the failure; null when a body came
    raw TEXT                   -- the whole body as it came
);
CREATE INDEX answers ON attempts (request_key) WHERE raw IS NOT NULL;
{NO_DELETE};
CREATE TRIGGER no_update BEFORE UPDATE ON attempts
BEGIN SELECT RAISE(ABORT, 'append-only'); END;
PRAGMA user_version = 1;
"""

TWO = """
DROP VIEW IF EXISTS ledger;
ALTER TABLE attempts ADD COLUMN dataset TEXT;
ALTER TABLE attempts ADD COLUMN mode TEXT;
ALTER TABLE attempts ADD COLUMN request_id TEXT;         -- the provider's
ALTER TABLE attempts ADD COLUMN price TEXT;              -- JSON of the price then; null when unknown
ALTER TABLE attempts ADD COLUMN foreign_spend INTEGER;   -- 1: paid by another store (imports of old)
ALTER TABLE attempts ADD COLUMN checksum TEXT;
CREATE INDEX checksums ON attempts (checksum);
CREATE TABLE requests (
    request_key TEXT PRIMARY KEY,
    question_key TEXT NOT NULL,  -- the request without its limit on tokens
    token_limit INTEGER,
    model TEXT,
    request TEXT                 -- canonical JSON; null where only the keys are known
);
CREATE INDEX questions ON requests (question_key);
CREATE TABLE wallet (            -- what runs took from a dataset's cap, and gave back
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    dataset TEXT NOT NULL,
    at TEXT NOT NULL,
    dollars REAL NOT NULL
);
CREATE TABLE batch_events (      -- the last event of a batch is its state
    id INTEGER PRIMARY KEY,
    batch TEXT NOT NULL,         -- our own name for it, sent along as metadata
    at TEXT NOT NULL,
    event TEXT NOT NULL,         -- intended, uploaded, submitted, collected, void
    detail TEXT NOT NULL         -- JSON
);
CREATE INDEX batch_names ON batch_events (batch);
CREATE TABLE batch_rows (batch TEXT NOT NULL, request_key TEXT NOT NULL, PRIMARY KEY (batch, request_key));
CREATE INDEX batched ON batch_rows (request_key);
CREATE TRIGGER no_event_delete BEFORE DELETE ON batch_events
BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER no_event_update BEFORE UPDATE ON batch_events
BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE VIEW batches AS
SELECT first.batch AS name, last.event AS state, first.at AS intended_at,
    json_extract(first.detail, '$.source') AS source,
    json_extract(first.detail, '$.dataset') AS dataset,
    json_extract(first.detail, '$.model') AS model,
    json_extract(first.detail, '$.price') AS price,
    json_extract(first.detail, '$.rows') AS rows,
    json_extract(last.detail, '$.file_id') AS file_id,
    json_extract(last.detail, '$.batch_id') AS batch_id,
    json_extract(last.detail, '$.status') AS status
FROM batch_events AS first
JOIN batch_events AS last ON last.id = (SELECT max(id) FROM batch_events WHERE batch = first.batch)
WHERE first.event = 'intended';
PRAGMA user_version = 2;
"""

# Counted by `costs.cost_of`, which keeps the cap too; a sum in SQL would be a second opinion.
THREE = """
CREATE TABLE costs (
    attempt INTEGER PRIMARY KEY,
    prompt_tokens INTEGER,       -- null: not known
    completion_tokens INTEGER,
    cached_tokens INTEGER,
    reasoning_tokens INTEGER,
    dollars REAL                 -- null: not known, never guessed
);
CREATE TRIGGER cost_goes_too AFTER DELETE ON attempts
BEGIN DELETE FROM costs WHERE attempt = OLD.id; END;
DROP VIEW IF EXISTS ledger;
CREATE VIEW ledger AS
SELECT id, request_key, at, dataset, mode, source, seconds, status, error, request_id,
    prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, dollars,
    CASE WHEN json_valid(price) THEN json_extract(price, '$.version') END AS price_version,
    coalesce(foreign_spend, 0) AS foreign_spend
FROM attempts LEFT JOIN costs ON attempt = id WHERE source != 'import';
PRAGMA user_version = 3;
"""

# Answers that count no longer, though they were paid for.
FOUR = """
CREATE TABLE disowned (attempt INTEGER PRIMARY KEY, at TEXT NOT NULL);
CREATE TRIGGER disowned_goes_too AFTER DELETE ON attempts
BEGIN DELETE FROM disowned WHERE attempt = OLD.id; END;  -- its id may be given again
PRAGMA user_version = 4;
"""

MIGRATIONS = (ONE, TWO, THREE, FOUR)
VERSION = len(MIGRATIONS)
