-- The books: what caused each posting, what each account came to, and mints given up. Amounts in msat.

-- One money step. `op_id` is the operation that moved the coins it tells of; its entries are in `ledger`.
CREATE TABLE postings (
    id TEXT PRIMARY KEY,
    cause TEXT NOT NULL,
    op_id TEXT,
    job_id TEXT,
    posted_at BIGINT NOT NULL
);

ALTER TABLE ledger RENAME COLUMN op_id TO posting_id;

INSERT INTO postings (id, cause, op_id, job_id, posted_at)
    SELECT DISTINCT l.posting_id, 'operation', l.posting_id, o.job_id, COALESCE(o.closed_at, 0)
    FROM ledger l LEFT JOIN wallet_operations o ON o.op_id = l.posting_id;

-- The audit adds up by account: with the amounts in the index it never reads the rows.
DROP INDEX ledger_account;
CREATE INDEX ledger_account ON ledger (account, amount_msat);

-- The sum of each account, kept by whoever posts, so that nobody has to add up what was ever posted.
CREATE TABLE accounts (
    account TEXT PRIMARY KEY,
    balance_msat BIGINT NOT NULL
);

INSERT INTO accounts (account, balance_msat) SELECT account, SUM(amount_msat) FROM ledger GROUP BY account;

-- Mints that were given up. Their coins and operations stay as they are, in case a mint comes back; `amount_msat` is
-- what the posting took out of the books.
CREATE TABLE wallet_abandoned (
    mint TEXT PRIMARY KEY,
    posting_id TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    abandoned_at BIGINT NOT NULL
);
