-- Append-only Merkle logs (identity/log.py). `log` is the public key of the agent whose log it is.
CREATE TABLE merkle_logs (
    log TEXT PRIMARY KEY,
    size BIGINT NOT NULL,
    peaks TEXT NOT NULL               -- the frontier: hex, the smallest subtree first, empty where there is none
);
CREATE TABLE merkle_leaves (
    log TEXT NOT NULL,
    number BIGINT NOT NULL,
    leaf TEXT NOT NULL,
    PRIMARY KEY (log, number)
);
-- The hashes of complete subtrees, those of the leaves included (level 0).
CREATE TABLE merkle_nodes (
    log TEXT NOT NULL,
    level BIGINT NOT NULL,
    number BIGINT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (log, level, number)
);
