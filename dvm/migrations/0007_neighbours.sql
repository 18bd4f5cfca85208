-- Until when an invoice can be paid, as it says itself: those that cannot be take nobody's place.
ALTER TABLE invoices ADD COLUMN expires_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX invoices_payable ON invoices (agent, expires_at, customer) WHERE state = 'open';
-- Whose jobs were paid for, by whatever key.
CREATE INDEX jobs_sold ON jobs (agent, customer) WHERE price_msat > 0 AND state IN ('queued', 'running', 'done');
