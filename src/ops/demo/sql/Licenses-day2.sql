INSERT INTO usage_log
SELECT timestamptz '2026-11-10 00:00:00Z' + n * interval '25 seconds', 'analyzer', n % 2000, n % 60, true, '10.1.2.3'
FROM generate_series(1, 3000) n;
UPDATE assignment SET holder = holder || ' (moved)' WHERE id % 50 = 0;
DELETE FROM assignment WHERE id % 200 = 1;
