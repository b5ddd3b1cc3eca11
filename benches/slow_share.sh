#!/usr/bin/env bash
# Backs up and restores 50,000 small files on a file system of which every operation takes 5 ms, and counts the operations.
#
#   benches/slow_share.sh
#
# slow_share.c is a FUSE file system that shows a folder, late; the kernel caches nothing of it, and as many operations run at once as
# there are requests. Two trees: 500 directories of 100 files, and one directory of 50,000. For each: the first backup, the second one of
# unchanged files, and a restore into the slow file system; for each of these wall seconds, CPU seconds, peak memory and operations.
#
# Needs root (it mounts), /dev/fuse, a C compiler, pkg-config and the headers of libfuse 3.12 or later (Debian: libfuse3-dev); nothing is
# installed. WORK (default: a new folder in /dev/shm, 600 MB) is removed at the end. HOLDFAST: the program (default: target/release).
# FILES, DIRECTORIES (50000, 500), MICROSECONDS (5000), RESTORE_ONE=no leaves out the restore into one directory, READERS=N sets --readers.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
holdfast=${HOLDFAST:-$here/target/release/holdfast}
files=${FILES:-50000}
directories=${DIRECTORIES:-500}
work=${WORK:-$(mktemp -d /dev/shm/holdfast-slow.XXXXXX)}
readers=${READERS:+--readers $READERS}
mkdir -p "$work"/{fast,slow,state,cache}
unset HOLDFAST_REPO HOLDFAST_PASSPHRASE HOLDFAST_PASSPHRASE_FILE HOLDFAST_PASSPHRASE_COMMAND
export HOLDFAST_KEY_FILE=$work/key XDG_STATE_HOME=$work/state XDG_CACHE_HOME=$work/cache

finish() {
    umount "$work/slow" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

# shellcheck disable=SC2046
cc -O2 -o "$work/slow_share" "$here/benches/slow_share.c" $(pkg-config --cflags --libs fuse3)
"$work/slow_share" "$work/fast" "$work/slow" "${MICROSECONDS:-5000}" >"$work/operations" &
daemon=$!
until mountpoint -q "$work/slow"; do sleep 0.1; done

# tree directories
make_tree() {
    awk -v files="$files" -v directories="$2" -v base="$work/fast/$1" 'BEGIN {
        srand(1)
        for (d = 0; d < directories; d++) system("mkdir -p " base "/d" d)
        for (f = 0; f < files; f++) {
            text = ""
            lines = 5 + rand() * 80
            for (line = 0; line < lines; line++) text = text f " some words of it " rand() "\n"
            path = base "/d" (f % directories) "/file-" f ".txt"
            printf "%s", text > path
            close(path)
        }
    }'
    # Long ago: a file that was changed shortly before a backup is read again by the next one.
    find "$work/fast/$1" -exec touch -d '2 days ago' {} +
}

# case command...
measure() {
    local name=$1
    shift
    kill -USR1 "$daemon"
    sleep 0.5
    /usr/bin/time -f '%e %U %S %M' -o "$work/time" "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    kill -USR1 "$daemon"
    sleep 0.5
    read -r wall user system peak <"$work/time"
    printf '%-16s %8.2f s, CPU %6.2f s, %4d MB peak: %s\n' "$name" "$wall" "$(awk "BEGIN { print $user + $system }")" \
        "$((peak / 1024))" "$(tail -n 1 "$work/operations")"
}

for tree in many one; do
    make_tree "$tree" "$([ $tree = many ] && echo "$directories" || echo 1)"
    repository=$work/repository-$tree
    "$holdfast" --quiet init --repo "$repository" --key-file "$work/key" >/dev/null
    # shellcheck disable=SC2086
    measure "$tree first" "$holdfast" --quiet --repo "$repository" backup $readers "$work/slow/$tree"
    # shellcheck disable=SC2086
    measure "$tree unchanged" "$holdfast" --quiet --repo "$repository" backup $readers "$work/slow/$tree"
    if [ "$tree" = many ] || [ "${RESTORE_ONE:-yes}" = yes ]; then
        mkdir "$work/fast/out"
        measure "$tree restored" "$holdfast" --quiet --repo "$repository" restore "latest:paths$work/slow/$tree" --target "$work/slow/out"
        diff -r "$work/fast/$tree" "$work/fast/out" && echo "$tree: all as they were"
        rm -rf "$work/fast/out"
    fi
    rm -rf "$work/fast/$tree" "$repository" "$work/key"
done
