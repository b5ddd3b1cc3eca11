SELECT setseed(0.11);
CREATE TYPE app_state AS ENUM ('draft', 'published', 'retired');
CREATE TABLE "Users" (
    "ID" uuid PRIMARY KEY,
    "UserId" text NOT NULL UNIQUE,
    "Name" text,
    "Created" timestamptz NOT NULL
);
CREATE TABLE "Apps" (
    "ID" uuid PRIMARY KEY,
    "Name" text NOT NULL,
    "Owner_ID" uuid NOT NULL REFERENCES "Users" ON DELETE CASCADE,
    "State" app_state NOT NULL DEFAULT 'draft',
    "FileSize" bigint CHECK ("FileSize" >= 0),
    "Modified" timestamptz NOT NULL,
    "Thumbnail" bytea
);
CREATE TABLE "AppObjects" (
    "ID" bigserial PRIMARY KEY,
    "App_ID" uuid NOT NULL REFERENCES "Apps" ON DELETE CASCADE,
    "ObjectType" text NOT NULL,
    "Content" text NOT NULL,
    "Attributes" jsonb NOT NULL
);
CREATE TABLE "CustomProperties" ("ID" serial PRIMARY KEY, "Name" text NOT NULL, "Values" text[]);
CREATE TABLE "Empty" ("ID" integer PRIMARY KEY, "Nothing" text);

INSERT INTO "Users"
SELECT md5('user' || n)::uuid, 'DOMAIN\user' || n, CASE WHEN n % 7 > 0 THEN 'Name ' || n END,
       timestamptz '2020-01-01 00:00:00Z' + n * interval '1 hour'
FROM generate_series(1, 2000) n;
INSERT INTO "Apps"
SELECT md5('app' || n)::uuid, 'App ' || n, md5('user' || n % 2000 + 1)::uuid,
       (ARRAY['draft', 'published', 'retired']::app_state[])[n % 3 + 1], (random() * 1e9)::bigint,
       timestamptz '2024-01-01 00:00:00Z' + n * interval '1 minute', decode(repeat(md5('thumbnail' || n), 20), 'hex')
FROM generate_series(1, 1000) n;
INSERT INTO "AppObjects" ("App_ID", "ObjectType", "Content", "Attributes")
SELECT md5('app' || n % 1000 + 1)::uuid, (ARRAY['sheet', 'chart', 'table', 'measure'])[n % 4 + 1],
       (SELECT string_agg((ARRAY['select', 'sum', 'of', 'sales', 'by', 'region', 'and', 'year', 'where', 'filter', 'is', 'set'])[((n::bigint * w * 7919 + w) % 12)::int + 1], ' ')
        FROM generate_series(1, 20) w) || ' ' || md5(n::text),
       jsonb_build_object('order', n % 100, 'published', n % 3 = 0, 'tags', jsonb_build_array('tag' || n % 17, 'tag' || n % 5))
FROM generate_series(1, 40000) n;
INSERT INTO "CustomProperties" ("Name", "Values") VALUES
    ('Department', ARRAY['Sales', 'Finance', NULL, 'a, "quoted" one', E'tab\there']), ('Empty', '{}'), (E'line\nbreak', NULL);

CREATE INDEX "IX_AppObjects_Type" ON "AppObjects" ("ObjectType") WHERE "ObjectType" <> 'table';
CREATE INDEX ON "AppObjects" USING gin ("Attributes");
CREATE VIEW "PublishedApps" AS SELECT a."Name", u."UserId" FROM "Apps" a JOIN "Users" u ON u."ID" = a."Owner_ID" WHERE "State" = 'published';
CREATE MATERIALIZED VIEW "ObjectsPerApp" AS SELECT "App_ID", count(*) AS objects FROM "AppObjects" GROUP BY 1;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW."Modified" = now(); RETURN NEW; END $$;
CREATE TRIGGER "TR_Apps" BEFORE UPDATE ON "Apps" FOR EACH ROW EXECUTE PROCEDURE touch();
COMMENT ON TABLE "Apps" IS 'what users made';
SELECT lo_from_bytea(50001, decode(repeat(md5('first large object'), 40000), 'hex'));
SELECT lo_from_bytea(50002, 'a short one'::bytea);
ALTER LARGE OBJECT 50001 OWNER TO qliksenserepository;
ALTER TABLE "Apps" OWNER TO qliksenserepository;
GRANT SELECT ON "Users", "Apps" TO reporting;
