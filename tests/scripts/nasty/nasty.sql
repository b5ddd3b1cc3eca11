-- nasty.sql : a deliberately unpleasant PostgreSQL cluster content for backup/restore round-trip tests.
-- Original work of this project. Runs on PostgreSQL 10 to 18 with its contrib modules. What came with a later version is
-- guarded with \if; each such place says what it leaves out before 14 ("left out before 12: ..."). Run as a superuser with psql:
--     psql -X -v ON_ERROR_STOP=1 -d postgres -f nasty.sql
-- psql variables (all optional):
--     -v db=nasty      name of the main database          (two more are created: <db>_latin1, <db>_ascii)
--     -v evil=1        also create things that even pg_dump|psql cannot restore (see section EVIL; default 0)
--     -v rows=2000     size knob of the bulk tables
--     -v tsdir=/dir    real directory (owned by the server's user, empty) for the tablespace "nasty ts". Without it an
--                      in-place tablespace is made (15+; developer option: not covered by BASE_BACKUP of 15, and
--                      pg_dumpall 15 prints an unusable LOCATION 'pg_tblspc/NNN' for it)
--     -v lobig=30000000  logical size of the sparse large object (try 3000000000: pg_dump writes 6 GB of zeros for it)
-- The test extension nasty_ext (install-nasty-ext.sh, root) is used when it is available.
\set ON_ERROR_STOP on
\set QUIET on
\if :{?db} \else \set db nasty \endif
\if :{?evil} \else \set evil 0 \endif
\if :{?lobig} \else \set lobig 30000000 \endif
\if :{?rows} \else \set rows 2000 \endif
SELECT current_setting('server_version_num')::int >= 110000 AS pg11,
       current_setting('server_version_num')::int >= 120000 AS pg12,
       current_setting('server_version_num')::int >= 130000 AS pg13,
       current_setting('server_version_num')::int >= 140000 AS pg14,
       current_setting('server_version_num')::int >= 150000 AS pg15,
       current_setting('server_version_num')::int >= 160000 AS pg16,
       current_setting('server_version_num')::int >= 170000 AS pg17,
       current_setting('server_version_num')::int >= 180000 AS pg18 \gset
SET client_min_messages = warning;

-------------------------------------------------------------------------------------------------- roles, tablespaces
SELECT EXISTS (SELECT FROM pg_database WHERE datname = :'db') AS have_db \gset
\if :have_db
\connect :"db"
SET client_min_messages = error;
DROP SUBSCRIPTION IF EXISTS "Sub 1";
\connect postgres
SET client_min_messages = warning;
\endif
DROP DATABASE IF EXISTS :"db";
\set db_latin1 :db _latin1
\set db_ascii :db _ascii
DROP DATABASE IF EXISTS :"db_latin1";
DROP DATABASE IF EXISTS :"db_ascii";
DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['nasty_owner','nasty_reader','nasty_limited','Nasty Röle "q"'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
      EXECUTE format('CREATE ROLE %I', r);
    END IF;
  END LOOP;
END $$;
ALTER ROLE nasty_owner LOGIN CREATEDB CREATEROLE PASSWORD 'owner''s "pw" \ $$' CONNECTION LIMIT 50;
ALTER ROLE nasty_reader LOGIN VALID UNTIL '2099-01-01 00:00:00+00';
ALTER ROLE nasty_limited LOGIN NOINHERIT PASSWORD 'x';
ALTER ROLE nasty_reader SET statement_timeout = '1h';
ALTER ROLE nasty_reader SET search_path = '"$user"', 'we ird', public;
GRANT nasty_reader TO nasty_owner WITH ADMIN OPTION;
GRANT nasty_reader TO "Nasty Röle ""q""";
COMMENT ON ROLE nasty_owner IS 'owner''s comment with
newline and \ backslash';
SELECT NOT EXISTS (SELECT FROM pg_tablespace WHERE spcname = 'nasty ts') AS mkts \gset
\if :{?tsdir}
\if :mkts
CREATE TABLESPACE "nasty ts" OWNER nasty_owner LOCATION :'tsdir' WITH (random_page_cost = 1.5);
\set mkts 0
\endif
\endif
\if :pg15
\if :mkts
SET allow_in_place_tablespaces = on;          -- developer option, 15+: tablespace inside pg_tblspc
CREATE TABLESPACE "nasty ts" OWNER nasty_owner LOCATION '' WITH (random_page_cost = 1.5);
COMMENT ON TABLESPACE "nasty ts" IS 'in-place tablespace';
\endif
GRANT CREATE ON TABLESPACE "nasty ts" TO nasty_reader;
\endif

CREATE DATABASE :"db" OWNER nasty_owner TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8' CONNECTION LIMIT 77;
CREATE DATABASE :"db_latin1" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE :"db_ascii" TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';
COMMENT ON DATABASE :"db" IS 'nasty database; it''s "quoted"';
ALTER DATABASE :"db" SET work_mem = '7MB';
ALTER DATABASE :"db" SET search_path = '"$user"', public, 'We;ird.Schéma "Q"';
ALTER DATABASE :"db" SET "nasty.custom_guc" = 'va''lue with, comma and \ backslash';
ALTER DATABASE :"db" SET DateStyle = 'SQL, DMY';                 -- hostile output formats
ALTER DATABASE :"db" SET IntervalStyle = 'sql_standard';
ALTER DATABASE :"db" SET extra_float_digits = 0;
ALTER DATABASE :"db" SET bytea_output = 'escape';
ALTER DATABASE :"db" SET TimeZone = 'Australia/Lord_Howe';
ALTER DATABASE :"db" SET standard_conforming_strings = off;
ALTER DATABASE :"db" SET quote_all_identifiers = on;
ALTER DATABASE :"db" SET xmlbinary = 'hex';
ALTER DATABASE :"db" SET statement_timeout = '20min';
ALTER DATABASE :"db" SET idle_in_transaction_session_timeout = '20min';
ALTER DATABASE :"db" SET row_security = on;
ALTER ROLE nasty_reader IN DATABASE :"db" SET work_mem = '9MB';
GRANT CONNECT, TEMPORARY ON DATABASE :"db" TO nasty_reader WITH GRANT OPTION;
REVOKE TEMPORARY ON DATABASE :"db" FROM PUBLIC;

\connect :"db"
\set QUIET on
SET client_min_messages = warning;
SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET search_path = public; SET statement_timeout = 0;
SET client_encoding = 'UTF8'; SET lc_monetary = 'C'; SET bytea_output = 'hex';

-------------------------------------------------------------------------------------------------- schemas & extensions
CREATE SCHEMA nasty AUTHORIZATION nasty_owner;
CREATE SCHEMA "We;ird.Schéma ""Q""";
CREATE SCHEMA "select";
CREATE SCHEMA "we ird" AUTHORIZATION "Nasty Röle ""q""";
CREATE SCHEMA "空 schema";
COMMENT ON SCHEMA "空 schema" IS E'multi\nline -- comment; \\connect postgres';
ALTER SCHEMA public OWNER TO nasty_owner;
GRANT USAGE, CREATE ON SCHEMA public TO nasty_reader;
GRANT USAGE ON SCHEMA nasty TO nasty_reader WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE nasty_owner IN SCHEMA nasty GRANT SELECT ON TABLES TO nasty_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE nasty_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE nasty_owner GRANT USAGE ON TYPES TO nasty_reader;

CREATE SCHEMA ext;
CREATE EXTENSION hstore SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE EXTENSION btree_gist SCHEMA ext;
CREATE EXTENSION pg_trgm SCHEMA public;
CREATE EXTENSION ltree SCHEMA ext;
CREATE EXTENSION cube SCHEMA ext;
CREATE EXTENSION seg SCHEMA ext;
CREATE EXTENSION intarray SCHEMA ext;
CREATE EXTENSION isn SCHEMA ext;
CREATE EXTENSION bloom SCHEMA ext;
CREATE EXTENSION unaccent SCHEMA ext;
CREATE EXTENSION lo SCHEMA ext;
CREATE EXTENSION pgcrypto SCHEMA ext;
CREATE EXTENSION "uuid-ossp" SCHEMA ext;
CREATE EXTENSION postgres_fdw SCHEMA ext;
CREATE EXTENSION file_fdw SCHEMA ext;
COMMENT ON EXTENSION hstore IS 'changed comment';
ALTER EXTENSION hstore SET SCHEMA public;
CREATE FUNCTION public.member_fn() RETURNS int LANGUAGE sql AS 'SELECT 1';
-- user data on an extension member object: changed ACL (pg_init_privs delta)
REVOKE EXECUTE ON FUNCTION ext.gen_random_bytes(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ext.gen_random_bytes(int) TO nasty_reader;
SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'nasty_ext') AS have_ext \gset
\if :have_ext
CREATE EXTENSION nasty_ext;
INSERT INTO nasty_ext_schema.ext_settings(key, val) SELECT 'user.' || g, repeat('v', g) FROM generate_series(1, 20) g;
INSERT INTO nasty_ext_schema.ext_log VALUES ('2020-01-01', 'user.3'), ('infinity', 'user.4');
INSERT INTO nasty_ext_schema.ext_static VALUES (99, 'user row in a non-config extension table: NOT dumped by pg_dump');
GRANT SELECT ON nasty_ext_schema.ext_settings TO nasty_reader;
\endif

-------------------------------------------------------------------------------------------------- types
CREATE TYPE nasty.mood AS ENUM ('sad', 'ok', 'it''s "happy"', 'naïve,comma');
ALTER TYPE nasty.mood ADD VALUE 'between' BEFORE 'ok';
CREATE TYPE nasty.comp AS (a int, "B b" text, c numeric[], m nasty.mood);
CREATE TYPE nasty.comp2 AS (x nasty.comp, y nasty.comp[]);
CREATE DOMAIN nasty.posint AS int CHECK (VALUE > 0);
CREATE DOMAIN nasty.smallpos AS nasty.posint DEFAULT 7 NOT NULL CONSTRAINT lt100 CHECK (VALUE < 100);
\if :pg11
CREATE DOMAIN nasty.posarr AS nasty.posint[] CHECK (array_length(VALUE, 1) < 10);
CREATE DOMAIN nasty.compdom AS nasty.comp CHECK ((VALUE).a IS DISTINCT FROM -1);
\else
\echo 'left out before 11: domains over composite types and over arrays of domains'
CREATE DOMAIN nasty.posarr AS int[] CHECK (array_length(VALUE, 1) < 10);
\endif
ALTER DOMAIN nasty.posint ADD CONSTRAINT notvalid CHECK (VALUE <> 666) NOT VALID;
CREATE TYPE nasty.floatrange AS RANGE (subtype = float8, subtype_diff = float8mi
\if :pg14
  , multirange_type_name = nasty."float MR"
\endif
);
COMMENT ON TYPE nasty.mood IS 'enum comment';
COMMENT ON CONSTRAINT lt100 ON DOMAIN nasty.smallpos IS 'domain constraint comment';
-- user-defined base type without binary send/receive
CREATE TYPE nasty.mytext;
CREATE FUNCTION nasty.mytext_in(cstring) RETURNS nasty.mytext LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION nasty.mytext_out(nasty.mytext) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE nasty.mytext (INPUT = nasty.mytext_in, OUTPUT = nasty.mytext_out, INTERNALLENGTH = VARIABLE, STORAGE = extended, CATEGORY = 'U', DELIMITER = ';');
CREATE TYPE nasty.never_defined;                                  -- shell type
CREATE CAST (nasty.mytext AS text) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE CAST (text AS nasty.mytext) WITHOUT FUNCTION;
CREATE CAST (nasty.mood AS int) WITH INOUT;
CREATE COLLATION nasty."de-phone" (provider = icu, locale = 'de@collation=phonebook');
\if :pg12
CREATE COLLATION nasty.nondet (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
\else
\echo 'left out before 12: non-deterministic collations'
CREATE COLLATION nasty.nondet (provider = icu, locale = 'und-u-ks-level2');
\endif
CREATE COLLATION nasty.posixcoll FROM "POSIX";
COMMENT ON COLLATION nasty.nondet IS 'case-insensitive';

-------------------------------------------------------------------------------------------------- functions, operators, aggregates
SET check_function_bodies = off;
CREATE FUNCTION nasty.uses_later_table() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM nasty.zz_created_later';
SET check_function_bodies = on;
CREATE FUNCTION nasty.later_rowtype(r nasty.comp) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN RETURN r.a::text || coalesce(r."B b", ''); END $f$;
CREATE FUNCTION nasty.norm(t text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS 'SELECT lower(btrim(t))';
CREATE FUNCTION nasty.is_ok(t text, lim int DEFAULT 1000000) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN coalesce(length(t), 0) <= lim; END$$;
CREATE FUNCTION nasty.secdef("In Arg" int, OUT "Out" text, VARIADIC rest text[]) LANGUAGE plpgsql SECURITY DEFINER COST 7 LEAKPROOF
  SET search_path = nasty, 'we ird', "$user" SET work_mem = '3MB' AS $$BEGIN "Out" := "In Arg" || array_to_string(rest, E'\t'); END$$;
CREATE FUNCTION nasty."fn with $body$"() RETURNS text LANGUAGE sql AS $_$SELECT '$body$ $$ $_X$'::text$_$;
CREATE FUNCTION nasty.tab_fn(n int) RETURNS TABLE(i int, s text) LANGUAGE sql ROWS 17 AS 'SELECT g, g::text FROM generate_series(1, n) g';
\if :pg11
CREATE PROCEDURE nasty.proc(INOUT a int, b nasty.mood DEFAULT 'ok') LANGUAGE plpgsql AS $$BEGIN a := a + 1; COMMIT; END$$;
\else
\echo 'left out before 11: procedures'
\endif
CREATE FUNCTION nasty.sfunc(numeric, numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2 + coalesce($2, 0)';
CREATE AGGREGATE nasty.weird_sum(numeric) (SFUNC = nasty.sfunc, STYPE = numeric, INITCOND = '0', PARALLEL = SAFE);
CREATE AGGREGATE nasty.my_pct(float8 ORDER BY anyelement) (SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = percentile_disc_final, FINALFUNC_EXTRA);
CREATE FUNCTION nasty.mood_lt(nasty.mood, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1::text < $2';
CREATE OPERATOR nasty.<<<% (LEFTARG = nasty.mood, RIGHTARG = text, PROCEDURE = nasty.mood_lt);
COMMENT ON OPERATOR nasty.<<<% (nasty.mood, text) IS 'op comment';
CREATE FUNCTION nasty.revcmp(int, int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT CASE WHEN $1 > $2 THEN -1 WHEN $1 < $2 THEN 1 ELSE 0 END';
CREATE OPERATOR FAMILY nasty.revfam USING btree;
CREATE OPERATOR CLASS nasty.int4_rev FOR TYPE int USING btree FAMILY nasty.revfam AS
  OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <, FUNCTION 1 nasty.revcmp(int, int);
\if :pg12
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
\else
\echo 'left out before 12: table access methods'
\endif
CREATE CONVERSION nasty.myconv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
GRANT EXECUTE ON FUNCTION nasty.norm(text) TO nasty_reader WITH GRANT OPTION;
REVOKE EXECUTE ON FUNCTION nasty.secdef(int, text[]) FROM PUBLIC;
ALTER FUNCTION nasty.norm(text) OWNER TO nasty_owner;

-- text search
CREATE TEXT SEARCH DICTIONARY nasty.mysimple (TEMPLATE = simple, STOPWORDS = english, ACCEPT = false);
CREATE TEXT SEARCH CONFIGURATION nasty.mycfg (COPY = english);
ALTER TEXT SEARCH CONFIGURATION nasty.mycfg ALTER MAPPING FOR asciiword, word WITH nasty.mysimple, english_stem;
CREATE TEXT SEARCH PARSER nasty.myparser (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype, HEADLINE = prsd_headline);
CREATE TEXT SEARCH TEMPLATE nasty.mytmpl (LEXIZE = dsimple_lexize, INIT = dsimple_init);

-------------------------------------------------------------------------------------------------- scalar zoo
CREATE TABLE nasty.zoo (
  id int GENERATED ALWAYS AS IDENTITY (START WITH -5 INCREMENT BY 3 MINVALUE -100 MAXVALUE 100000 CACHE 7 CYCLE) PRIMARY KEY,
  f4 float4, f8 float8, n numeric, n2 numeric(30,5), i2 int2, i8 int8, b boolean, m money,
  t text, vc varchar(10), c char(10), nm name, ch "char", by bytea,
  d date, ts timestamp, tz timestamptz(3), ti time, tt timetz, iv interval, ivm interval year to month,
  bt bit(5), vb varbit, ip inet, cd cidr, ma macaddr, ma8 macaddr8, u uuid, lsn pg_lsn,
  js json, jb jsonb, x xml,
\if :pg12
  jp jsonpath,
\else
\echo 'left out before 12: jsonpath'
\endif
  tv tsvector, tq tsquery,
  pt point, ln line, ls lseg, bx box, pa path, po polygon, ci circle,
  ir int4range, nr numrange, tr tstzrange, fr nasty.floatrange,
  ia int[], ta text[], ma2 nasty.mood[], mo nasty.mood, co nasty.comp, co2 nasty.comp2, coa nasty.comp[],
\if :pg11
  cdm nasty.compdom,
\endif
  pi nasty.posint, pa2 nasty.posarr, my nasty.mytext, mya nasty.mytext[],
  hs hstore, ct ext.citext, lt ext.ltree, cu ext.cube, sg ext.seg, isb ext.isbn13,
  rc regclass, rp regproc, rpr regprocedure, rt regtype, ro regrole, rn regnamespace, rcfg regconfig, rop regoperator,
\if :pg13
  xid8v xid8, snap pg_snapshot,
\else
\echo 'left out before 13: xid8, pg_snapshot'
  snap txid_snapshot,
\endif
  xidv xid, iv2 int2vector, ov oidvector, tidv tid
);
\if :pg14
ALTER TABLE nasty.zoo ADD mr int4multirange, ADD fmr nasty."float MR";
\endif
\set longest '178000000 years -11 mons +2147483647 days -2562047788:00:54.775807'
\if :pg15
\else
\echo 'left out before 15: hours of intervals beyond 32 bits'
\set longest '178000000 years -11 mons +2147483647 days -2147483647:00:54.775807'
\endif
INSERT INTO nasty.zoo (f4, f8, n, n2, i2, i8, b, m, t, vc, c, nm, ch, by, d, ts, tz, ti, tt, iv, ivm) VALUES
 ('NaN','NaN','NaN',NULL,-32768,-9223372036854775808,true,'-92233720368547758.08','','', '', '', '', '', '4713-01-01 BC','4713-01-01 00:00:00 BC','4713-01-02 00:00:00+00 BC','00:00','00:00-15:59:59','-178000000 years','-178956970 years -8 mons'),
 ('Infinity','Infinity','1e-1000','12345678901234567890.12345',32767,9223372036854775807,false,'92233720368547758.07',E'\\.','\N','\\N     ','\.',  'a', '\x00ff5c0a0d09'::bytea,'5874897-12-31','294276-12-31 23:59:59.999999','294276-12-31 23:59:59.999+00','24:00:00','24:00:00+15:59:59',:'longest','178956970 years 7 mons'),
 ('-Infinity','-Infinity',repeat('9',400)::numeric,0,0,0,NULL,'0',E'\\N','a''b"c','x',repeat('n',63),'b', decode(repeat('00',1000),'hex'),'infinity','infinity','infinity','23:59:59.999999','23:59:59.999999+00','-1 year 2 days -03:04:05.678901','0'),
 ('-0','-0','-0.00000','-0.00001',1,1,true,'-0.01',E'tab\there\nnewline\rCR\bBS\fFF\x0bVT\\backslash\x7fDEL','é','é',E'n\\ame', ' ', E'\\\\'::bytea,'-infinity','-infinity','-infinity',NULL,NULL,'0','1 mon'),
 ('1.17549435e-38','4.9406564584124654e-324','1e1000',1,1,1,true,'1',E'\u0001\u00e9\u4e2d\U0001F600\u202e\ufeff\uffff',NULL,NULL,NULL,'c',NULL,'0001-01-01','0001-01-01 00:00:00 BC','1900-01-01 00:00:00+10:04:52','12:00','12:00+05:45','1 microsecond','-1 mon'),
 ('3.4028235e38','1.7976931348623157e308','0.1',1,1,1,true,'1',repeat(E'\\',7) || E'\n',NULL,NULL,NULL,'d',NULL,'2024-02-29','2016-12-31 23:59:60','2024-03-31 01:59:59.999+00','12:00','12:00-00:00:01','-00:00:00.000001','1 year'),
 ('0.1','0.1','0',1,1,1,true,'1','$$; DROP TABLE x; --',NULL,NULL,NULL,'e',NULL,'1582-10-15','1969-12-31 23:59:59.999999','1970-01-01 00:00:00+00','12:00:00.1','00:00+00','1 day -24:00:00','0'),
 ('1e-45','123456789.123456789',123456789.123456789,1,1,1,true,'1','  lead and trail  ','trail   ','trail',NULL,'f',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
UPDATE nasty.zoo SET
  bt = B'10101', vb = B'', ip = '::ffff:1.2.3.4/100', cd = '10.0.0.0/8', ma = '08:00:2b:01:02:03', ma8 = '08:00:2b:01:02:03:04:05',
  u = '00000000-0000-0000-0000-00000000000f', lsn = 'FFFFFFFF/FFFFFFFF',
  js = E' {"a" : 1.0, "a":2, "\\u0000x": "\\ud83d\\ude00", "t":"tab\\t"}  ', jb = '{"b":[1e400,-0.0,null,{"":""}],"a":"\u00e9\\"}',
\if :pg12
  jp = '$.a[*] ? (@.b > 1 && @ like_regex "^\\d+" flag "i")',
\endif
  x = '<?xml version="1.0"?><!-- c --><r a="&lt;&#10;">t<![CDATA[ ]]></r>', tv = $$'a''b':1A,2B 'c\d':3 'e f':16383$$::tsvector, tq = $$'a b' & !('c' | 'd':*AB) <3> 'e'$$::tsquery,
  pt = '(-0,NaN)', ln = '{1,-1,0.1}', ls = '[(0,0),(1,1e-300)]', bx = '(1,1),(0,0)', pa = '[(0,0),(1,1),(2,0)]', po = '((0,0),(1,1),(2,0))', ci = '<(0,0),Infinity>',
  ir = 'empty', nr = '(,1.50]', tr = '[-infinity,infinity)', fr = '[-Infinity,NaN]',
  ia = '[-1:1][5:6]={{1,NULL},{3,4},{5,6}}', ta = ARRAY['', NULL, 'NULL', 'a"b', 'c\d', 'e,f', '{g}', E'h\ni', ' j '], ma2 = ARRAY['sad','it''s "happy"']::nasty.mood[], mo = 'naïve,comma',
  co = ROW(1, E'q"uo\\te,)(\n', ARRAY[1.10, NULL, 'NaN'], 'between')::nasty.comp, co2 = ROW(ROW(1, NULL, NULL, NULL), ARRAY[ROW(2,'',ARRAY[]::numeric[],'ok')::nasty.comp, NULL])::nasty.comp2,
  coa = ARRAY[ROW(NULL,NULL,NULL,NULL)::nasty.comp, NULL],
\if :pg11
  cdm = ROW(9,'x',NULL,NULL)::nasty.comp,
\endif
  pi = 5, pa2 = ARRAY[1,2]::nasty.posarr, my = E'my;te\\xt', mya = ARRAY['a;b','c,d']::nasty.mytext[],
  hs = 'a=>1, "b c"=>NULL, ""=>"\"q\\"', ct = 'CiText', lt = 'Top.Child_1.x', cu = '(1,2,NaN),(3,4,5)', sg = '1.50 .. ~3e2', isb = '978-0-393-04002-9',
  rc = 'nasty.zoo', rp = 'nasty.norm', rpr = 'nasty.is_ok(text,int)', rt = 'nasty.comp[]', ro = 'nasty_owner', rn = '"We;ird.Schéma ""Q"""', rcfg = 'nasty.mycfg', rop = 'nasty.<<<%(nasty.mood,text)',
\if :pg13
  xid8v = '18446744073709551615',
\endif
  xidv = '4294967295', snap = '10:20:10,14,15', iv2 = '1 2 -3', ov = '1 2 4294967295', tidv = '(4294967295,65535)'
WHERE t = E'\\.';
\if :pg14
UPDATE nasty.zoo SET n = 'Infinity', mr = '{[1,3),[5,9)}', fmr = '{}' WHERE t = '$$; DROP TABLE x; --';
\endif
CREATE TABLE nasty.acl_t (a aclitem, b aclitem[]);         -- type without binary I/O
INSERT INTO nasty.acl_t SELECT a, ARRAY[a] FROM (SELECT unnest(relacl) a FROM pg_class WHERE relname = 'pg_class') s;
CREATE TABLE nasty.oidish (o oid, od oid[], rc regclass[], rt regtype);
INSERT INTO nasty.oidish VALUES ('nasty.zoo'::regclass::oid, ARRAY[1,2]::oid[], ARRAY['nasty.zoo','pg_class']::regclass[], 'nasty.mood'::regtype);

-------------------------------------------------------------------------------------------------- odd names
CREATE TABLE "We;ird.Schéma ""Q"""."Ta""b'le\ ; -- $1 %s 表" ("Col umn" int, "select" text, "c,omma" text, "quo""te" text, "back\slash" text, "ünï" text, "x.y" int, "new
line" text, "UPPER" text, "trailing " text, "ctid2" text, "$1" text);
INSERT INTO "We;ird.Schéma ""Q"""."Ta""b'le\ ; -- $1 %s 表" SELECT g, 's' || g, 'c', 'q', E'\\', 'ü', g, E'n\nl', 'U', 't ', 'c', '$' FROM generate_series(1, 50) g;
CREATE TABLE "select"."table" ("from" int PRIMARY KEY, "where" text DEFAULT E'it''s \\ "x"', "group" int REFERENCES "select"."table"("from") DEFERRABLE INITIALLY DEFERRED);
INSERT INTO "select"."table" SELECT g, 'w' || g, 51 - g FROM generate_series(1, 50) g;
CREATE TABLE "we ird"."ABC" (a int); CREATE TABLE "we ird"."abc" (a int); CREATE TABLE "we ird"."Abc" (a int);
INSERT INTO "we ird"."ABC" VALUES (1); INSERT INTO "we ird"."abc" VALUES (2); INSERT INTO "we ird"."Abc" VALUES (3);
CREATE TABLE "空 schema"."émoji 😀 ⁣x" (id bigint, v text);
INSERT INTO "空 schema"."émoji 😀 ⁣x" VALUES (1, '😀');
CREATE TABLE nasty."multi
line name" (a int); INSERT INTO nasty."multi
line name" VALUES (1);
CREATE TABLE nasty."ééééééééééééééééééééééééééééééé1" (a int);  -- 63 bytes
INSERT INTO nasty."ééééééééééééééééééééééééééééééé1" VALUES (63);
COMMENT ON TABLE nasty."multi
line name" IS E'comment\n\\! touch /tmp/pwned\n\\q\n-- x';
COMMENT ON COLUMN "select"."table"."from" IS 'col''s comment';

-------------------------------------------------------------------------------------------------- odd shapes
CREATE TABLE nasty.zero_cols ();
INSERT INTO nasty.zero_cols SELECT FROM generate_series(1, 7);
CREATE TABLE nasty.all_dropped (a int, b text);
INSERT INTO nasty.all_dropped SELECT g, g::text FROM generate_series(1, 5) g;
ALTER TABLE nasty.all_dropped DROP COLUMN a, DROP COLUMN b;
CREATE TABLE nasty.zero_rows (a int, b text, c bytea);
CREATE TABLE nasty.single_text (t text);     -- the "\." and blank-line traps of the text format
INSERT INTO nasty.single_text VALUES (E'\\.'), (''), (NULL), ('\N'), (E'\\\\.'), ('.'), (E'\n'), (E'\\.\n'), (' ');
CREATE TABLE nasty.dropped_cols (d1 int, a int NOT NULL, d2 text, b text DEFAULT 'dflt', d3 numeric, c date);
INSERT INTO nasty.dropped_cols SELECT g, g, 'x' || g, 'b' || g, g, date '2020-01-01' + g FROM generate_series(1, 100) g;
ALTER TABLE nasty.dropped_cols DROP COLUMN d1; ALTER TABLE nasty.dropped_cols DROP COLUMN d2; ALTER TABLE nasty.dropped_cols DROP COLUMN d3;
ALTER TABLE nasty.dropped_cols ADD COLUMN fast_default int NOT NULL DEFAULT 42;       -- atthasmissing
ALTER TABLE nasty.dropped_cols ADD COLUMN fd2 text DEFAULT 'missing''val';
\if :pg12
CREATE TABLE nasty.only_generated (a int GENERATED ALWAYS AS (1 + 1) STORED);
INSERT INTO nasty.only_generated SELECT FROM generate_series(1, 3);
CREATE TABLE nasty.gen (id int GENERATED BY DEFAULT AS IDENTITY, g1 text GENERATED ALWAYS AS (nasty.norm(src)) STORED, src text, "G 2" int GENERATED ALWAYS AS (length(src) * 2) STORED, tail text COLLATE nasty."de-phone");
\else
\echo 'left out before 12: generated columns'
CREATE TABLE nasty.gen (id int GENERATED BY DEFAULT AS IDENTITY, src text, tail text COLLATE nasty."de-phone");
\endif
INSERT INTO nasty.gen(src, tail) SELECT '  SRC ' || g, 'tail' || g FROM generate_series(1, 100) g;
\if :pg18
CREATE TABLE nasty.gen_virtual (a int, v int GENERATED ALWAYS AS (a * 2) VIRTUAL, b text, CONSTRAINT nn NOT NULL a NO INHERIT);
INSERT INTO nasty.gen_virtual(a, b) SELECT g, g::text FROM generate_series(1, 10) g;
CREATE TABLE nasty.nn_notvalid (a int, b int); INSERT INTO nasty.nn_notvalid VALUES (NULL, 1);
ALTER TABLE nasty.nn_notvalid ADD CONSTRAINT nn_nv NOT NULL a NOT VALID;
CREATE TABLE nasty.temporal (id int, valid daterange, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
INSERT INTO nasty.temporal VALUES (1, '[2020-01-01,2021-01-01)'), (1, '[2021-01-01,2022-01-01)');
CREATE TABLE nasty.temporal_fk (id int, valid daterange, FOREIGN KEY (id, PERIOD valid) REFERENCES nasty.temporal (id, PERIOD valid));
CREATE TABLE nasty.notenf (a int CONSTRAINT ne CHECK (a > 0) NOT ENFORCED); INSERT INTO nasty.notenf VALUES (-1);
\endif
CREATE TABLE nasty.wide AS SELECT 1 AS c0;
DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('ALTER TABLE nasty.wide ADD COLUMN %I text DEFAULT %L', 'c_' || i, repeat('w', i % 40)); END LOOP; END $$;
INSERT INTO nasty.wide(c0) SELECT g FROM generate_series(2, 30) g;
CREATE TABLE nasty.rowtyped OF nasty.comp (a WITH OPTIONS NOT NULL, PRIMARY KEY (a));
INSERT INTO nasty.rowtyped VALUES (1, 'typed', NULL, 'ok');
CREATE TABLE nasty.uses_rowtype (r nasty.dropped_cols, ra nasty.dropped_cols[]);      -- row type of a table with dropped columns
INSERT INTO nasty.uses_rowtype SELECT d, ARRAY[d, NULL] FROM nasty.dropped_cols d WHERE a < 5;
CREATE TABLE nasty.zz_created_later (a int); INSERT INTO nasty.zz_created_later VALUES (1), (2);
CREATE UNLOGGED TABLE nasty.unlogged_t (id serial PRIMARY KEY, v text); INSERT INTO nasty.unlogged_t(v) SELECT 'u' || g FROM generate_series(1, 20) g;
CREATE TABLE nasty.opts (a int, b text, c text) WITH (fillfactor = 55, autovacuum_enabled = false, toast.autovacuum_vacuum_threshold = 77, parallel_workers = 3);
ALTER TABLE nasty.opts ALTER b SET STORAGE EXTERNAL, ALTER c SET STORAGE MAIN, ALTER a SET STATISTICS 321, ALTER a SET (n_distinct = -0.5);
SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) AS lz4 \gset
\if :lz4
ALTER TABLE nasty.opts ALTER c SET COMPRESSION lz4;
\else
\echo 'left out, not in this server: compression by lz4'
\endif
INSERT INTO nasty.opts SELECT g, repeat('external' || g, 2000), repeat('main', g) FROM generate_series(1, 30) g;
CREATE TABLE nasty.toasted (id int PRIMARY KEY, z text, e bytea, j jsonb);
ALTER TABLE nasty.toasted ALTER e SET STORAGE EXTERNAL;
INSERT INTO nasty.toasted SELECT g, repeat(md5(g::text), 10 + g * 40), decode(repeat(md5(g::text), 300 * g), 'hex'), jsonb_build_object('k', repeat(md5(g::text), 100), 'n', g) FROM generate_series(1, 40) g;
INSERT INTO nasty.toasted VALUES (1000, repeat('x', 20000000), decode(repeat('00', 5000000), 'hex'), '[]');
\if :pg15
CREATE TABLE nasty.in_ts (a int PRIMARY KEY USING INDEX TABLESPACE "nasty ts", b text) TABLESPACE "nasty ts"; INSERT INTO nasty.in_ts VALUES (1, 'ts');
\endif
\if :pg12
CREATE TABLE nasty.heap2_t (a int, b text) USING heap2; INSERT INTO nasty.heap2_t VALUES (1, 'am');
\endif
CREATE TABLE nasty.owned_by_other (a int); ALTER TABLE nasty.owned_by_other OWNER TO "Nasty Röle ""q""";
INSERT INTO nasty.owned_by_other VALUES (5);
CREATE TABLE nasty.bulk (id bigint PRIMARY KEY, grp int, v text, payload bytea, ts timestamptz, CONSTRAINT chk_fn CHECK (nasty.is_ok(v)), CONSTRAINT nv CHECK (grp < 900) NOT VALID);
INSERT INTO nasty.bulk SELECT g, g % 97, md5(g::text), decode(md5((g * 7)::text), 'hex'), '2020-01-01Z'::timestamptz + g * interval '1 minute' FROM generate_series(1, :rows) g;
UPDATE nasty.bulk SET v = v || '!' WHERE id % 3 = 0; DELETE FROM nasty.bulk WHERE id % 11 = 0;

-------------------------------------------------------------------------------------------------- inheritance & partitioning
CREATE TABLE nasty.par (a int DEFAULT 1, b text, CONSTRAINT noinh CHECK (a > -10) NO INHERIT, CONSTRAINT inh CHECK (b <> 'zz'));
CREATE TABLE nasty.par2 (c date, b text);
CREATE TABLE nasty.kid (z int, a int DEFAULT 2, b text COLLATE "C" ) ;
CREATE TABLE nasty.kid1 (d int) INHERITS (nasty.par, nasty.par2);
CREATE TABLE nasty.kid2 (a int DEFAULT 99, extra text) INHERITS (nasty.par);
CREATE TABLE nasty.grandkid (a int DEFAULT 77) INHERITS (nasty.kid1, nasty.kid2);
INSERT INTO nasty.par VALUES (1, 'par'); INSERT INTO nasty.kid1 VALUES (2, 'kid1', '2020-01-01', 3);
INSERT INTO nasty.kid2 VALUES (-50, 'kid2', 'e'); INSERT INTO nasty.grandkid(a, b, c, d, extra) VALUES (4, 'gk', NULL, 5, 'ge');
ALTER TABLE nasty.par DROP COLUMN a;     -- remains local in kid2
CREATE TABLE nasty.late_inherit (x int, b text); ALTER TABLE nasty.late_inherit ADD CONSTRAINT inh CHECK (b <> 'zz'); ALTER TABLE nasty.late_inherit INHERIT nasty.par;
INSERT INTO nasty.late_inherit VALUES (1, 'li');

CREATE TABLE nasty.pr (id bigint NOT NULL, at date NOT NULL, region text, amount numeric
\if :pg12
  , g int GENERATED ALWAYS AS (id % 10) STORED
\endif
\if :pg11
  , PRIMARY KEY (id, at, region)
\endif
) PARTITION BY RANGE (at);
CREATE TABLE nasty.pr_2020 PARTITION OF nasty.pr FOR VALUES FROM (MINVALUE) TO ('2021-01-01') PARTITION BY LIST (region);
CREATE TABLE nasty.pr_2020_eu PARTITION OF nasty.pr_2020 FOR VALUES IN ('de', 'fr', 'it''s');
\if :pg11
CREATE TABLE nasty.pr_2020_dflt PARTITION OF nasty.pr_2020 DEFAULT PARTITION BY HASH (id);
CREATE TABLE nasty.pr_2020_h0 PARTITION OF nasty.pr_2020_dflt FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE nasty.pr_2020_h1 PARTITION OF nasty.pr_2020_dflt FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE nasty."pr 2020 h2" PARTITION OF nasty.pr_2020_dflt FOR VALUES WITH (MODULUS 3, REMAINDER 2);
\else
\echo 'left out before 11: hash and default partitions; keys, indexes and triggers of partitioned tables'
CREATE TABLE nasty.pr_2020_dflt PARTITION OF nasty.pr_2020 FOR VALUES IN ('us', 'jp');
\endif
-- attached partition with other column order + a dropped column
CREATE TABLE nasty.pr_2021 (junk int, amount numeric, region text NOT NULL, at date NOT NULL,
\if :pg12
  g int GENERATED ALWAYS AS (id % 10) STORED,
\endif
  id bigint NOT NULL);
ALTER TABLE nasty.pr_2021 DROP COLUMN junk;
ALTER TABLE nasty.pr ATTACH PARTITION nasty.pr_2021 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
\if :pg11
CREATE TABLE nasty.pr_default PARTITION OF nasty.pr DEFAULT;
\else
CREATE TABLE nasty.pr_default PARTITION OF nasty.pr FOR VALUES FROM ('2022-01-01') TO ('2030-01-01');
\endif
CREATE TABLE nasty.pr_empty PARTITION OF nasty.pr FOR VALUES FROM ('2030-01-01') TO (MAXVALUE);
INSERT INTO nasty.pr(id, at, region, amount) SELECT g, date '2019-06-01' + (g % 1200)::int, (ARRAY['de','fr','us','it''s','jp'])[g % 5 + 1], g / 7.0 FROM generate_series(1, :rows) g;
\if :pg11
-- hash partitioned by enum: pg_dump (>= 15.3) loads this via the partition root; direct leaf load violates partition constraints
CREATE TABLE nasty.ph_enum (m nasty.mood, v int) PARTITION BY HASH (m);
CREATE TABLE nasty.ph_enum_0 PARTITION OF nasty.ph_enum FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE nasty.ph_enum_1 PARTITION OF nasty.ph_enum FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE nasty.ph_enum_2 PARTITION OF nasty.ph_enum FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE nasty.ph_enum_3 PARTITION OF nasty.ph_enum FOR VALUES WITH (MODULUS 4, REMAINDER 3);
INSERT INTO nasty.ph_enum SELECT e, g FROM unnest(enum_range(NULL::nasty.mood)) e, generate_series(1, 20) g;
CREATE TABLE nasty.ph_text (t text COLLATE nasty.nondet, v int) PARTITION BY HASH (t);
CREATE TABLE nasty.ph_text_0 PARTITION OF nasty.ph_text FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE nasty.ph_text_1 PARTITION OF nasty.ph_text FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO nasty.ph_text SELECT 't' || g, g FROM generate_series(1, 50) g;
\endif
CREATE TABLE nasty.pl (k nasty.mood, v text DEFAULT 'root') PARTITION BY LIST (k);
CREATE TABLE nasty.pl_sad PARTITION OF nasty.pl (v DEFAULT 'leaf') FOR VALUES IN ('sad', NULL);
CREATE UNLOGGED TABLE nasty.pl_happy PARTITION OF nasty.pl FOR VALUES IN ('it''s "happy"', 'ok');
INSERT INTO nasty.pl VALUES ('sad', 'a'), (NULL, 'b'), ('ok', 'c');
CREATE TABLE nasty.pexpr (a int, b text) PARTITION BY RANGE ((a % 10), lower(b) COLLATE "C");
CREATE TABLE nasty.pexpr1 PARTITION OF nasty.pexpr FOR VALUES FROM (0, MINVALUE) TO (5, 'm');
\if :pg11
CREATE TABLE nasty.pexpr2 PARTITION OF nasty.pexpr DEFAULT;
\else
CREATE TABLE nasty.pexpr2 PARTITION OF nasty.pexpr FOR VALUES FROM (5, 'm') TO (MAXVALUE, MAXVALUE);
\endif
INSERT INTO nasty.pexpr SELECT g, 'B' || g FROM generate_series(1, 40) g;
CREATE TABLE nasty.p_noparts (a int) PARTITION BY RANGE (a);            -- partitioned without any partition
\if :pg11
CREATE INDEX pr_amt ON nasty.pr (amount) INCLUDE (region);
CREATE INDEX pr_only ON ONLY nasty.pr (region);                       -- invalid parent index
ALTER INDEX nasty.pr_2021_amount_region_idx RENAME TO "renamed idx";
\endif

-------------------------------------------------------------------------------------------------- keys, constraints, indexes, statistics
CREATE TABLE nasty.ca (id int PRIMARY KEY, b_id int); CREATE TABLE nasty.cb (id int PRIMARY KEY, a_id int NOT NULL);
INSERT INTO nasty.ca SELECT g, g FROM generate_series(1, 20) g; INSERT INTO nasty.cb SELECT g, 21 - g FROM generate_series(1, 20) g;
ALTER TABLE nasty.ca ADD CONSTRAINT ca_cb FOREIGN KEY (b_id) REFERENCES nasty.cb(id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE nasty.cb ADD CONSTRAINT cb_ca FOREIGN KEY (a_id) REFERENCES nasty.ca(id) ON DELETE CASCADE ON UPDATE SET NULL;
\if :pg12
CREATE TABLE nasty.fk_to_part (id bigint, at date, region text, FOREIGN KEY (id, at, region) REFERENCES nasty.pr MATCH FULL);
\else
\echo 'left out before 12: foreign keys to partitioned tables'
CREATE TABLE nasty.fk_to_part (id bigint, at date, region text);
\endif
INSERT INTO nasty.fk_to_part SELECT id, at, region FROM nasty.pr WHERE id < 20;
CREATE TABLE nasty.fk_nv (a int); INSERT INTO nasty.fk_nv VALUES (12345);
ALTER TABLE nasty.fk_nv ADD CONSTRAINT fk_nv FOREIGN KEY (a) REFERENCES nasty.ca(id) NOT VALID;         -- violated, legal
CREATE TABLE nasty.excl (room int, during tsrange, EXCLUDE USING gist (room WITH =, during WITH &&) WHERE (room > 0) DEFERRABLE);
INSERT INTO nasty.excl SELECT g, tsrange('2020-01-01'::timestamp + g * interval '1 h', '2020-01-01'::timestamp + (g + 1) * interval '1 h') FROM generate_series(1, 30) g;
CREATE TABLE nasty.uq (a int, b text, c text, d text, UNIQUE (a, b) DEFERRABLE INITIALLY DEFERRED);
\if :pg11
ALTER TABLE nasty.uq ADD CONSTRAINT "uq inc" UNIQUE (c) INCLUDE (d);
\else
\echo 'left out before 11: INCLUDE, statistics of index columns'
ALTER TABLE nasty.uq ADD CONSTRAINT "uq inc" UNIQUE (c);
\endif
INSERT INTO nasty.uq SELECT g, g::text, 'c' || g, 'd' FROM generate_series(1, 30) g;
\if :pg15
ALTER TABLE nasty.uq ADD CONSTRAINT nnd UNIQUE NULLS NOT DISTINCT (d, c);
\endif
CREATE INDEX uq_partial ON nasty.uq USING btree (lower(b) COLLATE nasty."de-phone" text_pattern_ops DESC NULLS LAST) WITH (fillfactor = 70) WHERE (a > 5);
CREATE INDEX uq_fn ON nasty.uq (nasty.norm(c), (a + 1) nasty.int4_rev);
\if :pg11
ALTER INDEX nasty.uq_fn ALTER COLUMN 2 SET STATISTICS 500;
\endif
CREATE INDEX uq_trgm ON nasty.uq USING gin (c gin_trgm_ops); CREATE INDEX uq_bloom ON nasty.uq USING bloom (a, c) WITH (length = 80, col1 = 2);
CREATE INDEX bulk_brin ON nasty.bulk USING brin (ts) WITH (pages_per_range = 4, autosummarize = on); CREATE INDEX bulk_hash ON nasty.bulk USING hash (v);
CREATE INDEX zoo_gin ON nasty.zoo USING gin (jb jsonb_path_ops);
\if :pg13
CREATE INDEX zoo_gist ON nasty.zoo USING gist (tv tsvector_ops (siglen = 100));
\else
\echo 'left out before 13: options of operator classes'
CREATE INDEX zoo_gist ON nasty.zoo USING gist (tv);
\endif
CREATE INDEX zoo_spg ON nasty.zoo USING spgist (ip inet_ops);
ALTER TABLE nasty.ca CLUSTER ON ca_pkey; ALTER TABLE nasty.ca REPLICA IDENTITY USING INDEX ca_pkey; ALTER TABLE nasty.cb REPLICA IDENTITY FULL;
COMMENT ON INDEX nasty.uq_fn IS 'idx'; COMMENT ON CONSTRAINT cb_ca ON nasty.cb IS 'fk';
\if :pg12
CREATE STATISTICS nasty.st1 (dependencies, mcv) ON a, b FROM nasty.uq;
\else
\echo 'left out before 12: statistics of most common values'
CREATE STATISTICS nasty.st1 (dependencies, ndistinct) ON a, b FROM nasty.uq;
\endif
\if :pg13
ALTER STATISTICS nasty.st1 SET STATISTICS 50;
\else
\echo 'left out before 13: targets of extended statistics'
\endif
\if :pg14
CREATE STATISTICS nasty."st expr" ON (lower(c)), (a % 3) FROM nasty.uq; COMMENT ON STATISTICS nasty."st expr" IS 'expr stats';
\endif

-------------------------------------------------------------------------------------------------- sequences
CREATE SEQUENCE nasty.sq_virgin;                                                       -- is_called = false
CREATE SEQUENCE nasty.sq_neg AS smallint INCREMENT -3 MINVALUE -300 MAXVALUE -1 START -7 CACHE 4 CYCLE; SELECT nextval('nasty.sq_neg') \g /dev/null
CREATE SEQUENCE nasty."Seq Max" MINVALUE -9223372036854775808 MAXVALUE 9223372036854775807 START 9223372036854775807; SELECT nextval('nasty."Seq Max"') \g /dev/null
CREATE SEQUENCE nasty.sq_set; SELECT setval('nasty.sq_set', 4711, false) \g /dev/null
CREATE TABLE nasty.sq_user (a int DEFAULT nextval('nasty.sq_set'), b bigserial); INSERT INTO nasty.sq_user DEFAULT VALUES; ALTER SEQUENCE nasty.sq_set OWNED BY nasty.sq_user.a;
GRANT USAGE ON SEQUENCE nasty.sq_set TO nasty_reader; COMMENT ON SEQUENCE nasty.sq_neg IS 'neg';
\if :pg15
CREATE UNLOGGED SEQUENCE nasty.sq_unlogged START 5;
\endif

-------------------------------------------------------------------------------------------------- views, matviews, rules, triggers, RLS
CREATE VIEW nasty.v1 WITH (security_barrier) AS SELECT id, v FROM nasty.bulk WHERE grp < 50 WITH LOCAL CHECK OPTION;
CREATE VIEW nasty.v_pkdep AS SELECT id, grp, v, count(*) AS c FROM nasty.bulk GROUP BY id;   -- depends on the PK: dummy view in pre-data, real one in post-data
CREATE VIEW nasty.v_on_pkdep AS SELECT * FROM nasty.v_pkdep WHERE c = 1;
CREATE RECURSIVE VIEW nasty.v_rec (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM v_rec WHERE n < 5;
CREATE TABLE nasty.circ_v (a int); CREATE VIEW nasty.circ_1 AS SELECT a FROM nasty.circ_v;
CREATE MATERIALIZED VIEW nasty.mv1 AS SELECT grp, count(*) c, min(ts) mt FROM nasty.bulk GROUP BY grp;
CREATE UNIQUE INDEX mv1_u ON nasty.mv1 (grp);
CREATE MATERIALIZED VIEW nasty."A mv on mv" AS SELECT c, count(*) n FROM nasty.mv1 GROUP BY c;     -- sorts before mv1
CREATE MATERIALIZED VIEW nasty.mv3 WITH (fillfactor = 80) AS SELECT a.n, b.c FROM nasty."A mv on mv" a JOIN nasty.mv1 b USING (c);
CREATE MATERIALIZED VIEW nasty.mv_unpop AS SELECT 1 AS one WITH NO DATA;
CREATE MATERIALIZED VIEW nasty.mv_pk AS SELECT id, v, count(*) c FROM nasty.bulk GROUP BY id;   -- postponed to post-data
CREATE VIEW nasty.v_on_mv AS SELECT * FROM nasty.mv_pk;
CREATE MATERIALIZED VIEW nasty.mv_stale AS SELECT max(a) m FROM nasty.zz_created_later; INSERT INTO nasty.zz_created_later VALUES (3);   -- data != a fresh REFRESH
GRANT SELECT ON nasty.mv1 TO nasty_reader; COMMENT ON MATERIALIZED VIEW nasty.mv1 IS 'mv';
ALTER MATERIALIZED VIEW nasty.mv3 OWNER TO nasty_owner;
GRANT SELECT ON nasty."A mv on mv", nasty.mv1 TO nasty_owner; GRANT SELECT ON nasty.bulk TO nasty_owner;
\if :pg15
CREATE VIEW nasty.v_inv WITH (security_invoker = true) AS TABLE nasty.ca;
\endif
CREATE TABLE nasty.log (at timestamptz DEFAULT now(), what text); 
CREATE RULE bulk_log AS ON INSERT TO nasty.ca DO ALSO INSERT INTO nasty.log(what) VALUES ('rule fired');
CREATE RULE "v1 upd" AS ON UPDATE TO nasty.v1 WHERE OLD.id > 5 DO INSTEAD NOTHING; COMMENT ON RULE "v1 upd" ON nasty.v1 IS 'rule';
CREATE RULE cb_off AS ON DELETE TO nasty.cb DO INSTEAD NOTHING; ALTER TABLE nasty.cb DISABLE RULE cb_off;
CREATE FUNCTION nasty.trg() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO nasty.log(what) VALUES ('trigger ' || TG_NAME || ' fired'); IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END$$;
CREATE TRIGGER t_bi BEFORE INSERT OR UPDATE OF b_id ON nasty.ca FOR EACH ROW WHEN (NEW.id > 0) EXECUTE PROCEDURE nasty.trg('arg\ with ''quote', E'nul\\000byte');
CREATE TRIGGER "T stmt" AFTER INSERT ON nasty.bulk REFERENCING NEW TABLE AS newtab FOR EACH STATEMENT EXECUTE PROCEDURE nasty.trg();
CREATE CONSTRAINT TRIGGER t_con AFTER INSERT ON nasty.zoo FROM nasty.ca DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE PROCEDURE nasty.trg();
CREATE TRIGGER t_always AFTER INSERT ON nasty.cb FOR EACH ROW EXECUTE PROCEDURE nasty.trg(); ALTER TABLE nasty.cb ENABLE ALWAYS TRIGGER t_always;
CREATE TRIGGER t_repl AFTER INSERT ON nasty.uq FOR EACH ROW EXECUTE PROCEDURE nasty.trg(); ALTER TABLE nasty.uq ENABLE REPLICA TRIGGER t_repl;
CREATE TRIGGER t_dis BEFORE DELETE ON nasty.gen FOR EACH ROW EXECUTE PROCEDURE nasty.trg(); ALTER TABLE nasty.gen DISABLE TRIGGER t_dis;
\if :pg11
CREATE TRIGGER t_part AFTER INSERT ON nasty.pr FOR EACH ROW EXECUTE PROCEDURE nasty.trg(); ALTER TABLE nasty.pr_2021 DISABLE TRIGGER t_part;
\endif
CREATE TRIGGER t_view INSTEAD OF INSERT ON nasty.v_pkdep FOR EACH ROW EXECUTE PROCEDURE nasty.trg();
COMMENT ON TRIGGER t_bi ON nasty.ca IS 'trg';
CREATE FUNCTION nasty.evt() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE DEBUG 'ddl %', tg_tag; IF current_setting('nasty.block_ddl', true) = 'on' THEN RAISE EXCEPTION 'ddl blocked'; END IF; END$$;
CREATE EVENT TRIGGER nasty_evt ON ddl_command_start WHEN TAG IN ('DROP TABLE', 'CREATE TABLE') EXECUTE PROCEDURE nasty.evt();
CREATE EVENT TRIGGER "Nasty evt off" ON ddl_command_end EXECUTE PROCEDURE nasty.evt(); ALTER EVENT TRIGGER "Nasty evt off" DISABLE; COMMENT ON EVENT TRIGGER nasty_evt IS 'evt';
CREATE TABLE nasty.rls (owner text, secret text); INSERT INTO nasty.rls VALUES ('postgres', 's1'), ('nasty_owner', 's2'), ('nobody', 's3');
ALTER TABLE nasty.rls OWNER TO nasty_owner; ALTER TABLE nasty.rls ENABLE ROW LEVEL SECURITY; ALTER TABLE nasty.rls FORCE ROW LEVEL SECURITY;
CREATE POLICY p_sel ON nasty.rls FOR SELECT TO nasty_reader, nasty_owner USING (owner = current_user);
CREATE POLICY "p restr" ON nasty.rls AS RESTRICTIVE FOR ALL USING (true) WITH CHECK (secret <> 'x'); COMMENT ON POLICY p_sel ON nasty.rls IS 'pol';
GRANT SELECT (owner), UPDATE (secret) ON nasty.rls TO nasty_limited; GRANT ALL ON nasty.bulk TO nasty_reader WITH GRANT OPTION;
SET ROLE nasty_reader; GRANT SELECT ON nasty.bulk TO nasty_limited; RESET ROLE;                           -- grantor chain
REVOKE ALL ON nasty.ca FROM postgres;                                                                       -- owner without privileges
-- SQL-standard function body (14+): parsed dependencies, incl. on a primary key (postponed to post-data)
\if :pg14
CREATE FUNCTION nasty.atomic_fn() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM nasty.mv1; END;
CREATE FUNCTION nasty.atomic_pk() RETURNS TABLE(i bigint, vv text) LANGUAGE sql BEGIN ATOMIC SELECT id, v FROM nasty.bulk GROUP BY id; END;
CREATE VIEW nasty.v_atomic AS SELECT * FROM nasty.atomic_pk();
\endif

-------------------------------------------------------------------------------------------------- foreign data, publications, subscriptions
CREATE SERVER "loop back" TYPE 't' VERSION '1.0' FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nonexistent', dbname 'x''y', fetch_size '77');
CREATE USER MAPPING FOR nasty_owner SERVER "loop back" OPTIONS (user 'u', password 'p''w"'); CREATE USER MAPPING FOR PUBLIC SERVER "loop back" OPTIONS (user 'pub');
CREATE FOREIGN TABLE nasty.ft (id int OPTIONS (column_name 'ID x'), v text NOT NULL) SERVER "loop back" OPTIONS (schema_name 's', table_name 't');
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE nasty.ft_file (l text) SERVER files OPTIONS (filename '/etc/hostname');
CREATE TABLE nasty.pmix (a int) PARTITION BY RANGE (a); CREATE TABLE nasty.pmix_local PARTITION OF nasty.pmix FOR VALUES FROM (0) TO (10);
CREATE FOREIGN TABLE nasty.pmix_foreign PARTITION OF nasty.pmix FOR VALUES FROM (10) TO (20) SERVER "loop back"; INSERT INTO nasty.pmix VALUES (1), (2);
GRANT USAGE ON FOREIGN SERVER "loop back" TO nasty_reader; COMMENT ON FOREIGN TABLE nasty.ft IS 'ft';
SET client_min_messages = error;
CREATE PUBLICATION "pub all" FOR ALL TABLES WITH (publish = 'insert');
\if :pg13
CREATE PUBLICATION pub_root FOR TABLE nasty.pr, nasty.ca WITH (publish_via_partition_root = true);
\else
\echo 'left out before 13: publications of partitioned tables'
CREATE PUBLICATION pub_root FOR TABLE nasty.ca;
\endif
\if :pg15
CREATE PUBLICATION pub_filter FOR TABLE nasty.bulk (id, v, grp) WHERE (id > 5);
CREATE PUBLICATION pub_schema FOR TABLES IN SCHEMA "select", nasty;
\endif
COMMENT ON PUBLICATION pub_root IS 'pub';
CREATE SUBSCRIPTION "Sub 1" CONNECTION 'host=/nonexistent dbname=x' PUBLICATION "pub all", pub_root WITH (connect = false, slot_name = NONE, enabled = false);
COMMENT ON SUBSCRIPTION "Sub 1" IS 'sub';
SET client_min_messages = warning;

-------------------------------------------------------------------------------------------------- large objects
SELECT lo_create(424242), lo_create(424243), lo_create(424244) \g /dev/null
SELECT lo_put(424242, 0, decode(repeat('deadbeef00', 20000), 'hex')) \g /dev/null
SELECT lo_put(424243, :lobig, '\x0102') \g /dev/null
COMMENT ON LARGE OBJECT 424242 IS 'lo''s comment'; ALTER LARGE OBJECT 424242 OWNER TO nasty_owner;
GRANT SELECT ON LARGE OBJECT 424242 TO nasty_reader WITH GRANT OPTION; REVOKE ALL ON LARGE OBJECT 424244 FROM CURRENT_USER;
SELECT lo_create(g) FROM generate_series(500001, 500120) g \g /dev/null
SELECT lo_put(g::oid, (g % 5) * 2048 + g % 7, convert_to(repeat('lo ' || g, (g % 400)::int), 'UTF8')) FROM generate_series(500001, 500120) g \g /dev/null
CREATE TABLE nasty.lo_ref (id int, l ext.lo); INSERT INTO nasty.lo_ref VALUES (1, 424242);
CREATE TRIGGER t_lo BEFORE UPDATE OR DELETE ON nasty.lo_ref FOR EACH ROW EXECUTE PROCEDURE ext.lo_manage(l);

-------------------------------------------------------------------------------------------------- EVIL: beyond plain pg_dump
\if :evil
CREATE SCHEMA evil;
-- E1 a CHECK that looks into another table: data load order matters (and it is unenforceable anyway)
CREATE TABLE evil.zz_lookup (k int PRIMARY KEY); INSERT INTO evil.zz_lookup SELECT generate_series(1, 100);
CREATE FUNCTION evil.exists_in_lookup(i int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM evil.zz_lookup WHERE k = i)';
CREATE TABLE evil.aa_checked (i int CHECK (evil.exists_in_lookup(i))); INSERT INTO evil.aa_checked SELECT generate_series(1, 100);
-- E2 functions that rely on search_path: break under pg_dump's search_path = ''
SET search_path = evil, public; SET check_function_bodies = off;
CREATE FUNCTION evil.unq(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT helper(i)'; CREATE FUNCTION evil.helper(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i + 1';
CREATE TABLE evil.unq_gen (a int, b int GENERATED ALWAYS AS (evil.unq(a)) STORED); INSERT INTO evil.unq_gen VALUES (1), (2); CREATE INDEX unq_idx ON evil.unq_gen (evil.unq(a));
RESET search_path;
-- E3 data violating a validated constraint (constraint function changed afterwards)
CREATE FUNCTION evil.lim() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 100'; CREATE FUNCTION evil.under(i int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN i < evil.lim(); END';
CREATE TABLE evil.violates (i int CHECK (evil.under(i))); INSERT INTO evil.violates VALUES (50); CREATE OR REPLACE FUNCTION evil.lim() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 10';
-- E4 a "char" with the high bit set: its text form is not valid UTF-8 before PG 16
CREATE TABLE evil.hichar (c "char"); INSERT INTO evil.hichar SELECT (-56)::int::"char";
-- E5 an event trigger that blocks DDL on the restored side until it is created last; matview whose query fails
CREATE TABLE evil.divisor (d int); INSERT INTO evil.divisor VALUES (1); CREATE MATERIALIZED VIEW evil.mv_fails AS SELECT 1 / d AS q FROM evil.divisor; UPDATE evil.divisor SET d = 0;
-- E6 security label of a provider that is not loaded
INSERT INTO pg_seclabel (objoid, classoid, objsubid, provider, label) VALUES ('evil.divisor'::regclass, 'pg_class'::regclass, 0, 'dummy', 'secret');
-- E8 a language whose handler functions belong to another extension: dumped without its HANDLER, restore fails
CREATE LANGUAGE pllang2 HANDLER plpgsql_call_handler INLINE plpgsql_inline_handler VALIDATOR plpgsql_validator;
-- E7 table with a value too large for text COPY (bytea >= 512 MiB): only with -v evil=2, see big.sql
\endif

-------------------------------------------------------------------------------------------------- other encodings
\connect :"db_latin1"
\set QUIET on
SET client_encoding = 'UTF8'; SET client_min_messages = warning;
CREATE TABLE "täble" (id int PRIMARY KEY, "cölumn" text); INSERT INTO "täble" VALUES (1, 'ÄÖÜ ß ÿ'), (2, 'é'), (3, NULL);
COMMENT ON TABLE "täble" IS 'kömment'; CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$SELECT 'é'::text$$;
CREATE TYPE "ënum" AS ENUM ('ä', 'ö'); CREATE TABLE e (e "ënum"); INSERT INTO e VALUES ('ä');
\connect :"db_ascii"
\set QUIET on
SET client_min_messages = warning; SET client_encoding = 'SQL_ASCII';
CREATE TABLE mixed (id int PRIMARY KEY, v text);
INSERT INTO mixed VALUES (1, 'plain'), (2, E'\xe9 latin1'), (3, E'\xc3\xa9 utf8'), (4, E'\xff\xfe\x80 garbage'), (5, E'\\.');
CREATE TABLE "n\me" ("c'ol" text DEFAULT E'\xe4'); INSERT INTO "n\me" DEFAULT VALUES;
\unset QUIET
