#!/bin/sh
# A million entries in one directory behind one large file, backed up by the real program: takes a few minutes and about 5 GB of disk,
# most of it inodes, so it is run by hand and not with the other tests.
#
#     tests/scripts/million.sh [SCRATCH-FOLDER]
#
# It prints the program's peak memory for the first backup, for one without changes and for the restore, and fails if one of them is over
# 500 MB, or if what is restored differs. Needs cargo, python3 and diff; /usr/bin/time is not needed.
set -eu
entries=${ENTRIES:-1000000}
bound_kib=${BOUND_KIB:-500000}
scratch=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/holdfast-million.XXXXXX")
trap 'rm -rf "$scratch"' EXIT INT TERM
cd "$(dirname "$0")/../.."
cargo build --release
holdfast=${CARGO_TARGET_DIR:-target}/release/holdfast
export HOLDFAST_REPO="$scratch/repository" HOLDFAST_KEY_FILE="$scratch/key" HOME="$scratch" XDG_STATE_HOME="$scratch/state"

echo "making $entries files and one of 2 GiB"
python3 - "$scratch/tree" "$entries" <<'PYTHON'
import os, sys
root, entries = sys.argv[1], int(sys.argv[2])
os.mkdir(root)
with open(os.path.join(root, "aaa-large.qvd"), "wb") as large:
    for _ in range(2048):
        large.write(os.urandom(1 << 20))
for number in range(entries - 1):
    os.close(os.open(f"{root}/entry-{number:07}.txt", os.O_CREAT | os.O_WRONLY, 0o644))
PYTHON

# Runs a command and tells its peak memory, which must be under the bound.
measured() {
    python3 - "$bound_kib" "$@" <<'PYTHON'
import os, resource, subprocess, sys, time
bound, command = int(sys.argv[1]), sys.argv[2:]
begun = time.time()
done = subprocess.run(command)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f"{' '.join(command[1:3])}: {time.time() - begun:.1f} s, peak memory {peak / 1000:.0f} MB", flush=True)
sys.exit(done.returncode or (peak >= bound))
PYTHON
}

"$holdfast" init --quiet >/dev/null
measured "$holdfast" backup --quiet "$scratch/tree"
measured "$holdfast" backup --quiet "$scratch/tree"
measured "$holdfast" verify --quiet --data
measured "$holdfast" restore --quiet "latest:paths$scratch/tree" --target "$scratch/restored"
diff -r "$scratch/tree" "$scratch/restored"
echo "restored alike"
