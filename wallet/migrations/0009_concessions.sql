-- Arbiter: the role of the party that told us that it gives in.
ALTER TABLE escrows ADD COLUMN conceded TEXT NOT NULL DEFAULT '';
CREATE INDEX escrows_by_fee_order ON escrows (fee_order) WHERE fee_order IS NOT NULL;
