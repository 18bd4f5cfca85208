-- Lightning, by whatever rail. A row is written before its rail is asked for anything, and kept for good. Amounts in
-- msat, times in unix seconds.

-- Payments to us. asked: the rail was perhaps asked for an invoice, which nobody was shown; open: to be paid; settled:
-- the money is ours; expired: unpaid long after it could be paid.
CREATE TABLE lightning_invoices (
    name TEXT PRIMARY KEY,            -- ours, given by whoever wants the money
    rail TEXT NOT NULL,
    state TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    job_id TEXT,
    handle TEXT,                      -- what its rail calls it
    bolt11 TEXT,
    payment_hash TEXT UNIQUE,
    preimage TEXT,
    received_msat BIGINT NOT NULL DEFAULT 0, -- who pays may pay more than was asked for
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    settled_at BIGINT
);

CREATE INDEX lightning_invoices_open ON lightning_invoices (created_at) WHERE state = 'open';

-- Payments by us. recorded: no rail was asked yet; asked: from here on only the rail knows what became of it.
CREATE TABLE lightning_payments (
    name TEXT PRIMARY KEY,            -- ours: the same name never pays twice
    rail TEXT NOT NULL,
    state TEXT NOT NULL,
    bolt11 TEXT NOT NULL,
    payment_hash TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    fee_max_msat BIGINT,
    fee_msat BIGINT NOT NULL DEFAULT 0,
    job_id TEXT,
    preimage TEXT,
    error TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    closed_at BIGINT
);

-- One payment hash is paid once: by another name only after the first has certainly failed.
CREATE UNIQUE INDEX lightning_payments_hash ON lightning_payments (payment_hash) WHERE state <> 'failed';
CREATE INDEX lightning_payments_open ON lightning_payments (created_at) WHERE state IN ('recorded', 'asked');

-- What an invoice of a mint is for; those of jobs are asked about by whoever does the job.
ALTER TABLE wallet_quotes ADD COLUMN job_id TEXT;
