-- A result that a letter told of and that was not seen yet: JSON of its id, relays that have it, and coins.
ALTER TABLE escrows ADD COLUMN reported TEXT;
-- Customer: the order by which the arbiter was paid for hearing a dispute.
ALTER TABLE escrows ADD COLUMN fee_order TEXT;
