UPDATE documents.document SET body = body || ' (corrected)' WHERE id % 50 = 11;
INSERT INTO documents.document (id, title, body) SELECT 20000 + n, 'New ' || n, repeat('new text ' || n || ' ', 30) FROM generate_series(1, 200) n;
DELETE FROM documents.revision WHERE revision = 3 AND document % 50 = 2;
