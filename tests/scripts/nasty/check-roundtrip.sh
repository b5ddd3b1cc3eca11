#!/usr/bin/env bash
# check-roundtrip.sh SRC_CONNINFO DST_CONNINFO [--order] [--globals] [--skip-unlogged]
# Compares two PostgreSQL databases faithfully. Exit 0 = identical, 1 = different, 2 = could not compare.
#   1 schema   : pg_dump -C --section=pre-data and post-data, normalised. Both databases need the same name: restore into a second cluster.
#   2 full     : full pg_dump text incl. data, each COPY block sorted (or in order with --order)
#   3 rows     : per-relation row count + order independent checksum, also for relations pg_dump does not dump as data
#                (matviews, extension members)
#   4 sequences, 5 large objects, 6 catalog facts that pg_dump does not print (extension versions, index validity, enum order)
# SOURCE_CACHE is a folder that keeps what the source said for the next comparison with the same source.
# PGDUMP/PSQL may point at specific binaries. The same pg_dump binary must be used for both sides. Servers from 9.6 on.
set -u -o pipefail
src=${1:?}; dst=${2:?}; shift 2
order=0; globals=0; skipunl=0
for a in "$@"; do case $a in --order) order=1;; --globals) globals=1;; --skip-unlogged) skipunl=1;; *) echo "unknown $a" >&2; exit 2;; esac; done
PGDUMP=${PGDUMP:-pg_dump}; PSQL=${PSQL:-psql}; PGDUMPALL=${PGDUMPALL:-pg_dumpall}
tmp=$(mktemp -d); [ -n "${KEEP:-}" ] || trap 'rm -rf "$tmp"' EXIT
cache=${SOURCE_CACHE:-$tmp}; mkdir -p "$cache"
# from_source NAME COMMAND...: its output in $cache/NAME, from an earlier run where there is one
from_source() { local name=$1; shift; [ -e "$cache/$name" ] || { "$@" >"$cache/$name.new" && mv "$cache/$name.new" "$cache/$name"; }; }
bad=0
# canonical, lossless session settings: database level GUCs must not influence the comparison
export PGOPTIONS="-c search_path= -c datestyle=ISO,YMD -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex -c timezone=UTC -c lc_monetary=C -c xmloption=content -c row_security=off -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c quote_all_identifiers=off -c standard_conforming_strings=on -c default_transaction_read_only=off ${PGOPTIONS:-}"
key=""; $PGDUMP --help | grep -q -- --restrict-key && key="--restrict-key=checkroundtrip"
norm() { sed -E -e '/^-- Dumped (from|by) /d' -e '/^-- (Started|Completed) on /d' -e '/^\\(un)?restrict /d'; }
# sort the lines inside each COPY ... FROM stdin; block
sortcopy() { awk -v cmd="LC_ALL=C sort" '
  !c && /^COPY .* FROM stdin;$/ {print; c=1; next}
  c && /^\\\.$/ {close(cmd); print; fflush(); c=0; next}
  c {print | cmd; next}
  {print; fflush()}'; }
cmp2() { # label file1 file2
  if cmp -s "$2" "$3"; then echo "ok    $1 ($(wc -c <"$2") bytes)"; else echo "DIFF  $1"; diff -a "$2" "$3" | head -${DIFFLINES:-40}; bad=1; fi; }
opts=""; [ $skipunl = 1 ] && opts="--no-unlogged-table-data"
for s in pre-data post-data; do
  section() { $PGDUMP $key -C --section=$s -d "$1" | norm; }
  from_source "$s" section "$src" || exit 2
  section "$dst" >"$tmp/s2" || exit 2
  cmp2 "schema $s" "$cache/$s" "$tmp/s2"
done
if [ $order = 1 ]; then f=cat; else f=sortcopy; fi
full() { $PGDUMP $key -C $opts -d "$1" | norm | $f; }
from_source full full "$src" || exit 2
full "$dst" >"$tmp/f2" || exit 2
cmp2 "full dump" "$cache/full" "$tmp/f2"
if [ $globals = 1 ]; then
  $PGDUMPALL --globals-only -d "$src" | norm >"$tmp/g1" || exit 2
  $PGDUMPALL --globals-only -d "$dst" | norm >"$tmp/g2" || exit 2
  cmp2 globals "$tmp/g1" "$tmp/g2"
fi
q() { $PSQL -X -q -At -v ON_ERROR_STOP=1 -d "$1" -v skipunl=$skipunl -f "$2"; }
cat >"$tmp/rows.sql" <<'SQL'
-- one checksum per relation; columns by name (a restore may change the physical order of inherited columns);
-- trees that contain a hash-partitioned table are checked as a whole (rows of enum keys move between leaves on restore)
SELECT current_setting('server_version_num')::int >= 100000 AS pg10 \gset
\if :pg10
WITH RECURSIVE up AS (
  SELECT oid AS rel, oid AS at FROM pg_class
  UNION ALL SELECT up.rel, i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.at JOIN pg_class c ON c.oid = up.at AND c.relispartition
), rel AS (
  SELECT c.oid, c.relkind, c.relispartition, c.oid::regclass::text AS name,
         (SELECT at FROM up JOIN pg_class a ON a.oid = at WHERE rel = c.oid AND NOT a.relispartition LIMIT 1) AS root
  FROM pg_class c
  WHERE c.relkind IN ('r', 'm', 'p') AND (c.relkind <> 'm' OR c.relispopulated)
    AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND :'skipunl' = '0')
    AND c.relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_' OR nspname = 'information_schema')
), hashed AS (
  SELECT root FROM rel WHERE relkind = 'p' GROUP BY root
  HAVING bool_or((SELECT partstrat = 'h' FROM pg_partitioned_table p WHERE p.partrelid = rel.oid))
     AND NOT bool_or(EXISTS (SELECT FROM up JOIN pg_class f ON f.oid = up.rel WHERE up.at = root AND f.relkind = 'f'))
), chk AS (
  SELECT oid, name, CASE relkind WHEN 'p' THEN '' ELSE 'ONLY ' END AS o FROM rel
  WHERE CASE WHEN relkind = 'p' THEN oid IN (SELECT root FROM hashed) ELSE root NOT IN (SELECT root FROM hashed) END
)
\else
WITH chk AS (
  SELECT oid, oid::regclass::text AS name, 'ONLY '::text AS o FROM pg_class
  WHERE relkind IN ('r', 'm') AND relispopulated AND (relpersistence = 'p' OR relpersistence = 'u' AND :'skipunl' = '0')
    AND relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_' OR nspname = 'information_schema')
)
\endif
SELECT format($q$SELECT %L, count(*), coalesce(sum(('x' || left(h, 16))::bit(64)::bigint::numeric), 0), coalesce(sum(('x' || right(h, 16))::bit(64)::bigint::numeric), 0)
              FROM (SELECT md5(ROW(%s)::text) AS h FROM %s%s) s;$q$,
         name, (SELECT string_agg(quote_ident(attname), ',' ORDER BY attname::text COLLATE "C") FROM pg_attribute WHERE attrelid = chk.oid AND attnum > 0 AND NOT attisdropped),
         o, oid::regclass)
FROM chk ORDER BY name COLLATE "C" \gexec
SQL
cat >"$tmp/seq.sql" <<'SQL'
SELECT format('SELECT %L, last_value, is_called FROM %s;', c.oid::regclass::text, c.oid::regclass) FROM pg_class c
WHERE relkind = 'S' AND relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_') ORDER BY c.oid::regclass::text COLLATE "C" \gexec
SELECT current_setting('server_version_num')::int >= 100000 AS pg10 \gset
\if :pg10
SELECT schemaname, sequencename, data_type, start_value, min_value, max_value, increment_by, cycle, cache_size FROM pg_sequences ORDER BY 1, 2;
\endif
SQL
cat >"$tmp/lo.sql" <<'SQL'
SELECT m.oid, pg_get_userbyid(lomowner), array_to_string(ARRAY(SELECT x::text FROM unnest(lomacl) x ORDER BY 1), ','), obj_description(m.oid, 'pg_largeobject'), d.size, d.sum
FROM pg_largeobject_metadata m LEFT JOIN LATERAL (
  SELECT max(pageno::int8 * (SELECT setting::int8 / 4 FROM pg_settings WHERE name = 'block_size') + length(data)) AS size,
         md5(string_agg(md5(pageno::text || regexp_replace(encode(data, 'hex'), '(00)+$', '')), '' ORDER BY pageno) FILTER (WHERE btrim(data, '\x00') <> '')) AS sum
  FROM pg_largeobject WHERE loid = m.oid) d ON true ORDER BY 1;
SQL
cat >"$tmp/cat.sql" <<'SQL'
SELECT 'ext', extname, extversion, extnamespace::regnamespace FROM pg_extension ORDER BY 2;
SELECT 'mv', oid::regclass::text COLLATE "C", relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 2;
SELECT 'idx', indexrelid::regclass::text COLLATE "C", indisvalid, indisready, indisclustered, indisreplident FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indexrelid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace ORDER BY 2;
SELECT 'con', conrelid::regclass::text COLLATE "C", conname::text COLLATE "C", contype, convalidated FROM pg_constraint WHERE connamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_|^information_schema$') ORDER BY 2, 3, 4;
SELECT 'enum', enumtypid::regtype::text COLLATE "C", string_agg(enumlabel, '|' ORDER BY enumsortorder) FROM pg_enum GROUP BY 2 ORDER BY 2;
SELECT 'db', pg_encoding_to_char(encoding), datcollate, datctype, pg_get_userbyid(datdba), datconnlimit FROM pg_database WHERE datname = current_database();
SELECT 'dbset', setrole::regrole, setconfig FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 2;
SQL
for p in rows seq lo cat; do
  from_source "$p.1" q "$src" "$tmp/$p.sql" || bad=1; q "$dst" "$tmp/$p.sql" >"$tmp/$p.2" || bad=1
  [ "$p" = rows ] && echo "      $(wc -l <"$cache/rows.1") relations, $(awk -F'|' 'NF>3{s+=$(NF-2)} END {print s}' "$cache/rows.1") rows"
  cmp2 "$p" "$cache/$p.1" "$tmp/$p.2"
done
[ $bad = 0 ] && echo "IDENTICAL" || echo "DIFFERENT"
exit $bad
