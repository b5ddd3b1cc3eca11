#!/usr/bin/env bash
# Flips one random byte of one random object of a repository, again and again, and checks that each flip is found and does no harm.
#
#   tests/scripts/flips.sh [COUNT] [SEED]        (defaults: 100 flips, seed 1)
#
# A small site is backed up twice. Then, COUNT times: the repository is copied, one byte of it is changed, the state that this host
# remembers is deleted; `verify --data` must end with exit code 4, a restore must end without a panic, and every file that it wrote must
# be the original. Needs python3 and target/release/holdfast (or HOLDFAST).
set -euo pipefail

count=${1:-100}
seed=${2:-1}
here=$(cd "$(dirname "$0")/../.." && pwd)
holdfast=${HOLDFAST:-$here/target/release/holdfast}
work=$(mktemp -d /var/tmp/holdfast-flips.XXXXXX)
trap 'rm -rf "$work"' EXIT
export HOLDFAST_KEY_FILE=$work/key XDG_STATE_HOME=$work/state XDG_CACHE_HOME=$work/cache
unset HOLDFAST_REPO HOLDFAST_PASSPHRASE

mkdir -p "$work/share/deep/er"
python3 - "$work/share" <<'PY'
import os, random, sys
top = sys.argv[1]
rng = random.Random(7)
for i in range(300):
    open(f"{top}/deep/small-{i}", "wb").write(rng.randbytes(rng.randrange(0, 3000)))
open(f"{top}/deep/er/large", "wb").write(rng.randbytes(6_000_000))
open(f"{top}/text", "w").write("the same line again\n" * 200_000)
PY
"$holdfast" --quiet init --repo "$work/repo" --key-file "$work/key" >/dev/null
"$holdfast" --quiet --repo "$work/repo" backup "$work/share"
echo more >>"$work/share/text"
"$holdfast" --quiet --repo "$work/repo" backup "$work/share"

python3 - "$holdfast" "$work" "$count" "$seed" <<'PY'
import collections, os, random, shutil, subprocess, sys
holdfast, work, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
share = f"{work}/share"
objects = []
for d, _, files in os.walk(f"{work}/repo"):
    objects += [os.path.relpath(os.path.join(d, f), f"{work}/repo") for f in files]
objects = sorted(o for o in objects if os.path.getsize(f"{work}/repo/{o}"))
by_kind = collections.Counter()
codes = collections.Counter()
bad = 0
for i in range(count):
    # Half of the flips fall on any object alike, half on any byte alike (so mostly on packs).
    if i % 2:
        name = rng.choice(objects)
    else:
        name = rng.choices(objects, [os.path.getsize(f"{work}/repo/{o}") for o in objects])[0]
    position = rng.randrange(os.path.getsize(f"{work}/repo/{name}"))
    mask = 1 << rng.randrange(8)
    copy = f"{work}/copy"
    for path in (copy, f"{work}/restored", f"{work}/state", f"{work}/cache"):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(f"{work}/repo", copy)
    os.chmod(f"{copy}/{name}", 0o600)
    with open(f"{copy}/{name}", "r+b") as f:
        f.seek(position); byte = f.read(1)[0]; f.seek(position); f.write(bytes([byte ^ mask]))
    verify = subprocess.run([holdfast, "--quiet", "--repo", copy, "verify", "--data"], capture_output=True, text=True)
    shutil.rmtree(f"{work}/state", ignore_errors=True)
    restore = subprocess.run([holdfast, "--quiet", "--repo", copy, "restore", f"latest:paths{share}", "--target", f"{work}/restored"], capture_output=True, text=True)
    by_kind[name.split("/")[0]] += 1
    codes[restore.returncode] += 1
    problems = []
    if verify.returncode != 4:
        problems.append(f"verify --data ended with {verify.returncode}: {verify.stderr.strip()[-300:]}")
    for run in (verify, restore):
        if run.returncode < 0 or run.returncode == 101 or "panicked" in run.stderr:
            problems.append(f"panic: {run.stderr.strip()[-300:]}")
    restored = 0
    for d, _, files in os.walk(f"{work}/restored"):
        for f in files:
            path = os.path.join(d, f)
            restored += 1
            if open(path, "rb").read() != open(os.path.join(share, os.path.relpath(path, f"{work}/restored")), "rb").read():
                problems.append(f"wrong bytes in {path}")
    if restore.returncode == 0 and restored != 302:
        problems.append(f"restore ended with 0 and {restored} files")
    for problem in problems:
        bad += 1
        print(f"flip {i}: {name} at {position} with {mask:#04x}: {problem}")
print(f"{count} flips over {dict(by_kind)}; exit codes of restores {dict(codes)}; {bad} problems")
sys.exit(1 if bad else 0)
PY
