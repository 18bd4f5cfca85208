-- Append-only Merkle logs (identity/log.py). `log` is the public key of the agent whose log it is.
CREATE TABLE merkle_logs (
    log TEXT PRIMARY KEY,
    size BIGINT NOT NULL,
    peaks TEXT NOT NULL               -- the frontier: hex, the smallest subtree first, - where there is none
);
CREATE TABLE merkle_leaves (
    log TEXT NOT NULL,
    number BIGINT NOT NULL,
    leaf TEXT NOT NULL,
    PRIMARY KEY (log, number)
);
-- The hashes of complete subtrees, those of the leaves included. That over the leaves from n * 2^k on, 2^k of them, is at
-- place (2n + 1) * 2^k - 1: leaves have the even places, and a subtree's top stands in the middle of its leaves.
CREATE TABLE merkle_nodes (
    log TEXT NOT NULL,
    place BIGINT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (log, place)
);
