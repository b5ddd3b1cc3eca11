#!/bin/sh
# The test of `tests/it/pg_busy.rs` with 10,000 tables instead of 1,000: ALTER TABLE and TRUNCATE beside the dump, on a server with
# default settings. Takes some minutes, so it is run by hand.
#
#     tests/scripts/ten-thousand-tables.sh [NUMBER-OF-TABLES]
set -eu
cd "$(dirname "$0")/../.."
PG_BUSY_TABLES=${1:-10000} exec cargo test --test it pg_busy:: -- --nocapture
