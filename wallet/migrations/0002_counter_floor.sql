-- Below `floor` no counter is used again: a mint signed them for an earlier life of this wallet, of which there are no
-- outputs here. Above it the outputs tell which counters a mint was ever shown.
ALTER TABLE wallet_counters ADD COLUMN floor BIGINT NOT NULL DEFAULT 0;
