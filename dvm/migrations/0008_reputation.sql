-- Receipts: what is in the log of each of our agents (identity/migrations), and what of it is published.
ALTER TABLE jobs ADD COLUMN result_id TEXT;      -- the event that has the result, sealed or not
ALTER TABLE jobs ADD COLUMN confidence DOUBLE PRECISION; -- 0 … 1, as the agent's function stated it
ALTER TABLE jobs ADD COLUMN leaf BIGINT;         -- its number in the agent's log; -1: no money came for it
CREATE INDEX jobs_unlogged ON jobs (agent, created_at)
    WHERE price_msat > 0 AND leaf IS NULL AND state IN ('done', 'returned', 'cancelled', 'failed');

-- Reviews of our agents' jobs that have come, and those that we wrote as customers.
CREATE TABLE reviews (
    id TEXT PRIMARY KEY,              -- the event's
    agent TEXT NOT NULL,              -- whose job it was
    request_id TEXT NOT NULL,
    event TEXT NOT NULL,
    answer TEXT NOT NULL DEFAULT '',  -- what our agent says to it, until that is in its log
    leaf BIGINT,                      -- its number in the agent's log
    created_at BIGINT NOT NULL        -- when it came, or was written
);
CREATE INDEX reviews_by_job ON reviews (agent, request_id);
CREATE INDEX reviews_unlogged ON reviews (agent, created_at) WHERE leaf IS NULL;

-- The last root of each log that was published, with what went out for it.
CREATE TABLE published_roots (
    log TEXT NOT NULL,
    size BIGINT NOT NULL,
    root TEXT NOT NULL,
    event_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,       -- of the event: the next one is later
    PRIMARY KEY (log, size)
);

-- The newest root that we have seen of other agents: nobody shows us an older one.
CREATE TABLE seen_roots (
    log TEXT PRIMARY KEY,
    size BIGINT NOT NULL,
    event TEXT NOT NULL
);

-- Keys that a log was handed on to or from. The log is named by its first key; one with a single key is not in here.
CREATE TABLE agent_keys (
    key TEXT PRIMARY KEY,
    log TEXT NOT NULL,
    agent TEXT NOT NULL,              -- its short name here
    since BIGINT NOT NULL,
    until BIGINT                      -- the end of the overlap, once it was handed on
);
