-- old.sql: nasty.sql for servers from 9.4 to 9.6, smaller: what they can hold and what is dumped by other statements than on 10 and later.
-- Makes the databases nasty, nasty_latin1 and nasty_ascii; run it as nasty.sql.
\set ON_ERROR_STOP on
\set QUIET on
\if :{?db} \else \set db nasty \endif
\set db_latin1 :db _latin1
\set db_ascii :db _ascii
SET client_min_messages = warning;
\echo 'left out before 10: partitions, identity columns, publications, subscriptions, ICU, extended statistics and all that came later'
DROP DATABASE IF EXISTS :"db";
DROP DATABASE IF EXISTS :"db_latin1";
DROP DATABASE IF EXISTS :"db_ascii";
DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['nasty_owner', 'nasty_reader', 'Nasty Röle "q"'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN EXECUTE format('CREATE ROLE %I', r); END IF;
  END LOOP;
END $$;
GRANT nasty_reader TO nasty_owner WITH ADMIN OPTION;
CREATE DATABASE :"db" OWNER nasty_owner TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8' CONNECTION LIMIT 77;
CREATE DATABASE :"db_latin1" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE :"db_ascii" TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';
COMMENT ON DATABASE :"db" IS 'nasty database; it''s "quoted"';
ALTER DATABASE :"db" SET work_mem = '7MB';
ALTER DATABASE :"db" SET DateStyle = 'SQL, DMY';
ALTER DATABASE :"db" SET IntervalStyle = 'sql_standard';
ALTER DATABASE :"db" SET extra_float_digits = 0;
ALTER DATABASE :"db" SET bytea_output = 'escape';
ALTER DATABASE :"db" SET TimeZone = 'Australia/Lord_Howe';
ALTER DATABASE :"db" SET standard_conforming_strings = off;
ALTER ROLE nasty_reader IN DATABASE :"db" SET work_mem = '9MB';
GRANT CONNECT, TEMPORARY ON DATABASE :"db" TO nasty_reader WITH GRANT OPTION;
REVOKE TEMPORARY ON DATABASE :"db" FROM PUBLIC;

\connect :"db"
SET client_min_messages = warning;
SET standard_conforming_strings = on; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET bytea_output = 'hex';
CREATE SCHEMA nasty AUTHORIZATION nasty_owner;
CREATE SCHEMA "We;ird.Schéma ""Q""";
GRANT USAGE ON SCHEMA nasty TO nasty_reader WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE nasty_owner IN SCHEMA nasty GRANT SELECT ON TABLES TO nasty_reader;
CREATE SCHEMA ext;
CREATE EXTENSION hstore SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE EXTENSION lo SCHEMA ext;
CREATE EXTENSION postgres_fdw SCHEMA ext;
SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'nasty_ext') AS have_ext \gset
\if :have_ext
CREATE EXTENSION nasty_ext;
INSERT INTO nasty_ext_schema.ext_settings(key, val) SELECT 'user.' || g, repeat('v', g) FROM generate_series(1, 20) g;
INSERT INTO nasty_ext_schema.ext_log VALUES ('2020-01-01', 'user.3'), ('infinity', 'user.4');
\endif
CREATE TYPE nasty.mood AS ENUM ('sad', 'ok', 'it''s "happy"', 'naïve,comma');
ALTER TYPE nasty.mood ADD VALUE 'between' BEFORE 'ok';
CREATE TYPE nasty.comp AS (a int, "B b" text, c numeric[], m nasty.mood);
CREATE DOMAIN nasty.posint AS int CHECK (VALUE > 0);
CREATE TYPE nasty.floatrange AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE FUNCTION nasty.is_ok(t text, lim int DEFAULT 1000000) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN coalesce(length(t), 0) <= lim; END$$;
CREATE FUNCTION nasty."fn with $body$"() RETURNS text LANGUAGE sql AS $_$SELECT '$body$ $$ $_X$'::text$_$;
CREATE AGGREGATE nasty.total(numeric) (SFUNC = numeric_add, STYPE = numeric, INITCOND = '0');
CREATE TABLE nasty.zoo (id serial PRIMARY KEY, f4 float4, f8 float8, n numeric, m money, t text, by bytea, ts timestamp, tz timestamptz, iv interval,
  bt bit(5), ip inet, u uuid, lsn pg_lsn, js json, jb jsonb, x xml, tv tsvector, pt point, pa path, ir int4range, fr nasty.floatrange, ia int[], mo nasty.mood,
  co nasty.comp, pi nasty.posint, hs ext.hstore, ct ext.citext, rc regclass, ov oidvector, snap txid_snapshot);
INSERT INTO nasty.zoo (f4, f8, n, m, t, by, ts, tz, iv) VALUES
 ('NaN', 'NaN', 'NaN', '-92233720368547758.07', '', '', '4713-01-01 00:00:00 BC', 'infinity', '178000000 years'),
 ('Infinity', '-0', '1e-1000', '92233720368547758.07', E'\\.', '\x00ff5c0a0d09', '294276-12-31 23:59:59.999999', '-infinity', '-1 year 2 days -03:04:05.678901'),
 ('0.1', '0.1', repeat('9', 400)::numeric, '1', E'tab\there\nnewline\rCR\\backslash\x7fDEL', decode(repeat('00', 1000), 'hex'), 'infinity', '1900-01-01 00:00:00+10:04:52', '0'),
 ('3.4028235e38', '4.9406564584124654e-324', '0.1', '0', E'\u0001é中😀', NULL, NULL, NULL, NULL);
UPDATE nasty.zoo SET bt = B'10101', ip = '::ffff:1.2.3.4/100', u = '00000000-0000-0000-0000-00000000000f', lsn = 'FFFFFFFF/FFFFFFFF', js = E' {"a" : 1.0, "a":2}  ',
  jb = '{"b":[1e400,null,{"":""}]}', x = '<r a="&lt;&#10;">t<![CDATA[ ]]></r>', tv = $$'a''b':1A,2B 'c\d':3$$, pt = '(-0,NaN)', pa = '[(0,0),(1,1)]', ir = 'empty', fr = '[-Infinity,NaN]',
  ia = '[-1:1][5:6]={{1,NULL},{3,4},{5,6}}', mo = 'naïve,comma', co = ROW(1, E'q"uo\\te,)(\n', ARRAY[1.10, NULL, 'NaN'], 'between')::nasty.comp, pi = 5,
  hs = 'a=>1, "b c"=>NULL', ct = 'CiText', rc = 'nasty.zoo', ov = '1 2 4294967295', snap = '10:20:10,14,15'
WHERE t = E'\\.';
CREATE TABLE "We;ird.Schéma ""Q"""."Ta""b'le\ ; -- $1 %s 表" ("Col umn" int, "select" text, "new
line" text DEFAULT E'it''s \\ "x"');
INSERT INTO "We;ird.Schéma ""Q"""."Ta""b'le\ ; -- $1 %s 表" SELECT g, 's' || g, E'n\nl' FROM generate_series(1, 50) g;
CREATE TABLE nasty.zero_cols (); INSERT INTO nasty.zero_cols SELECT FROM generate_series(1, 7);
CREATE TABLE nasty.with_oids (a int) WITH OIDS; INSERT INTO nasty.with_oids SELECT generate_series(1, 10);
CREATE TABLE nasty.dropped_cols (d1 int, a int NOT NULL, d2 text, b text DEFAULT 'dflt');
INSERT INTO nasty.dropped_cols SELECT g, g, 'x', 'b' || g FROM generate_series(1, 100) g; ALTER TABLE nasty.dropped_cols DROP COLUMN d1, DROP COLUMN d2;
CREATE TABLE nasty.bulk (id bigint PRIMARY KEY, grp int, v text, payload bytea, ts timestamptz, CONSTRAINT chk CHECK (nasty.is_ok(v)), CONSTRAINT nv CHECK (grp < 900) NOT VALID);
INSERT INTO nasty.bulk SELECT g, g % 97, md5(g::text), decode(md5((g * 7)::text), 'hex'), '2020-01-01Z'::timestamptz + g * interval '1 minute' FROM generate_series(1, 2000) g;
CREATE TABLE nasty.toasted (id int PRIMARY KEY, z text, e bytea); INSERT INTO nasty.toasted SELECT g, repeat(md5(g::text), 10 + g * 40), decode(repeat(md5(g::text), 300 * g), 'hex') FROM generate_series(1, 40) g;
CREATE UNLOGGED TABLE nasty.unlogged_t (id serial, v text); INSERT INTO nasty.unlogged_t(v) VALUES ('u');
CREATE TABLE nasty.par (a int DEFAULT 1, b text, CONSTRAINT inh CHECK (b <> 'zz')); CREATE TABLE nasty.kid (z int) INHERITS (nasty.par);
INSERT INTO nasty.par VALUES (1, 'par'); INSERT INTO nasty.kid VALUES (2, 'kid', 3);
CREATE TABLE nasty.ca (id int PRIMARY KEY, b_id int); CREATE TABLE nasty.cb (id int PRIMARY KEY, a_id int NOT NULL);
INSERT INTO nasty.ca SELECT g, g FROM generate_series(1, 20) g; INSERT INTO nasty.cb SELECT g, 21 - g FROM generate_series(1, 20) g;
ALTER TABLE nasty.ca ADD FOREIGN KEY (b_id) REFERENCES nasty.cb(id) DEFERRABLE INITIALLY DEFERRED; ALTER TABLE nasty.cb ADD FOREIGN KEY (a_id) REFERENCES nasty.ca(id);
CREATE TABLE nasty.excl (room int, during tsrange, EXCLUDE USING gist (during WITH &&));
CREATE INDEX bulk_part ON nasty.bulk (lower(v) text_pattern_ops) WITH (fillfactor = 70) WHERE (id > 5); CREATE INDEX zoo_gin ON nasty.zoo USING gin (jb jsonb_path_ops);
CREATE SEQUENCE nasty.sq_neg INCREMENT -3 MINVALUE -300 MAXVALUE -1 START -7 CACHE 4 CYCLE; SELECT nextval('nasty.sq_neg') \g /dev/null
CREATE SEQUENCE nasty.sq_set; SELECT setval('nasty.sq_set', 4711, false) \g /dev/null
CREATE VIEW nasty.v1 WITH (security_barrier) AS SELECT id, v FROM nasty.bulk WHERE grp < 50 WITH LOCAL CHECK OPTION;
CREATE VIEW nasty.v_pkdep AS SELECT id, grp, v, count(*) AS c FROM nasty.bulk GROUP BY id;
CREATE MATERIALIZED VIEW nasty.mv1 AS SELECT grp, count(*) c FROM nasty.bulk GROUP BY grp; CREATE UNIQUE INDEX mv1_u ON nasty.mv1 (grp);
CREATE MATERIALIZED VIEW nasty."A mv on mv" AS SELECT c, count(*) n FROM nasty.mv1 GROUP BY c; CREATE MATERIALIZED VIEW nasty.mv_unpop AS SELECT 1 AS one WITH NO DATA;
CREATE TABLE nasty.log (at timestamptz DEFAULT now(), what text); CREATE RULE bulk_log AS ON INSERT TO nasty.ca DO ALSO INSERT INTO nasty.log(what) VALUES ('rule fired');
CREATE FUNCTION nasty.trg() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO nasty.log(what) VALUES (TG_NAME); RETURN NEW; END$$;
CREATE TRIGGER t_bi BEFORE INSERT OR UPDATE OF b_id ON nasty.ca FOR EACH ROW WHEN (NEW.id > 0) EXECUTE PROCEDURE nasty.trg('arg\ with ''quote');
CREATE TRIGGER t_always AFTER INSERT ON nasty.cb FOR EACH ROW EXECUTE PROCEDURE nasty.trg(); ALTER TABLE nasty.cb ENABLE ALWAYS TRIGGER t_always;
CREATE FUNCTION nasty.evt() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE DEBUG 'ddl'; END$$; CREATE EVENT TRIGGER nasty_evt ON ddl_command_start EXECUTE PROCEDURE nasty.evt();
SELECT current_setting('server_version_num')::int >= 90500 AS rls \gset
\if :rls
CREATE TABLE nasty.rls (owner text, secret text); INSERT INTO nasty.rls VALUES ('postgres', 's1'), ('nobody', 's3');
ALTER TABLE nasty.rls OWNER TO nasty_owner; ALTER TABLE nasty.rls ENABLE ROW LEVEL SECURITY; ALTER TABLE nasty.rls FORCE ROW LEVEL SECURITY;
CREATE POLICY p_sel ON nasty.rls FOR SELECT TO nasty_reader USING (owner = current_user);
\endif
GRANT ALL ON nasty.bulk TO nasty_reader WITH GRANT OPTION; GRANT SELECT (id), UPDATE (b_id) ON nasty.ca TO nasty_reader; REVOKE ALL ON nasty.cb FROM postgres;
CREATE SERVER "loop back" TYPE 't' VERSION '1.0' FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nonexistent', dbname 'x''y');
CREATE USER MAPPING FOR nasty_owner SERVER "loop back" OPTIONS (user 'u', password 'p''w"'); CREATE FOREIGN TABLE nasty.ft (id int OPTIONS (column_name 'ID x'), v text NOT NULL) SERVER "loop back";
SELECT lo_create(424242), lo_create(424244) \g /dev/null
SELECT lo_put(424242, 5000000, decode(repeat('deadbeef00', 20000), 'hex')) \g /dev/null
COMMENT ON LARGE OBJECT 424242 IS 'lo''s comment'; ALTER LARGE OBJECT 424242 OWNER TO nasty_owner; GRANT SELECT ON LARGE OBJECT 424242 TO nasty_reader WITH GRANT OPTION;
CREATE TABLE nasty.lo_ref (id int, l ext.lo); INSERT INTO nasty.lo_ref VALUES (1, 424242);
COMMENT ON TABLE nasty.bulk IS E'comment\n\\! touch /tmp/pwned\n\\q\n-- x'; COMMENT ON COLUMN nasty.bulk.id IS 'col''s comment';

\connect :"db_latin1"
SET client_encoding = 'UTF8'; SET client_min_messages = warning;
CREATE TABLE "täble" (id int PRIMARY KEY, "cölumn" text); INSERT INTO "täble" VALUES (1, 'ÄÖÜ ß ÿ'), (2, 'é'), (3, NULL);
COMMENT ON TABLE "täble" IS 'kömment'; CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$SELECT 'é'::text$$;
\connect :"db_ascii"
SET client_min_messages = warning; SET client_encoding = 'SQL_ASCII';
CREATE TABLE mixed (id int PRIMARY KEY, v text);
INSERT INTO mixed VALUES (1, 'plain'), (2, E'\xe9 latin1'), (3, E'\xc3\xa9 utf8'), (4, E'\xff\xfe\x80 garbage'), (5, E'\\.');
