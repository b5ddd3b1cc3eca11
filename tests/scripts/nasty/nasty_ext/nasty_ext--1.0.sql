\echo Use "CREATE EXTENSION nasty_ext" to load this file. \quit
-- two configuration tables (one filtered) + a serial sequence + a plain (non-config) member table
CREATE TABLE ext_settings (
    id     serial PRIMARY KEY,
    key    text NOT NULL UNIQUE,
    val    text,
    builtin boolean NOT NULL DEFAULT false
);
DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int >= 120000 THEN
        EXECUTE 'ALTER TABLE ext_settings ADD keylen int GENERATED ALWAYS AS (length(key)) STORED';
    END IF;
END
$$;
INSERT INTO ext_settings(key, val, builtin) VALUES ('builtin.a', '1', true), ('builtin.b', '2', true);
SELECT pg_catalog.pg_extension_config_dump('ext_settings', 'WHERE NOT builtin');
SELECT pg_catalog.pg_extension_config_dump('ext_settings_id_seq', '');
CREATE TABLE ext_log (at timestamptz, msg text REFERENCES ext_settings(key));
SELECT pg_catalog.pg_extension_config_dump('ext_log', '');
CREATE TABLE ext_static (a int, b text);
INSERT INTO ext_static SELECT g, 'static ' || g FROM generate_series(1, 10) g;
CREATE FUNCTION ext_fn(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + 1';
