-- What must not be lost between relays and us. States are words, times are unix seconds.

-- Events that came in for a name. A done row keeps only what tells that it was done.
CREATE TABLE inbox (
    name TEXT NOT NULL,
    event_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,     -- by its author, never used as our time
    received_at BIGINT NOT NULL,
    relay TEXT NOT NULL,            -- that brought it first
    raw TEXT NOT NULL,              -- the event as JSON; empty once done
    state TEXT NOT NULL,            -- open, done
    attempts BIGINT NOT NULL,       -- of the present run
    due_at BIGINT NOT NULL,
    PRIMARY KEY (name, event_id)
);
CREATE INDEX inbox_open ON inbox (name, due_at, received_at) WHERE state = 'open';
CREATE INDEX inbox_age ON inbox (name, created_at) WHERE state = 'done';

-- Until when (our clock) all that a relay had for a name is known to be in the table above.
CREATE TABLE inbox_cursor (
    name TEXT NOT NULL,
    relay TEXT NOT NULL,
    current_at BIGINT NOT NULL,
    PRIMARY KEY (name, relay)
);

-- Events that are to be published.
CREATE TABLE outbox (
    event_id TEXT NOT NULL PRIMARY KEY,
    raw TEXT NOT NULL,
    own_relays BIGINT NOT NULL,     -- 1: for the configured relays, whichever these are
    enough BIGINT NOT NULL,         -- relays that must accept it
    until_at BIGINT,                -- pointless after this
    state TEXT NOT NULL,            -- open, sent, refused, expired
    added_at BIGINT NOT NULL,
    closed_at BIGINT
);
CREATE INDEX outbox_state ON outbox (state, added_at);

-- One row for each relay an event goes to.
CREATE TABLE outbox_relay (
    event_id TEXT NOT NULL REFERENCES outbox (event_id) ON DELETE CASCADE,
    relay TEXT NOT NULL,
    position BIGINT NOT NULL,       -- order of adding
    state TEXT NOT NULL,            -- open, accepted, refused, dropped
    attempts BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    answer TEXT NOT NULL,           -- the relay's last words
    PRIMARY KEY (event_id, relay)
);
CREATE INDEX outbox_relay_open ON outbox_relay (relay, position) WHERE state = 'open';
