-- Receipts: what is in the log of each of our agents (identity/migrations), and what of it is published.
-- `result_id` is the event that has the result, sealed or not. `confidence` is 0 … 1, as the agent's function stated it.
-- `leaf` is its number in the log, or -1 if no money came for it.
ALTER TABLE jobs ADD COLUMN result_id TEXT;
ALTER TABLE jobs ADD COLUMN confidence DOUBLE PRECISION;
ALTER TABLE jobs ADD COLUMN leaf BIGINT;
CREATE INDEX jobs_unlogged ON jobs (agent, created_at)
    WHERE price_msat > 0 AND leaf IS NULL AND state IN ('done', 'returned', 'cancelled', 'failed', 'expired');

-- What the leaves of our logs are about: nothing is logged twice, whatever was restored in which order.
CREATE TABLE logged (
    log TEXT NOT NULL,
    subject TEXT NOT NULL,            -- a job's request id, or a review's event id, with /answer if it is answered
    number BIGINT NOT NULL,
    PRIMARY KEY (log, subject)
);

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

-- How many leaves of a log each relay was given under a key: a relay that is new among ours is given the rest, and
-- under a new key all are given all, as what an old one signed its holder can have deleted.
CREATE TABLE given_leaves (
    log TEXT NOT NULL,
    key TEXT NOT NULL,
    relay TEXT NOT NULL,
    size BIGINT NOT NULL,
    PRIMARY KEY (log, key, relay)
);

-- The newest root that we have seen of other agents: nobody shows us an older one.
CREATE TABLE seen_roots (
    log TEXT PRIMARY KEY,
    size BIGINT NOT NULL,
    event TEXT NOT NULL
);

-- Keys that a log was handed on to or from. The log is named by its first key, and one with a single key is not in here.
CREATE TABLE agent_keys (
    key TEXT PRIMARY KEY,
    log TEXT NOT NULL,
    number BIGINT NOT NULL,           -- among the keys of the log, from 0 on
    agent TEXT NOT NULL,              -- its short name here
    since BIGINT NOT NULL,            -- the date of the rotation to it; 0 for the first
    until BIGINT,                     -- when it ceases to count, once it was handed on
    UNIQUE (log, number)
);
