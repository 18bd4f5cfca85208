-- What is written for each job must cost the same however many there were: keys that follow time, so that new rows go
-- to pages that are at hand, and nothing kept of what has been sent.
CREATE TABLE inbox_by_time (
    name TEXT NOT NULL,
    event_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,     -- by its author, never used as our time
    received_at BIGINT NOT NULL,
    relay TEXT NOT NULL,            -- that brought it first
    raw TEXT NOT NULL,              -- the event as JSON; empty once done
    state TEXT NOT NULL,            -- open, done
    attempts BIGINT NOT NULL,       -- of the present run
    due_at BIGINT NOT NULL,
    PRIMARY KEY (name, created_at, event_id)
);
INSERT INTO inbox_by_time (name, event_id, created_at, received_at, relay, raw, state, attempts, due_at)
    SELECT name, event_id, created_at, received_at, relay, raw, state, attempts, due_at FROM inbox;
DROP TABLE inbox;
ALTER TABLE inbox_by_time RENAME TO inbox;
CREATE INDEX inbox_open ON inbox (name, due_at, received_at) WHERE state = 'open';

DELETE FROM outbox WHERE state = 'sent'
    AND event_id NOT IN (SELECT event_id FROM outbox_relay WHERE state = 'open');
DROP INDEX outbox_state;
CREATE INDEX outbox_open ON outbox (added_at) WHERE state = 'open';
CREATE INDEX outbox_closed ON outbox (closed_at) WHERE closed_at IS NOT NULL;
