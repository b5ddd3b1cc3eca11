CREATE SCHEMA documents;
CREATE TABLE documents.document (
    id integer PRIMARY KEY,
    title varchar(200) NOT NULL,
    body text NOT NULL,
    language char(2) NOT NULL DEFAULT 'en',
    words tsvector,
    checksum numeric(40, 3)
);
CREATE TABLE documents.revision (
    document integer NOT NULL REFERENCES documents.document DEFERRABLE INITIALLY DEFERRED,
    revision smallint NOT NULL,
    at timestamp NOT NULL,
    took interval,
    weight double precision,
    PRIMARY KEY (document, revision)
);
INSERT INTO documents.document (id, title, body, words, checksum)
SELECT n, 'Document ' || n, body, to_tsvector('simple', left(body, 200)), n * 12345678901234567.125
FROM (SELECT n, (SELECT string_agg((ARRAY['report', 'of', 'the', 'quarter', 'with', 'figures', 'that', 'rise', 'or', 'fall', 'in', 'every', 'region'])[((n::bigint * w * 104729 + w) % 13)::int + 1], ' ')
                 FROM generate_series(1, 120) w) || ' ' || md5('body' || n) AS body
      FROM generate_series(1, 8000) n) made;
INSERT INTO documents.revision
SELECT n, r, timestamp '2025-01-01' + n * interval '7 minutes' + r * interval '1 day', r * interval '3 hours 2 seconds', CASE n % 500 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE n / 3.0 END
FROM generate_series(1, 8000) n, generate_series(1, 3) r;
SET CONSTRAINTS ALL IMMEDIATE;
CREATE INDEX ON documents.document USING gin (words);
CREATE INDEX revision_at ON documents.revision (at DESC, document);
