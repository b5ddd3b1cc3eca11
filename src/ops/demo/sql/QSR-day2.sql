UPDATE "AppObjects" SET "Content" = "Content" || ' changed' WHERE "ID" % 50 = 7;
INSERT INTO "AppObjects" ("App_ID", "ObjectType", "Content", "Attributes")
SELECT md5('app' || n)::uuid, 'sheet', 'a new sheet ' || md5('day 2' || n), '{"order": 1}' FROM generate_series(1, 600) n;
DELETE FROM "AppObjects" WHERE "ID" % 97 = 3;
UPDATE "Apps" SET "Name" = "Name" || ' (new)' WHERE "ID" < '05000000-0000-0000-0000-000000000000';
SELECT lo_put(50001, 300000, 'changed in the middle'::bytea);
