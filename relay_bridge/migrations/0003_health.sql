-- How relays did so far: what they are chosen by.
CREATE TABLE relay_health (
    url TEXT NOT NULL PRIMARY KEY,
    kept BIGINT NOT NULL,           -- questions answered and events accepted
    broken BIGINT NOT NULL,         -- those that were not
    failures BIGINT NOT NULL,       -- connections that broke, and attempts
    refused BIGINT NOT NULL,        -- messages dropped: malformed, forged, never asked for
    reliability_ppm BIGINT NOT NULL,    -- millionths
    answer_us BIGINT,
    last_error TEXT NOT NULL,
    noted_at BIGINT NOT NULL
);
