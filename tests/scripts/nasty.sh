#!/usr/bin/env bash
# A database full of traps, restored in four ways into a second cluster, each compared with its source: `pg_dump | psql` (what everybody's round trip
# loses), `restore --into`, `export --format sql | psql`, `export --format pg-directory` and `pg_restore -j2`. Takes about two minutes.
#
#   tests/scripts/nasty.sh [FOLDER] [DATABASE…]
#
# FOLDER (default: nasty beside this script) holds nasty.sql (old.sql for a source before 10), install-nasty-ext.sh and check-roundtrip.sh
# (SOURCE-CONNINFO TARGET-CONNINFO: prints what differs). nasty.sql makes the databases nasty, nasty_latin1 and nasty_ascii. Runs as root, with PostgreSQL's programs in BIN (default: the newest of Debian's) and the program
# in HOLDFAST (default target/release/holdfast). Instead of clusters of its own it takes those at SOURCE and TARGET (connection strings without dbname,
# of servers whose sharedir is SOURCE_SHARE and TARGET_SHARE), of any versions: BIN is then the newer one's, SOURCE_BIN the source's, and the databases of nasty.sql there are
# dropped. LOBIG is the size of a sparse large object (default 30000000). Ends with status 1 if one of our ways differs from the source where `pg_dump | psql` does not.
set -euo pipefail

nasty=$(dirname "$0")/nasty
if [[ -d ${1:-} ]]; then
    nasty=$1
    shift
fi
nasty=$(cd "$nasty" && pwd)
databases=("$@")
[[ ${#databases[@]} -gt 0 ]] || databases=(nasty nasty_latin1 nasty_ascii)
here=$(cd "$(dirname "$0")/../.." && pwd)
holdfast=$(readlink -f "${HOLDFAST:-$here/target/release/holdfast}")
bin=${BIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)}
export PATH=$bin:$PATH
work=$(mktemp -d /tmp/hf-nasty.XXXXXX)
server() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp LC_ALL=C.UTF-8 "$@"; }
stop() {
    for cluster in a b; do
        server "$bin/pg_ctl" -D "$work/$cluster" -m immediate stop >/dev/null 2>&1 || true
    done
    rm -rf "$work"
}
trap stop EXIT
chmod 755 "$work"
[[ -n ${SOURCE:-} ]] || for cluster in a b; do
    mkdir -p "$work/sock-$cluster" "$work/ts-$cluster"
    chown postgres "$work" "$work/sock-$cluster" "$work/ts-$cluster"
    server "$bin/initdb" -D "$work/$cluster" -U postgres -E UTF8 --locale=C.UTF-8 -A trust >/dev/null
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$work/sock-$cluster'" 'fsync = off' 'wal_level = logical' \
        'max_prepared_transactions = 8' 'max_locks_per_transaction = 256' >>"$work/$cluster/postgresql.conf"
    server "$bin/pg_ctl" -D "$work/$cluster" -l "$work/$cluster.log" -w start >/dev/null
done
source=${SOURCE:-host=$work/sock-a user=postgres}
target=${TARGET:-host=$work/sock-b user=postgres}
[[ $source != "$target" ]] || { echo 'SOURCE and TARGET are the same' >&2; exit 2; }
for share in "${SOURCE_SHARE:-$bin/pg_config}" "${TARGET_SHARE:-}"; do
    [[ -z $share ]] || bash "$nasty/install-nasty-ext.sh" "$share"
done
a() { echo "$source dbname=$1"; }
b() { echo "$target dbname=$1"; }
tsdir=()
[[ -n ${SOURCE:-} ]] || tsdir=(-v tsdir="$work/ts-a")
number() { psql -XAtd "$1" -c 'SHOW server_version_num'; }
sql=nasty.sql
(($(number "$(a postgres)") >= 100000)) || sql=old.sql
psql -Xqd "$(a postgres)" "${tsdir[@]}" ${LOBIG:+-v lobig="$LOBIG"} -f "$nasty/$sql" >"$work/nasty.log" 2>&1 || { tail "$work/nasty.log"; exit 1; }
sed -nE 's/^(left out .*)/-- \1/p' "$work/nasty.log" | sort -u

# Roles and tablespaces of the target, once.
[[ -n ${SOURCE:-} ]] || psql -Xqd "$(b postgres)" -c "CREATE TABLESPACE \"nasty ts\" LOCATION '$work/ts-b'"
pg_dumpall --globals-only -d "$(a postgres)" | psql -Xqd "$(b postgres)" >"$work/globals.log" 2>&1 || true

export HOLDFAST_REPO=$work/repository HOLDFAST_KEY_FILE=$work/key XDG_STATE_HOME=$work/state
"$holdfast" --quiet init
wanted=()
for database in "${databases[@]}"; do wanted+=(--database "$(a "$database")"); done
"$holdfast" backup "${wanted[@]}" || echo "backup: exit $?"

drop() {
    psql -XAtqd "$(b "$1")" -c "SELECT format('ALTER SUBSCRIPTION %1\$I DISABLE; ALTER SUBSCRIPTION %1\$I SET (slot_name = NONE); DROP SUBSCRIPTION %1\$I;', subname)
        FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())" 2>/dev/null |
        psql -Xqd "$(b "$1")" >/dev/null 2>&1 || true
    psql -XAtqd "$(b postgres)" -c "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = '$1'" >/dev/null
    psql -Xqd "$(b postgres)" -c "SET client_min_messages = error" -c "DROP DATABASE IF EXISTS \"$1\""
}

# CREATE DATABASE of pg_dump from 13 on has a LOCALE, from 15 on a LOCALE_PROVIDER that older servers don't know; there the database is made beforehand
# for psql and pg_restore, which go on. `restore` finds the words itself.
create() {
    (($(number "$(b postgres)") < 150000)) || return 0
    psql -XAtd "$(a postgres)" -v name="$1" <<'SQL' | psql -Xqd "$(b postgres)"
SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', datname, pg_encoding_to_char(encoding), datcollate, datctype)
FROM pg_database WHERE datname = :'name'
SQL
}

restore_by() {
    [[ $1 == restore ]] || create "$2"
    case $1 in
    pg_dump) "${SOURCE_BIN:-$bin}/pg_dump" -C -d "$(a "$2")" | psql -Xqd "$(b postgres)" ;;
    restore) "$holdfast" restore latest --database "$2" --into "$(b "$2")" --check ;;
    sql) "$holdfast" export latest --database "$2" --format sql --create -o - | psql -Xqd "$(b postgres)" ;;
    pg-directory)
        rm -rf "$work/folder"
        "$holdfast" export latest --database "$2" --format pg-directory -o "$work/folder"
        pg_restore -C -j2 -d "$(b postgres)" "$work/folder"
        ;;
    esac
}

failed=0
for database in "${databases[@]}"; do
    for way in pg_dump restore sql pg-directory; do
        drop "$database"
        restore_by "$way" "$database" >"$work/$way.log" 2>&1 || true
        SOURCE_CACHE=$work/source-$database DIFFLINES=100000 bash "$nasty/check-roundtrip.sh" "$(a "$database")" "$(b "$database")" >"$work/$way.diff" 2>&1 || true
        # What is only elsewhere (a row in another leaf of a hash partitioned table, whose enums have other oids) is no difference.
        grep -aE '^[<>] ' "$work/$way.diff" | awk '{ line = substr($0, 3); n[line] += /^</ ? 1 : -1 }
            END { for (line in n) if (n[line]) print (n[line] > 0 ? "< " : "> ") line }' | sort >"$work/$way.found" || true
        lines=$(wc -l <"$work/$way.found")
        [[ $way != restore ]] || sed -nE 's/^  (compared |DIFFERS)/   --check: \1/p' "$work/$way.log" | cut -c1-200
        printf '== %s by %s: %s; %d lines on stderr\n' "$database" "$way" "$(tail -1 "$work/$way.diff")" "$(grep -ciE 'error|warning' "$work/$way.log" || true)"
        if grep -a '^psql:.*ERROR' "$work/$way.diff" || ! tail -1 "$work/$way.diff" | grep -qE '^(IDENTICAL|DIFFERENT)$'; then
            failed=1
            echo "   could not be compared:"
            tail -5 "$work/$way.log" | cut -c1-300 | sed 's/^/   /'
        elif [[ $way == pg_dump ]]; then
            cp "$work/$way.found" "$work/known"
            cut -c1-160 "$work/known" | sed 's/^/   /'
        elif comm -23 "$work/$way.found" "$work/known" >"$work/new" && [[ -s $work/new ]]; then
            failed=1
            echo "   not with pg_dump | psql:"
            cut -c1-200 "$work/new" | head -40 | sed 's/^/   /'
            grep -iE 'error|could not|failed|refused' "$work/$way.log" | head -20 || true
        else
            echo "   $lines lines differ, all of them as with pg_dump | psql"
        fi
    done
done
[[ $failed == 0 ]] && echo 'every way is as good as pg_dump | psql'
exit "$failed"
