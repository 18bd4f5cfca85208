-- Lightning invoices that customers were offered, one for each job; what came of them is a payment. open: asked about
-- until it is paid or long after it expired; paid: a payment for the job; surplus: the job was paid otherwise, and the
-- payment goes back; returned: it went; expired.
CREATE TABLE invoices (
    agent TEXT NOT NULL,              -- our agent's public key
    job_id TEXT NOT NULL,
    customer TEXT NOT NULL,
    name TEXT NOT NULL,               -- of the invoice, in lightning_invoices
    bolt11 TEXT NOT NULL,
    payment_hash TEXT NOT NULL UNIQUE,
    price_msat BIGINT NOT NULL,
    on_credit BIGINT NOT NULL,        -- 1: the work is done first
    state TEXT NOT NULL,
    event_id TEXT,                    -- the offer or result that carries it, which a zap would name
    created_at BIGINT NOT NULL,
    ask_at BIGINT NOT NULL,           -- when the rail is asked next
    PRIMARY KEY (agent, job_id)
);
CREATE INDEX invoices_open ON invoices (agent, ask_at) WHERE state = 'open';
CREATE INDEX invoices_surplus ON invoices (agent) WHERE state = 'surplus';
CREATE INDEX invoices_owed ON invoices (agent, customer) WHERE on_credit = 1;
CREATE INDEX invoices_by_event ON invoices (event_id);

-- What a customer has paid us bounds what it may owe us.
CREATE INDEX payments_by_payer ON payments (agent, payer) WHERE state = 'redeemed';
