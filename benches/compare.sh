#!/usr/bin/env bash
# Times holdfast beside restic on the same share, in one run, and prints one line for each case: wall seconds, peak memory, bytes stored.
#
#   benches/compare.sh SHARE [DELTA-COMMAND]
#
# SHARE: a folder with the first day's files. DELTA-COMMAND: turns it into the second day in place (and is expected to be undone by the
# caller). Needs restic, /usr/bin/time, and target/release/holdfast. WORK (default: a new folder in /var/tmp) takes repositories and
# restored trees; it is removed at the end. RUNS (default 1): how often each pair of cases is run, in turn.
set -euo pipefail

share=${1:?usage: compare.sh SHARE [DELTA-COMMAND]}
delta=${2:-}
runs=${RUNS:-1}
here=$(cd "$(dirname "$0")/.." && pwd)
holdfast=${HOLDFAST:-$here/target/release/holdfast}
work=${WORK:-$(mktemp -d /var/tmp/holdfast-compare.XXXXXX)}
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
export RESTIC_PASSWORD=compare RESTIC_CACHE_DIR=$work/restic-cache XDG_STATE_HOME=$work/state XDG_CACHE_HOME=$work/cache
unset HOLDFAST_REPO HOLDFAST_PASSPHRASE HOLDFAST_PASSPHRASE_FILE HOLDFAST_PASSPHRASE_COMMAND
export HOLDFAST_KEY_FILE=$work/key

stored() { du -sB1 "$1" | cut -f1; }

# case tool repository command...
measure() {
    local name=$1 tool=$2 repo=$3 before after
    shift 3
    before=$(stored "$repo")
    sync
    /usr/bin/time -f '%e %M' -o "$work/time" "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
    after=$(stored "$repo")
    read -r wall peak <"$work/time"
    printf "%-12s %-9s %8.2f s %7d MB peak %9d kB stored\n" "$name" "$tool" "$wall" "$((peak / 1024))" "$(((after - before) / 1000))"
}

find "$share" -type f -print0 | xargs -0 cat >/dev/null
for ((run = 1; run <= runs; run++)); do
    rm -rf "$work"/{h,r,restored-h,restored-r,key}
    "$holdfast" --quiet init --repo "$work/h" --key-file "$work/key" >/dev/null
    restic -q init -r "$work/r"
    h=("$holdfast" --quiet --repo "$work/h")
    r=(restic -q -r "$work/r")
    measure first holdfast "$work/h" "${h[@]}" backup "$share"
    measure first restic "$work/r" "${r[@]}" backup "$share"
    measure unchanged holdfast "$work/h" "${h[@]}" backup "$share"
    measure unchanged restic "$work/r" "${r[@]}" backup "$share"
    measure verify holdfast "$work/h" "${h[@]}" verify --data
    measure verify restic "$work/r" "${r[@]}" check --read-data
    mkdir "$work/restored-h" "$work/restored-r"
    measure restore holdfast "$work/h" "${h[@]}" restore latest --target "$work/restored-h"
    measure restore restic "$work/r" "${r[@]}" restore latest --target "$work/restored-r"
    if [[ -n $delta && $run == "$runs" ]]; then
        bash -c "$delta"
        measure day2 holdfast "$work/h" "${h[@]}" backup "$share"
        measure day2 restic "$work/r" "${r[@]}" backup "$share"
    fi
done
