//! Reads the restored rows back and compares them with the archive: per table the number of rows and the sum of their digests, which does not depend on
//! their order. Sequences and the number of large objects are compared too.
//!
//! It reads in the session settings of a dump, so that equal values have equal text. Numbers with a binary point are compared across the version that changed
//! their text (see `floats`). Between other releases the text of a type may change too; a difference is then said to be possible, not hidden. Tables that were loaded through a partitioned table are compared together, because their rows may have changed
//! places.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use xxhash_rust::xxh3::xxh3_128_with_secret;

use super::crew::Crew;
use super::data::{Loaded, PARTITION_ROOT, column_list, encoding_option, qualified};
use super::error::RestoreError;
use super::floats::{FloatColumns, SHORTEST};
use super::report::{CheckReport, Difference, Recorder};
use crate::format::database::{DatabaseInfo, TableInfo};
use crate::source::postgres::dump::binary_row;
use crate::source::postgres::{ConnectOptions, Connector, PgSession};

/// Rows and the sum of their digests modulo 2^128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowSum {
    /// Count.
    pub rows: u64,
    /// Sum of XXH3-128 of every row without its line end.
    pub digest: u128,
}

impl RowSum {
    /// Adds one row, as COPY gave it.
    pub fn add_row(&mut self, row: &[u8], secret: &[u8]) {
        self.add_whole(row.strip_suffix(b"\n").unwrap_or(row), secret);
    }

    /// Adds one row without a line end, in binary say.
    fn add_whole(&mut self, row: &[u8], secret: &[u8]) {
        self.rows += 1;
        self.digest = self.digest.wrapping_add(xxh3_128_with_secret(row, secret));
    }

    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.digest = self.digest.wrapping_add(other.digest);
    }

    /// As `database.json` writes it: the bytes of the little-endian number in hex.
    pub fn digest_text(self) -> String {
        format!("{:032x}", self.digest.swap_bytes())
    }

    fn archived(table: &TableInfo) -> Option<Self> {
        let digest = u128::from_str_radix(&table.rows_digest, 16)
            .ok()
            .filter(|_| table.rows_digest.len() == 32)?;
        Some(Self {
            rows: table.rows,
            digest: digest.swap_bytes(),
        })
    }

    fn text(self) -> String {
        format!("{} rows, digest {}", self.rows, self.digest_text())
    }
}

/// What a comparison needs.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    pub(crate) info: &'a DatabaseInfo,
    pub(crate) connector: &'a Connector,
    pub(crate) recorder: &'a Recorder,
    /// Secret of the row digests, at least 192 bytes.
    pub(crate) secret: &'a [u8],
    pub(crate) loaded: &'a Loaded,
    pub(crate) jobs: usize,
    /// The database may hold other large objects than the archived ones.
    pub(crate) partial: bool,
}

/// Schema and name.
type TableName = (String, String);

/// Tables that are compared together.
type Group<'a> = (String, Vec<&'a TableInfo>);

impl Check<'_> {
    /// Compares everything; differences are in the report, errors end it.
    pub(crate) fn run(&self) -> Result<CheckReport, RestoreError> {
        let queue = Mutex::new(self.groups()?);
        let report = Mutex::new(CheckReport::default());
        let crew = Crew::new(self.connector, self.recorder);
        let results: Vec<Result<(), RestoreError>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1))
                .map(|_| scope.spawn(|| self.work(&crew, &queue, &report)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a worker that panics is our bug"))
                .collect()
        });
        results.into_iter().collect::<Result<(), RestoreError>>()?;
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.compare_others(&mut report)?;
        report.differences.sort_by(|a, b| a.object.cmp(&b.object));
        Ok(report)
    }

    fn groups(&self) -> Result<Vec<Group<'_>>, RestoreError> {
        let mut session = self.connector.connect(&ConnectOptions::dump())?;
        let mut groups: BTreeMap<String, Vec<&TableInfo>> = BTreeMap::new();
        let roots = self.roots(&mut session)?;
        for table in self.info.tables.iter().filter(|table| !table.data_excluded) {
            let own = (table.schema.clone(), table.name.clone());
            let key = roots.get(&own).or(table.load_via.as_ref()).unwrap_or(&own);
            groups
                .entry(format!("{}.{}", key.0, key.1))
                .or_default()
                .push(table);
        }
        let mut groups: Vec<Group<'_>> = groups.into_iter().collect();
        groups.sort_by_key(|(_, tables)| tables.iter().map(|table| table.rows).sum::<u64>());
        Ok(groups)
    }

    /// Of every table below a root through which one was loaded, that root.
    fn roots(
        &self,
        session: &mut PgSession,
    ) -> Result<BTreeMap<TableName, TableName>, RestoreError> {
        let mut roots = BTreeMap::new();
        let sql = format!(
            "WITH RECURSIVE {PARTITION_ROOT}, down AS (SELECT relid FROM root UNION ALL SELECT i.inhrelid FROM down \
             JOIN pg_catalog.pg_inherits i ON i.inhparent = down.relid) \
             SELECT n.nspname::text, c.relname::text, rn.nspname::text, r.relname::text FROM down \
             JOIN pg_catalog.pg_class c ON c.oid = down.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             CROSS JOIN root JOIN pg_catalog.pg_class r ON r.oid = root.relid JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace"
        );
        for (schema, name) in &self.loaded.via_root {
            for row in session.query(&sql, &[&qualified(schema, name)])? {
                roots.insert((row.get(0), row.get(1)), (row.get(2), row.get(3)));
            }
        }
        Ok(roots)
    }

    fn work(
        &self,
        crew: &Crew<'_>,
        queue: &Mutex<Vec<Group<'_>>>,
        report: &Mutex<CheckReport>,
    ) -> Result<(), RestoreError> {
        let is_work_left = || {
            !queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
        };
        let Some((mut session, _place)) = crew.join(ConnectOptions::dump(), &is_work_left)? else {
            return Ok(());
        };
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((object, tables)) = next else {
                return Ok(());
            };
            self.recorder.check_interrupt()?;
            let difference = self.compare(&mut session, &tables)?;
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.tables += u64::try_from(tables.len()).unwrap_or(u64::MAX);
            match difference {
                Ok(rows) => report.rows += rows,
                Err((archived, restored)) => report.differences.push(Difference {
                    object: format!("rows of {object}"),
                    archived,
                    restored,
                }),
            }
        }
    }

    /// The number of rows when they are equal, else what was expected and found.
    fn compare(
        &self,
        session: &mut PgSession,
        tables: &[&TableInfo],
    ) -> Result<Result<u64, (String, String)>, RestoreError> {
        let (mut archived, mut restored) = (RowSum::default(), RowSum::default());
        for table in tables {
            let Some(sum) = RowSum::archived(table) else {
                return Ok(Err(("no digest".to_owned(), "not compared".to_owned())));
            };
            archived.add(sum);
            match self.read_back(session, table) {
                Ok(sum) => restored.add(sum),
                Err(RestoreError::Target(error)) if error.server_error().is_some() => {
                    return Ok(Err((archived.text(), error.to_string())));
                }
                Err(error) => return Err(error),
            }
        }
        if archived == restored {
            return Ok(Ok(restored.rows));
        }
        Ok(Err((
            archived.text(),
            format!("{}{}", restored.text(), self.version_note(session)),
        )))
    }

    fn version_note(&self, session: &PgSession) -> String {
        if session.version_num() == self.info.server_version_num {
            return String::new();
        }
        let restored = &session.facts().version;
        format!(
            " (the text form of a type may differ between {} and {restored})",
            self.info.server_version
        )
    }

    fn read_back(
        &self,
        session: &mut PgSession,
        table: &TableInfo,
    ) -> Result<RowSum, RestoreError> {
        let name = qualified(&table.schema, &table.name);
        let list = column_list(&table.columns);
        let encoding = encoding_option(&self.info.encoding);
        let columns = list.trim_start_matches([' ', '(']).trim_end_matches(')');
        let floats =
            match self.info.server_version_num < SHORTEST && session.version_num() >= SHORTEST {
                true => FloatColumns::of(session, &name, &table.columns)?,
                false => FloatColumns::default(),
            };
        let mut sum = RowSum::default();
        if !table.binary_parts.is_empty() {
            // What was archived in binary is read back in binary: the server can't make the text of its rows.
            let filter = table.filter.as_deref().unwrap_or_default();
            let written = self.written_in_binary(table);
            let rows = |is: &str, form: &str| {
                format!(
                    "COPY (SELECT {columns} FROM (SELECT *, xmin AS holdfast_xmin FROM ONLY {name} {filter}) t \
                     WHERE holdfast_xmin::text {is} ({written})) TO STDOUT{form}"
                )
            };
            let sql = rows("IN", " WITH (FORMAT binary)");
            self.add_rows(session, &sql, None, &mut sum)?;
            let sql = rows("NOT IN", &encoding);
            self.add_rows(session, &sql, Some(&floats), &mut sum)?;
            return Ok(sum);
        }
        let sql = match &table.filter {
            Some(filter) => {
                format!("COPY (SELECT {columns} FROM ONLY {name} {filter}) TO STDOUT{encoding}")
            }
            None => format!("COPY {name}{list} TO STDOUT{encoding}"),
        };
        self.add_rows(session, &sql, Some(&floats), &mut sum)?;
        Ok(sum)
    }

    /// Numbers of the transactions that wrote the binary parts of a table, as a list of strings; never an empty one.
    fn written_in_binary(&self, table: &TableInfo) -> String {
        let position =
            |other: &TableInfo| (&other.schema, &other.name) == (&table.schema, &table.name);
        let position = self.info.tables.iter().position(position);
        let written = position.and_then(|position| self.loaded.binary.get(&position));
        let numbers = written
            .into_iter()
            .flatten()
            .map(|number| format!("'{number}'"));
        let numbers: Vec<String> = std::iter::once("''".to_owned()).chain(numbers).collect();
        numbers.join(", ")
    }

    fn add_rows(
        &self,
        session: &mut PgSession,
        sql: &str,
        text: Option<&FloatColumns>,
        sum: &mut RowSum,
    ) -> Result<(), RestoreError> {
        session.copy_out(sql, &mut |message| {
            if sum.rows.is_multiple_of(4096) {
                self.recorder.check_interrupt()?;
            }
            match text {
                None => {
                    if let Some(row) = binary_row(message) {
                        sum.add_whole(row, self.secret);
                    }
                }
                Some(floats) if floats.is_empty() => sum.add_row(message, self.secret),
                Some(floats) => sum.add_row(&floats.rewrite(message), self.secret),
            }
            Ok::<(), RestoreError>(())
        })?;
        Ok(())
    }

    fn compare_others(&self, report: &mut CheckReport) -> Result<(), RestoreError> {
        let mut session = self.connector.connect(&ConnectOptions::dump())?;
        for sequence in &self.info.sequences {
            self.recorder.check_interrupt()?;
            let sql = format!(
                "SELECT last_value, is_called FROM {}",
                qualified(&sequence.schema, &sequence.name)
            );
            let archived = format!("{}, is_called {}", sequence.last_value, sequence.is_called);
            let restored = match session.query_one(&sql, &[]) {
                Ok(row) => format!(
                    "{}, is_called {}",
                    row.get::<_, i64>(0),
                    row.get::<_, bool>(1)
                ),
                Err(error) if error.server_error().is_some() => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            if archived != restored {
                report.differences.push(Difference {
                    object: format!("sequence {}.{}", sequence.schema, sequence.name),
                    archived,
                    restored,
                });
            }
        }
        if self.partial {
            return Ok(());
        }
        let count: i64 = session
            .query_one(
                "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata",
                &[],
            )?
            .get(0);
        if u64::try_from(count) != Ok(self.info.large_objects) {
            let (archived, restored) = (self.info.large_objects.to_string(), count.to_string());
            report.differences.push(Difference {
                object: "number of large objects".to_owned(),
                archived,
                restored,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[&str], secret: &[u8]) -> RowSum {
        let mut sum = RowSum::default();
        rows.iter()
            .for_each(|row| sum.add_row(row.as_bytes(), secret));
        sum
    }

    #[test]
    fn order_and_line_ends_do_not_matter_but_rows_do() {
        let secret: Vec<u8> = (0..=191).collect();
        let both = sum(&["a\tb\n", "c\n", ""], &secret);
        assert_eq!(both, sum(&["", "c", "a\tb"], &secret));
        let mut added = sum(&["c"], &secret);
        added.add(sum(&["a\tb\n", "\n"], &secret));
        assert_eq!(both, added);
        assert_ne!(both.digest, sum(&["a\tb\n", "d\n", ""], &secret).digest);
        let other: Vec<u8> = (1..=192).collect();
        assert_ne!(both.digest, sum(&["a\tb\n", "c\n", ""], &other).digest);
    }

    #[test]
    fn digests_are_little_endian_hex() {
        let sum = RowSum {
            rows: 3,
            digest: 0x0102,
        };
        assert_eq!(sum.digest_text(), "02010000000000000000000000000000");
        let table = TableInfo {
            rows: 3,
            rows_digest: sum.digest_text(),
            ..TableInfo::default()
        };
        assert_eq!(RowSum::archived(&table), Some(sum));
        assert_eq!(
            RowSum::archived(&TableInfo {
                rows_digest: "02".to_owned(),
                ..table
            }),
            None
        );
    }
}
