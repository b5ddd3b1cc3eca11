#!/usr/bin/env bash
# Times a share and a database in one snapshot, beside restic on the same data in the same run: first, unchanged, second day, verify, both restores.
#
#   benches/site.sh SHARE CONNINFO DELTA-COMMAND TARGET-CONNINFO
#
# SHARE and CONNINFO: the first day's files and database. DELTA-COMMAND turns both into the second day (undoing it is the caller's).
# TARGET-CONNINFO: a server that may get (and lose) a database of the same name. restic takes the share and `pg_dump -Fc -Z0` on its standard
# input, two snapshots. Needs restic, /usr/bin/time, PostgreSQL's client programs and target/release/holdfast (or HOLDFAST). WORK (default: a
# new folder in /var/tmp) takes repositories and restored files; it is removed at the end. One line each: wall seconds, peak memory of the
# largest process, bytes stored.
set -euo pipefail

share=${1:?usage: site.sh SHARE CONNINFO DELTA-COMMAND TARGET-CONNINFO}
conninfo=${2:?a conninfo string}
delta=${3:?a command}
target=${4:?a conninfo string of another server, with the same dbname}
here=$(cd "$(dirname "$0")/.." && pwd)
holdfast=${HOLDFAST:-$here/target/release/holdfast}
work=${WORK:-$(mktemp -d /var/tmp/holdfast-site.XXXXXX)}
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
export RESTIC_PASSWORD=compare RESTIC_CACHE_DIR=$work/restic-cache XDG_STATE_HOME=$work/state XDG_CACHE_HOME=$work/cache
export HOLDFAST_KEY_FILE=$work/key CONNINFO=$conninfo
unset HOLDFAST_REPO HOLDFAST_PASSPHRASE HOLDFAST_PASSPHRASE_FILE HOLDFAST_PASSPHRASE_COMMAND
database=$(psql -XAtd "$conninfo" -c 'SELECT current_database()')
empty=${target/dbname=$database/dbname=postgres}

stored() { du -sB1 "$1" | cut -f1; }

# case tool repository command...
measure() {
    local name=$1 tool=$2 repo=$3 before after
    shift 3
    before=$(stored "$repo")
    sync
    /usr/bin/time -f '%e %M %U %S' -o "$work/time" "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
    after=$(stored "$repo")
    read -r wall peak user system <"$work/time"
    printf '%-16s %-9s %8.2f s %7d MB peak %9d kB stored  cpu %s+%s\n' "$name" "$tool" "$wall" "$((peak / 1024))" "$(((after - before) / 1000))" "$user" "$system"
}

h() { "$holdfast" --quiet --repo "$work/h" "$@"; }
both() { restic -q -r "$work/r" backup "$share" && pg_dump -Fc -Z0 -d "$CONNINFO" | restic -q -r "$work/r" backup --stdin --stdin-filename database.dump; }
export -f both
export work share

backup() {
    measure "$1" holdfast "$work/h" "$holdfast" --repo "$work/h" backup "$share" --database "$conninfo"
    grep -iE 'warn|incomplete' "$work/out" "$work/err" || true
    measure "$1" restic "$work/r" bash -euo pipefail -c both
}

find "$share" -type f -print0 | xargs -0 cat >/dev/null
"$holdfast" --quiet init --repo "$work/h" --key-file "$work/key" >/dev/null
restic -q init -r "$work/r"
backup first
backup unchanged
bash -euo pipefail -c "$delta"
backup 'second day'
measure 'end to end' holdfast "$work/h" "$holdfast" --repo "$work/h" verify --end-to-end
measure 'read data' restic "$work/r" restic -q -r "$work/r" check --read-data
mkdir "$work/files"
measure 'restore files' holdfast "$work/h" "$holdfast" --repo "$work/h" restore "latest:paths$share" --target "$work/files/h"
measure 'restore files' restic "$work/r" restic -q -r "$work/r" restore latest --path "$share" --target "$work/files/r"
diff -r --no-dereference "$share" "$work/files/h" && echo 'restored files: diff -r finds nothing'
(cd "$work/files/h" && h manifest "latest:paths$share" | b3sum --quiet --check && echo 'restored files: b3sum --check finds nothing') || true
rm -rf "$work/files"
psql -Xqd "$empty" -c "DROP DATABASE IF EXISTS $database"
measure 'restore database' holdfast "$work/h" "$holdfast" --repo "$work/h" restore latest --database "$database" --into "$target"
psql -Xqd "$empty" -c "DROP DATABASE $database"
measure 'with --check' holdfast "$work/h" "$holdfast" --repo "$work/h" restore latest --database "$database" --into "$target" --check
if [[ -n ${COMPARE:-} ]]; then "$COMPARE" "$conninfo" "$target"; fi
psql -Xqd "$empty" -c "DROP DATABASE $database"
through_restic() {
    restic -q -r "$work/r" dump latest database.dump >"$work/dump"
    pg_restore -j2 --create -d "$EMPTY" "$work/dump"
}
export -f through_restic
EMPTY=$empty measure 'restore database' restic "$work/r" bash -euo pipefail -c through_restic
