//! The dated folder that administrators of a Qlik Sense site keep: `YYYY-MM-DD/{QlikShare,Certificates,Database}`.
//!
//! Only names: it reads and writes nothing.
//!
//! | in the tree | in the folder |
//! |---|---|
//! | `shares/<name>/…` | `QlikShare/<name>/…` |
//! | `certificates/<name>/<directories that hold nothing else>/…` | `Certificates/…`, or `Certificates/<name>/…` where there are several |
//! | `databases/<name>/…` | `Database/<name>/…`: `database.json`, `schema.dump` (for `pg_restore`), `tables/<schema>/<table>/<part>` (COPY text), large objects |
//! | `clusters/<name>/globals.sql` | `Database/globals-<name>.sql` |
//!
//! Everything else in a snapshot has no place there, and is named.

use jiff::tz::TimeZone;

use crate::format::node::Timestamp;

/// Folder of the shares.
pub const SHARES: &[u8] = b"QlikShare";
/// Folder of the certificates.
pub const CERTIFICATES: &[u8] = b"Certificates";
/// Folder of the databases.
pub const DATABASES: &[u8] = b"Database";

/// The name of the folder: the day on which the snapshot was begun.
pub fn folder_name(started: Timestamp, zone: &TimeZone) -> String {
    let time = jiff::Timestamp::from_second(started.seconds).unwrap_or_default();
    time.to_zoned(zone.clone()).date().to_string()
}

/// Where the roles of a cluster go.
pub fn globals_name(cluster: &[u8]) -> Vec<u8> {
    [DATABASES, b"/globals-", cluster, b".sql"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_depends_on_the_zone() {
        let started = Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        };
        let check = |zone: TimeZone, expected: &str| {
            assert_eq!(folder_name(started, &zone), expected);
        };
        check(TimeZone::UTC, "2023-11-14");
        check(TimeZone::fixed(jiff::tz::offset(2)), "2023-11-15");
        assert_eq!(globals_name(b"main"), b"Database/globals-main.sql");
    }
}
