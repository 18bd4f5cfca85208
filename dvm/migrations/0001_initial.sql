-- Jobs we do for others. One request may be served by several agents of this post.
CREATE TABLE jobs (
    agent TEXT NOT NULL,              -- our agent's public key
    id TEXT NOT NULL,                 -- the request's event id
    kind BIGINT NOT NULL,
    customer TEXT NOT NULL,
    state TEXT NOT NULL,
    price_msat BIGINT NOT NULL,
    request TEXT NOT NULL,            -- the signed event as JSON
    relay TEXT NOT NULL,              -- where it was seen first
    reason TEXT NOT NULL DEFAULT '',  -- why it failed
    attempts BIGINT NOT NULL DEFAULT 0,
    locktime BIGINT,                  -- of the offer
    offer_expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (agent, id)
);
CREATE INDEX jobs_open ON jobs (agent, state) WHERE state NOT IN ('done', 'failed', 'expired', 'returned');
CREATE INDEX jobs_recent ON jobs (created_at);

-- Ecash that came for jobs. The token text is money until it is redeemed or returned.
CREATE TABLE payments (
    id TEXT PRIMARY KEY,              -- sha256 over agent, mint and the coins' Ys: the same coins are one payment
    agent TEXT NOT NULL,
    job_id TEXT NOT NULL,             -- as the payer names it; perhaps no job of ours
    payer TEXT NOT NULL,              -- the public key that gets the money back
    public BIGINT NOT NULL,           -- 1: the token was in the request, for all to see
    state TEXT NOT NULL,
    token TEXT NOT NULL,
    amount_sat BIGINT NOT NULL DEFAULT 0, -- what we got for it, after the mint's fee
    op_id TEXT,                       -- the wallet operation that is moving it
    reason TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX payments_open ON payments (agent, state) WHERE state IN ('received', 'redeeming', 'returning');
CREATE INDEX payments_by_job ON payments (agent, job_id);

-- Jobs others do for us.
CREATE TABLE orders (
    id TEXT PRIMARY KEY,              -- the request's event id
    customer TEXT NOT NULL,
    provider TEXT NOT NULL,           -- whom we asked
    kind BIGINT NOT NULL,
    state TEXT NOT NULL,
    max_sat BIGINT NOT NULL,
    price_sat BIGINT NOT NULL DEFAULT 0,
    mint TEXT,                        -- where we pay
    lock_nonce TEXT NOT NULL,         -- our one-job key is derived from it
    locktime BIGINT,
    op_id TEXT,                       -- the wallet operation that locks our coins
    refund_op_id TEXT,                -- the one that takes them back
    request TEXT NOT NULL,
    offer TEXT,
    result TEXT,
    reason TEXT NOT NULL DEFAULT '',
    deadline_at BIGINT NOT NULL,
    version BIGINT NOT NULL DEFAULT 0, -- counts the changes: who writes must have read the last one
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX orders_open ON orders (customer, state)
    WHERE state NOT IN ('done', 'failed', 'expired', 'refunded', 'lost');
CREATE INDEX orders_recent ON orders (created_at);
