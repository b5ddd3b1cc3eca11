#!/usr/bin/env bash
# Runs the same cases with holdfast and with other backup programs on the same share, in turn, in one run, and prints every line, the medians and their ratios.
#
#   benches/peers.sh SHARE [TO-DAY-2 BACK]
#
# SHARE: a folder with the first day's files, best in a tmpfs: then reading costs no disk. TO-DAY-2: a command that turns it into the second day in
# place; BACK: one that undoes it. TOOLS (default: holdfast and what is installed of restic, rustic and borg): whose turn it is, in this order; HOLDFAST,
# RESTIC, RUSTIC, BORG: the programs (holdfast by default from target/release). RUNS (default 3). WORK (default: a new folder in /var/tmp, removed at
# the end): repositories, caches and restored trees, on the disk that is measured. KEEP=1 keeps the lines in WORK/lines. Needs /usr/bin/time; the last
# case needs tar and zstd.
#
# All with the defaults of each program and a passphrase. Cases: the first backup, the same again, all data verified, all restored, one file restored (the
# largest of those between 1 and 64 MiB; "one-less" is without unlocking: minus `cat config` of restic and rustic, `list` of borg, "kdf_ms" of holdfast),
# the second day, and `tar | zstd -1 -T2` to nowhere. Repositories are read into the page cache before verifying, restoring and the second day. MB are
# 10^6 bytes as `du` counts them, the peak is that of the largest process.
set -euo pipefail

share=$(realpath "${1:?usage: peers.sh SHARE [TO-DAY-2 BACK]}")
forth=${2:-} back=${3:-true}
here=$(cd "$(dirname "$0")/.." && pwd)
declare -A program=([holdfast]=${HOLDFAST:-$here/target/release/holdfast} [restic]=${RESTIC:-restic} [rustic]=${RUSTIC:-rustic} [borg]=${BORG:-borg})
tools=${TOOLS:-}
if [[ -z $tools ]]; then
    for tool in holdfast restic rustic borg; do command -v "${program[$tool]}" >/dev/null && tools+=" $tool"; done
fi
runs=${RUNS:-3}
work=${WORK:-$(mktemp -d /var/tmp/holdfast-peers.XXXXXX)}
mkdir -p "$work"
lines=$work/lines
: >"$lines"
cleanup() { [[ -n ${KEEP:-} ]] && find "$work" -mindepth 1 -maxdepth 1 ! -name lines -exec rm -rf {} + || rm -rf "$work"; }
trap cleanup EXIT
for name in $(compgen -e | grep -E '^(HOLDFAST|RESTIC|RUSTIC|BORG)_' || true); do unset "$name"; done
export XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state
export HOLDFAST_REPO=$work/holdfast HOLDFAST_PASSPHRASE=peers
export RESTIC_REPOSITORY=$work/restic RESTIC_PASSWORD=peers RESTIC_CACHE_DIR=$work/cache/restic
export RUSTIC_REPOSITORY=$work/rustic RUSTIC_PASSWORD=peers RUSTIC_CACHE_DIR=$work/cache/rustic
export BORG_REPO=$work/borg BORG_PASSPHRASE=peers BORG_BASE_DIR=$work/cache/borg BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
export SHARE=$share OUT=$work/out
ONE=$(find "$share" -type f -size +1M -size -64M -printf '%s %p\n' | sort -rn | head -1 | cut -d' ' -f2-)
export ONE=${ONE:-$(find "$share" -type f -print -quit)}

# What a tool does in a case; the shell that runs it has $P, the program.
command_of() {
    case $1-$2 in
    holdfast-init) echo '$P --quiet init >/dev/null' ;;
    holdfast-first | holdfast-unchanged | holdfast-day2) echo '$P --quiet backup "$SHARE"' ;;
    holdfast-verify) echo '$P --quiet verify --data' ;;
    holdfast-restore) echo '$P --quiet restore "latest:/paths$SHARE" --target "$OUT"' ;;
    holdfast-one) echo '$P --json restore "latest:/paths$ONE" --target "$OUT"' ;;
    restic-init | rustic-init) echo '$P init' ;;
    restic-first | restic-unchanged | restic-day2 | rustic-first | rustic-unchanged | rustic-day2) echo '$P backup "$SHARE"' ;;
    restic-verify | rustic-verify) echo '$P check --read-data' ;;
    restic-restore) echo '$P restore latest --target "$OUT"' ;;
    restic-one) echo '$P restore latest --target "$OUT" --include "$ONE"' ;;
    restic-unlock | rustic-unlock) echo '$P cat config' ;;
    rustic-restore) echo '$P restore latest "$OUT"' ;;
    rustic-one) echo '$P restore "latest:$ONE" "$OUT"' ;;
    borg-init) echo '$P init -e repokey' ;;
    borg-first | borg-unchanged | borg-day2) echo '$P create "::a-$(date +%s%N)" "$SHARE"' ;;
    borg-verify) echo '$P check --verify-data' ;;
    borg-restore) echo 'cd "$OUT" && $P extract "::$($P list --last 1 --short)"' ;;
    borg-one) echo 'cd "$OUT" && $P extract "::$($P list --last 1 --short)" "${ONE#/}"' ;;
    borg-unlock) echo '$P list --last 1 --short' ;;
    esac
}

stored() { du -sB1 "$1" 2>/dev/null | cut -f1 || echo 0; }

# measure CASE TOOL: a line "case tool wall user system peak-MiB stored-bytes" to the table and to the terminal.
measure() {
    local case=$1 tool=$2 before after wall user system peak
    before=$(stored "$work/$tool")
    sync
    P=${program[$tool]} /usr/bin/time -f '%e %U %S %M' -o "$work/time" bash -c "$(command_of "$tool" "$case")" >"$work/stdout" 2>"$work/stderr" </dev/null || {
        echo "$tool $case failed:" >&2
        tail -5 "$work/stdout" "$work/stderr" >&2
        exit 1
    }
    after=$(stored "$work/$tool")
    read -r wall user system peak <<<"$(tail -1 "$work/time")"
    echo "$case $tool $wall $user $system $((peak / 1024)) $((after - before))" >>"$lines"
    printf '%-10s %-9s %8.2f s  cpu %6.2f + %5.2f  %5d MiB' "$case" "$tool" "$wall" "$user" "$system" "$((peak / 1024))"
    if [[ $case =~ ^(first|unchanged|day2)$ ]]; then printf '  %10.1f MB' "$(((after - before) / 100000))e-1"; fi
    echo
}

# What unlocking costs: subtracted from one file.
less_unlocking() {
    local tool=$1 wall unlock
    wall=$(awk -v t="$tool" '$1 == "one" && $2 == t { w = $3 } END { print w }' "$lines")
    if [[ $tool == holdfast ]]; then
        unlock=$(grep -o '"kdf_ms":[0-9]*' "$work/stdout" | tail -1 | cut -d: -f2 | awk '{ print $1 / 1000 }')
    else
        measure unlock "$tool"
        unlock=$(awk -v t="$tool" '$1 == "unlock" && $2 == t { w = $3 } END { print w }' "$lines")
    fi
    awk -v t="$tool" -v w="$wall" -v u="${unlock:-0}" 'BEGIN { l = w - u; if (l < 0.01) l = 0.01; printf "one-less %s %.3f 0 0 0 0\n", t, l }' | tee -a "$lines" |
        awk -v u="${unlock:-0}" '{ printf "%-10s %-9s %8.3f s  (unlocking %.3f s)\n", $1, $2, $3, u }'
}

for ((run = 1; run <= runs; run++)); do
    echo "run $run of $runs"
    find "$share" -type f -print0 | xargs -0 cat >/dev/null
    for tool in $tools; do
        rm -rf "${work:?}/$tool"
        mkdir -p "$work/cache/$tool"
        P=${program[$tool]} bash -c "$(command_of "$tool" init)" >/dev/null 2>&1
        measure first "$tool"
    done
    for tool in $tools; do measure unchanged "$tool"; done
    for tool in $tools; do
        find "$work/$tool" -type f -print0 | xargs -0 cat >/dev/null
        measure verify "$tool"
    done
    for case in restore one; do
        for tool in $tools; do
            rm -rf "$OUT"
            mkdir "$OUT"
            find "$work/$tool" -type f -print0 | xargs -0 cat >/dev/null
            measure "$case" "$tool"
            [[ $case == restore ]] || less_unlocking "$tool"
        done
    done
    rm -rf "$OUT"
    if [[ -n $forth ]]; then
        bash -c "$forth" >/dev/null
        for tool in $tools; do
            find "$work/$tool" -type f -print0 | xargs -0 cat >/dev/null
            measure day2 "$tool"
        done
        bash -c "$back" >/dev/null
    fi
    if command -v zstd >/dev/null; then
        /usr/bin/time -f '%e %U %S %M' -o "$work/time" bash -c 'tar cf - "$SHARE" 2>/dev/null | zstd -q -1 -T2 >/dev/null'
        read -r wall user system peak <"$work/time"
        echo "first tar|zstd $wall $user $system $((peak / 1024)) 0" | tee -a "$lines"
    fi
done

echo
awk -v first="${tools%% *}" '
    function median(text, n, v, i, j, t) {
        n = split(text, v, " ")
        for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (v[j] + 0 < v[i] + 0) { t = v[i]; v[i] = v[j]; v[j] = t }
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    {
        if (!($1 in cases)) { cases[$1]; order[++n] = $1 }
        if (!($2 in seen)) { seen[$2]; tool[++m] = $2 }
        wall[$1, $2] = wall[$1, $2] " " $3
        bytes[$1, $2] = bytes[$1, $2] " " $7
        if ($6 > peak[$1, $2]) peak[$1, $2] = $6
    }
    END {
        sub(/^ +/, "", first)
        if (first == "") first = tool[1]
        print "medians, and how many times the one of " first
        for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) {
            c = order[i]; t = tool[j]
            if (!((c, t) in wall)) continue
            w = median(wall[c, t]); b = median(bytes[c, t]); p = peak[c, t]
            printf "%-10s %-9s %8.2f s", c, t, w
            if ((c, first) in wall) printf "  %6.2f x", w / median(wall[c, first])
            if (p) printf "  %5d MiB", p
            if (b > 0) { printf "  %9.1f MB", b / 1e6; if (median(bytes[c, first]) > 0) printf "  %6.2f x", b / median(bytes[c, first]) }
            print ""
        }
    }' "$lines"
