-- Money of jobs that is locked for two parties, as we know it in the role we play in it.
CREATE TABLE escrows (
    role TEXT NOT NULL,                -- customer, provider or arbiter
    party TEXT NOT NULL,               -- our public key in it
    request_id TEXT NOT NULL,
    stage TEXT NOT NULL,
    terms TEXT NOT NULL,               -- JSON
    request TEXT NOT NULL,             -- the signed event as JSON
    acceptance TEXT,                   -- the arbiter's signed event, JSON
    op_id TEXT,                        -- customer: the operation that locked our coins
    lock_nonce TEXT,                   -- customer: our one-job key is derived from it
    token TEXT,                        -- provider: the locked coins
    coins TEXT,                        -- arbiter: the secrets and amounts it may have to sign, JSON
    signatures TEXT NOT NULL DEFAULT '{}', -- of others, by secret, JSON
    ciphertext TEXT,                   -- customer: the sealed result, base64
    preimage TEXT,                     -- the sealed result's key, hex; provider: as we drew it, customer: once it is known
    result TEXT,                       -- the result's event, JSON
    delivered_at BIGINT,               -- when we saw it
    statements TEXT NOT NULL DEFAULT '[]', -- what the parties said in a dispute, JSON
    ruling TEXT,                       -- arbiter's signed event, JSON
    awarded TEXT NOT NULL DEFAULT '[]', -- arbiter: the secrets it awards to the provider, JSON
    attempts BIGINT NOT NULL DEFAULT 0, -- of claiming; each has an operation of its own
    amount_sat BIGINT NOT NULL DEFAULT 0, -- what we got in the end
    reason TEXT NOT NULL DEFAULT '',
    wake_at BIGINT,                    -- when time alone changes it
    version BIGINT NOT NULL DEFAULT 0, -- counts the changes: who writes must have read the last one
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (role, party, request_id)
);
CREATE INDEX escrows_open ON escrows (party, role)
    WHERE stage NOT IN ('paid', 'yielded', 'released', 'refunded', 'ruled', 'lost', 'void');
CREATE INDEX escrows_recent ON escrows (created_at);

-- No coin pays for two jobs: whoever funds with it first has used it.
CREATE TABLE escrow_coins (
    mint TEXT NOT NULL,
    y TEXT NOT NULL,
    party TEXT NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (mint, y)
);
