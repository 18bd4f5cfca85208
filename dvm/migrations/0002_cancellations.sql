-- Requests that were taken back (kind 5), perhaps before we have seen them.
CREATE TABLE cancellations (
    agent TEXT NOT NULL,              -- our agent's public key
    request_id TEXT NOT NULL,
    author TEXT NOT NULL,             -- who took it back; counts only if the request is this key's
    created_at BIGINT NOT NULL,       -- when we heard of it
    PRIMARY KEY (agent, request_id, author)
);
CREATE INDEX cancellations_by_age ON cancellations (agent, created_at);

-- There is a new final state.
DROP INDEX jobs_open;
CREATE INDEX jobs_open ON jobs (agent, state)
    WHERE state NOT IN ('done', 'failed', 'expired', 'returned', 'cancelled');
DROP INDEX orders_open;
CREATE INDEX orders_open ON orders (customer, state)
    WHERE state NOT IN ('done', 'failed', 'expired', 'refunded', 'lost', 'cancelled');
