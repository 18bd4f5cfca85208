-- LNURL: invoices that were shown, orders that are paid through a Lightning wallet, and what is to be withdrawn.

-- What each invoice of the gateway is for; whether it is paid stands in wallet_quotes and its operation.
CREATE TABLE lnurl_invoices (
    payment_hash TEXT PRIMARY KEY,
    quote_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,               -- whose Lightning address; empty for an order
    comment TEXT NOT NULL DEFAULT '', -- LUD-12
    payer TEXT NOT NULL DEFAULT '',   -- LUD-18, as it was sent
    created_at BIGINT NOT NULL
);
CREATE INDEX lnurl_invoices_recent ON lnurl_invoices (created_at);

-- What somebody may withdraw (LUD-03). open: to be asked for; paying: one melt has it; paid.
CREATE TABLE lnurl_withdrawals (
    k1 TEXT PRIMARY KEY,              -- whoever knows it gets the sats
    mint TEXT NOT NULL,
    state TEXT NOT NULL,
    owed_sat BIGINT NOT NULL,         -- all there is, fees included
    pay_sat BIGINT NOT NULL,          -- what is paid out: less the fee reserve
    description TEXT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    bolt11 TEXT,                      -- of the attempt under way, or of the one that was paid
    op_id TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX lnurl_withdrawals_paying ON lnurl_withdrawals (state) WHERE state = 'paying';

-- A job that is paid through a Lightning wallet.
CREATE TABLE lnurl_orders (
    id TEXT PRIMARY KEY,              -- whoever knows it reads the result and may withdraw
    state TEXT NOT NULL,
    provider TEXT NOT NULL,
    kind BIGINT NOT NULL,
    input TEXT NOT NULL,
    params TEXT NOT NULL,             -- as JSON
    max_sat BIGINT NOT NULL,          -- what the job may cost
    amount_sat BIGINT NOT NULL,       -- the invoice: that and the mint's fees
    mint TEXT NOT NULL,
    quote_id TEXT NOT NULL UNIQUE,
    bolt11 TEXT NOT NULL,
    payment_hash TEXT NOT NULL UNIQUE,
    expires_at BIGINT NOT NULL,       -- of the invoice
    refund_to TEXT NOT NULL,          -- a Lightning address or an LNURL; empty: by LNURL-withdraw
    job_id TEXT,                      -- the order in `orders`
    k1 TEXT,                          -- what is left, to be withdrawn
    reason TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX lnurl_orders_open ON lnurl_orders (state) WHERE state IN ('unpaid', 'paid', 'asked');
