-- Arbiter: the customer told us that it accepts what it disputed.
ALTER TABLE escrows ADD COLUMN accepted BIGINT NOT NULL DEFAULT 0;
CREATE INDEX escrows_by_fee_order ON escrows (fee_order) WHERE fee_order IS NOT NULL;
