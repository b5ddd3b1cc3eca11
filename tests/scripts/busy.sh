#!/usr/bin/env bash
# Ten backups of a database that is written to and altered meanwhile; each is restored and must be consistent in itself. Takes two to three minutes.
#
#   tests/scripts/busy.sh [BACKUPS]
#
# pgbench writes with two clients; beside it a loop adds and drops columns and indexes, truncates and rewrites tables, and measures how long each of these
# statements took. In every restored database the balances of accounts, tellers, branches and the history must agree, and every foreign key must hold.
# At the end stands the longest statement while no backup ran and while one did. Runs as root, with Debian's PostgreSQL; HOLDFAST is the program
# (default target/release/holdfast), SCALE pgbench's (default 10), PAUSE the seconds between rounds of changes (default 3).
set -euo pipefail

backups=${1:-10}
here=$(cd "$(dirname "$0")/../.." && pwd)
holdfast=$(readlink -f "${HOLDFAST:-$here/target/release/holdfast}")
bin=${BIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)}
export PATH=$bin:$PATH
work=$(mktemp -d /tmp/hf-busy.XXXXXX)
chmod 755 "$work"
chown postgres "$work"
server() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp LC_ALL=C.UTF-8 "$@"; }
pids=()
stop() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    server pg_ctl -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap stop EXIT
server initdb -D "$work/data" -U postgres -E UTF8 --locale=C.UTF-8 -A trust >/dev/null
printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$work'" 'fsync = off' 'shared_buffers = 512MB' >>"$work/data/postgresql.conf"
server pg_ctl -D "$work/data" -l "$work/log" -w start >/dev/null
export PGHOST=$work PGUSER=postgres
createdb busy
pgbench -q -i --foreign-keys -s "${SCALE:-10}" busy >/dev/null 2>&1
psql -Xqd busy -c 'CREATE TABLE scratch AS SELECT g AS a, md5(g::text) AS t FROM generate_series(1, 20000) g' \
    -c 'CREATE TABLE rewritten AS SELECT g AS a, md5(g::text) AS t FROM generate_series(1, 200000) g'
export HOLDFAST_REPO=$work/repository HOLDFAST_KEY_FILE=$work/key XDG_STATE_HOME=$work/state
"$holdfast" --quiet init >/dev/null

pgbench -n -c2 -T 3600 busy >/dev/null 2>&1 &
pids+=($!)
change() {
    local before after
    before=$(date +%s%N)
    psql -Xqd busy -c "SET lock_timeout = 0" -c "$1" >/dev/null 2>>"$work/errors" || true
    after=$(date +%s%N)
    echo "$(((after - before) / 1000000)) $(cat "$work/state-now" 2>/dev/null || echo idle) $1" >>"$work/waits"
}
changes() {
    local n=0
    while true; do
        n=$((n + 1))
        change "ALTER TABLE pgbench_history ADD COLUMN c$n int"
        change "ALTER TABLE pgbench_history DROP COLUMN c$n"
        change "TRUNCATE scratch"
        change "INSERT INTO scratch SELECT g, md5((g + $n)::text) FROM generate_series(1, 20000) g"
        change "CREATE INDEX i$n ON scratch (a)"
        change "DROP INDEX i$n"
        change "ALTER TABLE scratch ALTER COLUMN a TYPE bigint"
        change "ALTER TABLE scratch ALTER COLUMN a TYPE int"
        change "ALTER TABLE pgbench_accounts ALTER COLUMN filler SET STATISTICS $((n % 100))"
        ((n % 5)) || change 'VACUUM FULL rewritten'
        sleep "${PAUSE:-3}"
    done
}
echo idle >"$work/state-now"
changes &
pids+=($!)
sleep 5

failed=0
for ((n = 1; n <= backups; n++)); do
    echo backup >"$work/state-now"
    begun=$(date +%s%N)
    if ! "$holdfast" backup --database 'dbname=busy' >"$work/out" 2>&1; then
        failed=1
        cat "$work/out"
    fi
    seconds=$((($(date +%s%N) - begun) / 1000000))
    echo idle >"$work/state-now"
    restored=restored_$n
    "$holdfast" --quiet restore latest --database busy --into "dbname=$restored" --check --no-analyze || { failed=1; echo "restore $n: exit $?"; }
    sums=$(psql -XAtd "$restored" -c 'SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
        (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)' | tr '|' '\n' | sort -u | wc -l)
    orphans=$(psql -XAtd "$restored" -c 'SELECT (SELECT count(*) FROM pgbench_history h LEFT JOIN pgbench_accounts a USING (aid) WHERE a.aid IS NULL)
        + (SELECT count(*) FROM pg_constraint WHERE NOT convalidated)')
    keys=$(psql -XAtd "$restored" -c "SELECT count(*) FROM pg_constraint WHERE contype = 'f'")
    history=$(psql -XAtd "$restored" -c 'SELECT count(*) FROM pgbench_history')
    ok=consistent
    [[ $sums == 1 && $orphans == 0 && $keys == 5 ]] || { ok="NOT CONSISTENT (sums $sums, orphans $orphans, keys $keys)"; failed=1; }
    # What the program says of a database whose last attempt had to lock its tables.
    held=$(grep -q 'all tables were locked' "$work/out" && echo ', tables locked in the last attempt' || true)
    echo "backup $n: $seconds ms, $history rows of history, $ok$held"
    dropdb "$restored"
done
echo "changes: $(wc -l <"$work/waits"), refused: $(grep -c ERROR "$work/errors" || true)"
for state in idle backup; do
    echo "longest while $state: $(awk -v s="$state" '$2 == s' "$work/waits" | sort -n | tail -1 | cut -d' ' -f1,3-) (ms)"
done
exit "$failed"
