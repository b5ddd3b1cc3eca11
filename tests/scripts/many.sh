#!/usr/bin/env bash
# What ten thousand tables cost, and one sparse large object of 3 GB: backup beside `pg_dump -Fd -j2` of the same database, in one run. Takes two minutes.
#
#   tests/scripts/many.sh [ROUNDS]
#
# Makes a cluster of its own below TMPDIR with TABLES tables (default 10000, up to 19 rows each) and a large object of two pages, one of them behind 3 GB.
# Each round prints wall time, CPU of the client, peak memory of its largest process and CPU of the server: for a first backup, `pg_dump` and an unchanged
# backup; then the time for one table. The lock table is larger than the default, because `pg_dump -j2` takes two locks for each table; holdfast does not
# need that. Ends with status 1 if a program fails, needs 500 MB, or the large object does not come back.
# Runs as root, with Debian's PostgreSQL; HOLDFAST is the program (default target/release/holdfast).
set -euo pipefail

rounds=${1:-3}
tables=${TABLES:-10000}
here=$(cd "$(dirname "$0")/../.." && pwd)
holdfast=$(readlink -f "${HOLDFAST:-$here/target/release/holdfast}")
bin=${BIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)}
export PATH=$bin:$PATH
work=$(mktemp -d "${TMPDIR:-/tmp}/hf-many.XXXXXX")
chmod 755 "$work"
chown postgres "$work"
server() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp LC_ALL=C.UTF-8 "$@"; }
stop() {
    server "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap stop EXIT
server initdb -D "$work/data" -U postgres -E UTF8 --locale=C.UTF-8 -A trust >/dev/null
printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$work'" 'fsync = off' 'shared_buffers = 512MB' 'max_locks_per_transaction = 1024' \
    >>"$work/data/postgresql.conf"
server pg_ctl -D "$work/data" -l "$work/log" -w start >/dev/null
export PGHOST=$work PGUSER=postgres
createdb many
createdb sparse
for ((first = 1; first <= tables; first += 1000)); do
    psql -Xqd many -c "DO \$\$ BEGIN FOR n IN $first..least($first + 999, $tables) LOOP
        EXECUTE format('CREATE TABLE t_%s (id int PRIMARY KEY, name text NOT NULL, amount numeric(12,2), created timestamptz DEFAULT now())', n);
        EXECUTE format('INSERT INTO t_%s SELECT g, md5((g * %s)::text), g * 1.5, ''2026-01-01''::timestamptz + g * interval ''1 hour''
            FROM generate_series(1, %s) g', n, n, n % 20);
        END LOOP; END \$\$"
done
psql -Xqd many -c 'VACUUM ANALYZE'
psql -Xqd sparse -c "SELECT lo_create(1)" -c "SELECT lo_put(1, 0, 'begin'), lo_put(1, 3000000000, 'end')" >/dev/null

postmaster=$(head -1 "$work/data/postmaster.pid")
# Backends count when they have ended, in milliseconds.
server_ms() { awk -v tick="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13 + $14 + $15) * 1000 / tick }' "/proc/$postmaster/stat"; }
failed=0
# measure NAME COMMAND…
measure() {
    local name=$1 before after wall user system memory
    shift
    before=$(server_ms)
    /usr/bin/time -o "$work/time" -f '%e %U %S %M' "$@" >/dev/null 2>"$work/errors" || { failed=1; cat "$work/errors"; }
    sleep 0.3
    after=$(server_ms)
    read -r wall user system memory < <(tail -1 "$work/time")
    ((memory < 500000)) || { failed=1; echo "$name needs $memory kB"; }
    awk -v n="$name" -v w="$wall" -v u="$user" -v s="$system" -v m="$memory" -v a="$before" -v b="$after" -v t="$tables" \
        'BEGIN { printf "%-16s %7.2f s  client %5.2f s  server %5.2f s  %7d kB  %.3f ms a table\n", n, w, u + s, (b - a) / 1000, m, w * 1000 / t }'
}
repository() {
    rm -rf "$work/r" "$work/k" "$work/s" "$work/fd"
    export HOLDFAST_REPO=$work/r HOLDFAST_KEY_FILE=$work/k XDG_STATE_HOME=$work/s
    "$holdfast" --quiet init >/dev/null
}
for ((round = 1; round <= rounds; round++)); do
    repository
    measure first "$holdfast" --quiet backup --database dbname=many
    measure 'pg_dump -Fd -j2' pg_dump -Fd -j2 -f "$work/fd" -d dbname=many
    measure unchanged "$holdfast" --quiet backup --database dbname=many
    [[ $(find "$work/fd" -name '*.dat.gz' | wc -l) == "$tables" ]] || { failed=1; echo 'pg_dump did not dump all tables'; }
done
"$holdfast" --quiet verify --data || { failed=1; echo 'verify failed'; }

tables=1
measure 'sparse' "$holdfast" --quiet backup --database dbname=sparse
createdb sparse2
measure 'sparse restore' "$holdfast" --quiet restore latest --database sparse --into dbname=sparse2 --check
pages=$(psql -XAtd sparse2 -c "SELECT count(*) || ' pages, ' || encode(lo_get(1, 3000000000, 3), 'escape') FROM pg_largeobject")
[[ $pages == '2 pages, end' ]] || { failed=1; echo "the large object came back as: $pages"; }
exit "$failed"
