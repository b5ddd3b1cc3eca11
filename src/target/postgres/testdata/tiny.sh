#!/bin/sh
# Makes the fixtures anew: tiny.sh, with PGHOST, PGPORT and PGUSER naming a scratch PostgreSQL 15 server.
set -eu
cd "$(dirname "$0")"
psql -X -q -v ON_ERROR_STOP=1 -d postgres -f tiny.sql
flags="-B -C --section=pre-data --section=post-data"
pg_dump -Fc -Z0 $flags tiny | cat >tiny-1.14.dump
dir=$(mktemp -d)
pg_dump -Fd -Z0 $flags -f "$dir/d" tiny
cp "$dir/d/toc.dat" tiny-1.14.toc.dat
rm -r "$dir"
pg_dumpall --globals-only --no-role-passwords >tiny-globals.sql
psql -X -q -d postgres -c 'DROP DATABASE tiny' -c 'DROP ROLE tiny_owner' -c 'DROP ROLE tiny_reader'
