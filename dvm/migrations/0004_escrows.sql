-- Jobs that are done before they are paid, their results sealed. What is paid, or was not done, is struck out.
CREATE TABLE reveal_credits (
    agent TEXT NOT NULL,
    job_id TEXT NOT NULL,
    customer TEXT NOT NULL,
    price_msat BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (agent, job_id)
);
CREATE INDEX reveal_credits_by_customer ON reveal_credits (agent, customer);

-- Whether a result in escrow waits for somebody who looks at it.
ALTER TABLE orders ADD COLUMN review BIGINT NOT NULL DEFAULT 0;
