#!/bin/bash
# Compression: what the levels cost and save. A first backup of PATH at each level, into a new repository each time.
#
#   benches/compression.sh PATH [LEVEL …]      HOLDFAST=program to measure, LAB=scratch folder, RUNS=1
#
# Prints the level, user + system time in seconds (the least of RUNS) and the bytes of the repository. Times of a small PATH hold the fixed cost
# of a run. PATH may be files with the rows of tables: psql -c 'COPY t TO STDOUT' > PATH/t.
set -euo pipefail
path=${1:?usage: compression.sh PATH [LEVEL …]}
shift
levels=("$@")
[ ${#levels[@]} -gt 0 ] || levels=(1 2 3 5 7 9 12 15 19)
program=${HOLDFAST:-target/release/holdfast}
lab=$(mktemp -d "${LAB:-/var/tmp}/compression.XXXXXX")
trap 'rm -rf "$lab"' EXIT
export HOLDFAST_REPO=$lab/repository XDG_STATE_HOME=$lab/state XDG_CACHE_HOME=$lab/cache TIMEFORMAT='%U %S'

printf '%-6s %10s %14s\n' level 'CPU s' bytes
for level in "${levels[@]}"; do
    least=
    for ((run = 0; run < ${RUNS:-1}; run++)); do
        rm -rf "$lab/repository" "$lab/state" "$lab/cache"
        "$program" init --quiet --encryption none >/dev/null
        sleep 3 # files whose times are too close to a backup are read twice
        spent=$({ time "$program" backup --quiet --compression "$level" "$path" >/dev/null; } 2>&1 | tail -n 1 | awk '{ printf "%.2f", $1 + $2 }')
        least=$(printf '%s\n' $spent $least | sort -n | head -n 1)
    done
    printf '%-6s %10s %14s\n' "$level" "$least" "$(du -sb "$lab/repository" | cut -f 1)"
done
