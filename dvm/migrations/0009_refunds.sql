-- Orders whose money came back, by when: whoever was charged for one finds what came late.
CREATE INDEX orders_refunded ON orders (updated_at) WHERE state = 'refunded' AND guarantee_id IS NOT NULL;
