-- Who calls over HTTP, and what they have here. What their jobs, escrows and receipts are is not here: see dvm.

-- A caller is made by the first call that leaves something here. `ticket`: sha256 of the ticket of one without keys.
CREATE TABLE callers (
    id TEXT PRIMARY KEY,
    ticket TEXT UNIQUE,
    created_at BIGINT NOT NULL
);

-- Keys by which a caller is known: `nostr:<hex>`, `ed25519:<hex>`, `lnurl:<hex>`. Budgets in sat, NULL for none.
CREATE TABLE caller_keys (
    key TEXT PRIMARY KEY,
    caller TEXT NOT NULL REFERENCES callers (id),
    name TEXT NOT NULL DEFAULT '',
    job_sat BIGINT,
    day_sat BIGINT,
    created_at BIGINT NOT NULL
);
CREATE INDEX caller_keys_of ON caller_keys (caller);

-- Codes by which another key joins a caller; sha256 of each.
CREATE TABLE caller_links (
    code TEXT PRIMARY KEY,
    caller TEXT NOT NULL REFERENCES callers (id),
    expires_at BIGINT NOT NULL
);

-- LNURL-auth (LUD-04): a challenge, bound to the browser that asked for it by the secret whose sha256 `poll` is.
-- `key` is the wallet's once it has signed; `caller` is to whom the key is to be linked, if to anybody; `client` is
-- the address that asked.
CREATE TABLE logins (
    k1 TEXT PRIMARY KEY,
    poll TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    caller TEXT,
    key TEXT,
    expires_at BIGINT NOT NULL
);
CREATE INDEX logins_of ON logins (client, expires_at);
CREATE INDEX logins_old ON logins (expires_at);

-- Sessions. `access` and `refresh` are sha256 of the tokens that are good now; `ended` says why none are any more.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    caller TEXT NOT NULL REFERENCES callers (id),
    key TEXT NOT NULL,
    access TEXT NOT NULL UNIQUE,
    access_expires_at BIGINT NOT NULL,
    refresh TEXT NOT NULL UNIQUE,
    refresh_expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    ended TEXT
);
CREATE INDEX sessions_of ON sessions (caller, created_at);
CREATE INDEX sessions_old ON sessions (refresh_expires_at);
-- Refresh tokens that were used: whoever shows one of these again ends the session.
CREATE TABLE sessions_used (
    refresh TEXT PRIMARY KEY,
    session TEXT NOT NULL REFERENCES sessions (id),
    expires_at BIGINT NOT NULL
);
CREATE INDEX sessions_used_of ON sessions_used (session, expires_at);

-- Sats that a caller brings. `op_id` is the wallet's operation (of a quote: its claim), whose end is the truth.
CREATE TABLE caller_deposits (
    id TEXT PRIMARY KEY,
    caller TEXT NOT NULL REFERENCES callers (id),
    way TEXT NOT NULL,
    op_id TEXT NOT NULL,
    quote_id TEXT,
    amount_sat BIGINT NOT NULL, -- of the token or the invoice
    credited_sat BIGINT NOT NULL DEFAULT 0,
    state TEXT NOT NULL,        -- open, done, failed, expired
    reason TEXT NOT NULL DEFAULT '',
    expires_at BIGINT,          -- of the invoice
    client TEXT NOT NULL DEFAULT '', -- the address that asked for it, until it is paid or has expired
    created_at BIGINT NOT NULL
);
CREATE INDEX caller_deposits_expired ON caller_deposits (expires_at) WHERE state = 'expired';
CREATE INDEX caller_deposits_open ON caller_deposits (created_at) WHERE state = 'open';
CREATE INDEX caller_deposits_open_of ON caller_deposits (caller) WHERE state = 'open';
CREATE INDEX caller_deposits_of ON caller_deposits (caller, created_at);

-- Sats that a caller takes away. `held_sat` left the balance when it was written down, fees included; what was not
-- needed of it came back. `op_id` is the wallet's operation; an LNURL's (`k1`) is in lnurl_withdrawals.
CREATE TABLE caller_withdrawals (
    id TEXT PRIMARY KEY,
    caller TEXT NOT NULL REFERENCES callers (id),
    way TEXT NOT NULL,
    wish TEXT NOT NULL,         -- what was asked for, hashed
    op_id TEXT,
    k1 TEXT,
    bolt11 TEXT,
    amount_sat BIGINT NOT NULL, -- that arrives
    held_sat BIGINT NOT NULL,
    fee_sat BIGINT NOT NULL DEFAULT 0,
    state TEXT NOT NULL,        -- open, done, failed
    reason TEXT NOT NULL DEFAULT '',
    expires_at BIGINT,          -- of the LNURL
    created_at BIGINT NOT NULL
);
-- An invoice is paid once, whoever asks.
CREATE UNIQUE INDEX caller_withdrawals_once ON caller_withdrawals (bolt11) WHERE bolt11 IS NOT NULL AND state <> 'failed';
CREATE INDEX caller_withdrawals_open ON caller_withdrawals (state) WHERE state = 'open';
CREATE INDEX caller_withdrawals_of ON caller_withdrawals (caller, created_at);

-- What each job takes of its caller's balance: reserved at its begin, and what it cost once its money has come to rest.
CREATE TABLE caller_jobs (
    id TEXT PRIMARY KEY,
    caller TEXT NOT NULL REFERENCES callers (id),
    key TEXT NOT NULL,
    wish TEXT NOT NULL,
    reserved_sat BIGINT NOT NULL,
    cost_sat BIGINT,
    created_at BIGINT NOT NULL
);
CREATE INDEX caller_jobs_open ON caller_jobs (caller, created_at) WHERE cost_sat IS NULL;
CREATE INDEX caller_jobs_of ON caller_jobs (caller, created_at);
CREATE INDEX caller_jobs_by_key ON caller_jobs (key, created_at, cost_sat, reserved_sat);

-- No signature of a request that was made after `until` was ever taken. One row; see facade/replays.py.
CREATE TABLE signatures_taken (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    until BIGINT NOT NULL
);

-- How many requests each came with, by window of time and by the machine that counted them.
CREATE TABLE request_counts (
    period BIGINT NOT NULL,
    who TEXT NOT NULL,
    machine TEXT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (period, who, machine)
);
