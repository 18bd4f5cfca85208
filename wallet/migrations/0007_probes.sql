-- Which locks each mint was seen to enforce, by the version it announced. `checked_at` is NULL while a run is under
-- way: its operations are named by `run`, its locks follow from `run` and `locktime`, so it is taken up where it stopped.
CREATE TABLE wallet_probes (
    mint TEXT NOT NULL,
    version TEXT NOT NULL,
    run TEXT NOT NULL,
    locktime BIGINT NOT NULL,
    p2pk BIGINT NOT NULL DEFAULT 0,
    multisig BIGINT NOT NULL DEFAULT 0,
    refund BIGINT NOT NULL DEFAULT 0,
    htlc BIGINT NOT NULL DEFAULT 0,
    checked_at BIGINT,
    PRIMARY KEY (mint, version)
);
