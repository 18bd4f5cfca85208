-- Orders whose money came back, or never left after all, by when: whoever was charged for one finds what came late.
CREATE INDEX orders_refunded ON orders (updated_at) WHERE state IN ('refunded', 'failed') AND guarantee_id IS NOT NULL;
