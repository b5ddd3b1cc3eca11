CREATE TABLE usage_log (
    at timestamptz NOT NULL,
    license text NOT NULL,
    user_id integer NOT NULL,
    seconds real,
    granted boolean,
    address inet
) PARTITION BY RANGE (at);
CREATE TABLE usage_log_2026_09 PARTITION OF usage_log FOR VALUES FROM ('2026-09-01Z') TO ('2026-10-01Z');
CREATE TABLE usage_log_2026_10 PARTITION OF usage_log FOR VALUES FROM ('2026-10-01Z') TO ('2026-11-01Z');
CREATE TABLE usage_log_2026_11 PARTITION OF usage_log FOR VALUES FROM ('2026-11-01Z') TO ('2026-12-01Z');
INSERT INTO usage_log
SELECT timestamptz '2026-09-01 00:00:00Z' + n * interval '40 seconds', (ARRAY['professional', 'analyzer', 'capacity'])[n % 3 + 1],
       n * 7919 % 2000, n % 3600 / 7.0, n % 11 > 0, ('10.' || n % 250 || '.' || n % 199 || '.1')::inet
FROM generate_series(1, 150000) n;
CREATE INDEX ON usage_log (user_id);
CREATE SEQUENCE license_number START 100000 INCREMENT 7;
SELECT nextval('license_number') FROM generate_series(1, 50);
CREATE TABLE assignment (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    license bigint NOT NULL DEFAULT nextval('license_number'),
    holder text NOT NULL
);
INSERT INTO assignment (holder) SELECT 'user' || n FROM generate_series(1, 3000) n;
