-- Work that is wanted of one agent or another: asked of one after the other, within one budget and one time.
CREATE TABLE guarantees (
    id TEXT PRIMARY KEY,
    customer TEXT NOT NULL,
    state TEXT NOT NULL,              -- open, done, failed
    task TEXT NOT NULL,               -- what is wanted, as JSON; if it is private, encrypted to the customer itself
    private BIGINT NOT NULL,
    max_sat BIGINT NOT NULL,          -- the most that all its orders may cost together
    deadline_at BIGINT NOT NULL,
    allowance TEXT,                   -- the agent of ours that buys, by its short name, and for which job
    job_id TEXT,
    order_id TEXT,                    -- the order that brought the result
    reason TEXT NOT NULL DEFAULT '',  -- why there is none
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX guarantees_open ON guarantees (customer) WHERE state = 'open';
-- These hold all that the sum of an allowance reads, so that it touches none of the rows, which are large.
CREATE INDEX guarantees_by_day ON guarantees (allowance, created_at, state, max_sat, id) WHERE allowance IS NOT NULL;
CREATE INDEX guarantees_by_job ON guarantees (allowance, job_id, state, max_sat, id) WHERE allowance IS NOT NULL;

ALTER TABLE orders ADD COLUMN guarantee_id TEXT;
-- The state the order was in when its agent last said that it is at work.
ALTER TABLE orders ADD COLUMN heard_in TEXT NOT NULL DEFAULT '';
-- What left the wallet for it, fees included, once that is known; and what came back, less the fee.
ALTER TABLE orders ADD COLUMN paid_sat BIGINT NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN returned_sat BIGINT NOT NULL DEFAULT 0;
CREATE INDEX orders_of_guarantee ON orders (guarantee_id, state, max_sat, price_sat, paid_sat, returned_sat)
    WHERE guarantee_id IS NOT NULL;
