-- What became of a letter by which our owner, in another process, told us to do something: `refused` is empty if it
-- was done.
CREATE TABLE wishes (
    id TEXT PRIMARY KEY,
    refused TEXT NOT NULL,
    answered_at BIGINT NOT NULL
);
