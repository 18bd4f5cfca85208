-- The wallet: keys of mints, operations with what they asked for, coins, quotes, double entry. Amounts in sat, the
-- ledger in msat; times in unix seconds.

-- A mint's keysets, pinned at first sight: the keys of an id never change again (NUT-02).
CREATE TABLE wallet_keysets (
    mint TEXT NOT NULL,
    id TEXT NOT NULL,
    unit TEXT NOT NULL,
    active BIGINT NOT NULL,
    input_fee_ppk BIGINT NOT NULL,
    final_expiry BIGINT,
    keys TEXT NOT NULL,
    PRIMARY KEY (mint, id)
);

-- NUT-13: the next counter by keyset id alone, because the derivation knows no mint.
CREATE TABLE wallet_counters (
    keyset_id TEXT PRIMARY KEY,
    next BIGINT NOT NULL
);

-- One exchange with one mint. send, keep and fee are the plan; received, sent and paid fee how it ended.
CREATE TABLE wallet_operations (
    op_id TEXT PRIMARY KEY,
    plan_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    mint TEXT NOT NULL,
    purpose TEXT NOT NULL,
    job_id TEXT,
    quote_id TEXT,
    send_sat BIGINT NOT NULL,
    keep_sat BIGINT NOT NULL,
    fee_sat BIGINT NOT NULL,
    locked TEXT,
    received_sat BIGINT NOT NULL DEFAULT 0,
    sent_sat BIGINT NOT NULL DEFAULT 0,
    paid_fee_sat BIGINT NOT NULL DEFAULT 0,
    error TEXT,
    created_at BIGINT NOT NULL,
    closed_at BIGINT
);

-- Only what is unfinished is ever searched, so finished operations cost nothing.
CREATE INDEX wallet_operations_live ON wallet_operations (state) WHERE state IN ('planned', 'open');
CREATE INDEX wallet_operations_created ON wallet_operations (created_at, op_id);

-- Every blinded message that may ever have been shown to a mint, written before it was; kept for good.
CREATE TABLE wallet_outputs (
    op_id TEXT NOT NULL REFERENCES wallet_operations (op_id),
    attempt BIGINT NOT NULL,
    position BIGINT NOT NULL,
    role TEXT NOT NULL,
    keyset_id TEXT NOT NULL,
    counter BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    secret TEXT NOT NULL,
    blinding_factor BLOB NOT NULL,
    blinded TEXT NOT NULL,
    PRIMARY KEY (op_id, attempt, position),
    UNIQUE (keyset_id, counter)
);

-- Every coin that was ever in hand, once. free: ours. reserved: ours, inside an operation. sent: in a token for
-- somebody else. foreign: somebody else's, inside an operation. spent: gone. `held_by` is the operation that has it
-- as input, `made_by` the one whose output it was.
CREATE TABLE wallet_proofs (
    mint TEXT NOT NULL,
    y TEXT NOT NULL,
    state TEXT NOT NULL,
    keyset_id TEXT NOT NULL,
    amount BIGINT NOT NULL,
    secret TEXT NOT NULL,
    c TEXT NOT NULL,
    dleq_e TEXT,
    dleq_s TEXT,
    dleq_r TEXT,
    witness TEXT,
    made_by TEXT,
    role TEXT,
    held_by TEXT,
    PRIMARY KEY (mint, y)
);

CREATE INDEX wallet_proofs_free ON wallet_proofs (mint, amount) WHERE state = 'free';
CREATE INDEX wallet_proofs_held ON wallet_proofs (held_by) WHERE held_by IS NOT NULL;
CREATE INDEX wallet_proofs_made ON wallet_proofs (made_by) WHERE made_by IS NOT NULL;

-- Invoices that fund us (NUT-04). open: to be asked for; claimed: an operation has it; expired: unpaid long after
-- its invoice could be paid.
CREATE TABLE wallet_quotes (
    quote_id TEXT PRIMARY KEY,
    op_id TEXT NOT NULL UNIQUE,
    mint TEXT NOT NULL,
    state TEXT NOT NULL,
    amount_sat BIGINT NOT NULL,
    bolt11 TEXT NOT NULL,
    expiry BIGINT,
    created_at BIGINT NOT NULL
);

CREATE INDEX wallet_quotes_open ON wallet_quotes (created_at) WHERE state = 'open';

-- Double entry: the entries of one operation sum to zero, and there is one set of them.
CREATE TABLE ledger (
    op_id TEXT NOT NULL,
    account TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    PRIMARY KEY (op_id, account)
);

CREATE INDEX ledger_account ON ledger (account);
