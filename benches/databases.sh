#!/usr/bin/env bash
# Times backups and restores of one database, in one run: holdfast, the floor (COPY of every table to nowhere over two connections), pg_dump, pg_dump
# into restic, pgBackRest.
#
#   benches/databases.sh CONNINFO TARGET-CONNINFO [CHANGE-COMMAND]
#
# CONNINFO names a database on a server that does nothing else; TARGET-CONNINFO the same database name on another server, where it is made and dropped.
# CHANGE-COMMAND makes the second day. RUNS (default 1): how often the cases of the first and the unchanged backup are run, in turn. FULL_BACKUP: a command
# that makes a full backup with pgBackRest; left out if it is not given. Needs restic, /usr/bin/time and PostgreSQL's programs. WORK as in peers.sh.
# The CPU seconds are those of the client; the server's are not in them.
set -euo pipefail

conninfo=${1:?usage: databases.sh CONNINFO TARGET-CONNINFO [CHANGE-COMMAND]}
target=${2:?usage: databases.sh CONNINFO TARGET-CONNINFO [CHANGE-COMMAND]}
change=${3:-}
here=$(cd "$(dirname "$0")/.." && pwd)
holdfast=${HOLDFAST:-$here/target/release/holdfast}
work=${WORK:-$(mktemp -d /var/tmp/holdfast-databases.XXXXXX)}
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
export RESTIC_PASSWORD=compare RESTIC_CACHE_DIR=$work/restic-cache XDG_STATE_HOME=$work/state XDG_CACHE_HOME=$work/cache
export HOLDFAST_KEY_FILE=$work/key CONNINFO=$conninfo WORK=$work
unset HOLDFAST_REPO HOLDFAST_PASSPHRASE HOLDFAST_PASSPHRASE_FILE HOLDFAST_PASSPHRASE_COMMAND
database=$(psql -XAtd "$conninfo" -c 'SELECT current_database()')
maintenance=${target/dbname=$database/dbname=postgres}

stored() { du -sB1 "$1" 2>/dev/null | cut -f1 || true; }

# case folder command...
measure() {
    local name=$1 folder=$2 before after
    shift 2
    before=$(stored "$folder")
    sync
    /usr/bin/time -f '%e %M %U %S' -o "$work/time" "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
    after=$(stored "$folder")
    read -r wall peak user system <"$work/time"
    printf '%-34s %7.2f s %6d MB peak %9d kB stored   cpu %s+%s\n' "$name" "$wall" "$((peak / 1024))" "$(((${after:-0} - ${before:-0}) / 1000))" "$user" "$system"
}

# Largest first, over two connections.
floor() {
    psql -XAtd "$CONNINFO" -c "SELECT format('COPY %s TO STDOUT', c.oid::regclass) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY pg_relation_size(c.oid) DESC" >"$WORK/copies"
    xargs -d '\n' -P2 -I{} psql -Xd "$CONNINFO" -c {} <"$WORK/copies" >/dev/null
}
into_restic() { pg_dump -Fc -Z0 -d "$CONNINFO" | restic -q -r "$WORK/r" backup --stdin --stdin-filename database.dump; }
from_restic() {
    restic -q -r "$WORK/r" dump latest database.dump >"$WORK/dump"
    pg_restore -j2 --create -d "$MAINTENANCE" "$WORK/dump"
}
directory() { rm -rf "$WORK/fd" && pg_dump -Fd -j2 -f "$WORK/fd" -d "$CONNINFO"; }
export -f floor into_restic from_restic directory
export MAINTENANCE=$maintenance
shell() { measure "$1" "$2" bash -euo pipefail -c "$3"; }
drop() { psql -Xqd "$maintenance" -c 'SET client_min_messages = error' -c "DROP DATABASE IF EXISTS $database"; }

"$holdfast" --quiet init --repo "$work/warm" >/dev/null
"$holdfast" --quiet backup --repo "$work/warm" --database "$conninfo"
rm -rf "$work/warm"
restic -q init -r "$work/r"
for ((run = 1; run <= ${RUNS:-1}; run++)); do
    rm -rf "$work/h"
    "$holdfast" --quiet init --repo "$work/h" >/dev/null
    shell 'floor: COPY to nowhere, 2 at once' "$work/none" floor
    measure 'holdfast, first' "$work/h" "$holdfast" --quiet backup --repo "$work/h" --database "$conninfo"
    shell 'floor' "$work/none" floor
    measure 'holdfast, unchanged' "$work/h" "$holdfast" --quiet backup --repo "$work/h" --database "$conninfo"
done
shell 'pg_dump -Fd -j2' "$work/fd" directory
shell 'pg_dump -Fc -Z0 | restic, first' "$work/r" into_restic
shell 'pg_dump -Fc -Z0 | restic, unchanged' "$work/r" into_restic
[[ -z ${FULL_BACKUP:-} ]] || shell 'pgBackRest, full' "${FULL_REPO:-$work/none}" "$FULL_BACKUP"
if [[ -n $change ]]; then
    bash -euo pipefail -c "$change" >/dev/null
    measure 'holdfast, second day' "$work/h" "$holdfast" --quiet backup --repo "$work/h" --database "$conninfo"
    shell 'pg_dump -Fc -Z0 | restic, second day' "$work/r" into_restic
    [[ -z ${FULL_BACKUP:-} ]] || shell 'pgBackRest, full, second day' "${FULL_REPO:-$work/none}" "$FULL_BACKUP"
    directory
fi
for no_analyze in --no-analyze ''; do
    drop
    measure "holdfast restore $no_analyze" "$work/none" "$holdfast" --quiet restore latest --repo "$work/h" --database "$database" --into "$target" $no_analyze
    drop
    shell 'pg_restore -j2 of the folder' "$work/none" "pg_restore -j2 --create -d \"\$MAINTENANCE\" \"\$WORK/fd\""
done
drop
shell 'restic dump, pg_restore -j2' "$work/none" from_restic
drop
