//! What was renamed while a database was copied, so that its rows and its schema would not say the same.
//!
//! | what | names it as of the snapshot | names it as of now |
//! |---|---|---|
//! | a table, its schema, a column | our COPY, which fails or whose part is begun again | `pg_dump`, where it comes to it later |
//! | a value of an enum | `CREATE TYPE` of `pg_dump` | every row, and the definitions of defaults and conditions |

use std::collections::BTreeSet;

use super::catalog::{self, Table};
use super::error::DumpError;
use super::parts;
use super::stream::Run;
use crate::source::postgres::{PgSession, RetryPolicy};

impl Run<'_> {
    /// Compares the names of tables once more, right after the schema was dumped: a table may have been copied and then
    /// renamed, or a column of it, before `pg_dump` came to it, and then the schema says both names. Parts that are copied
    /// later notice that by themselves. Returns whether there was a connection for it.
    pub(super) fn compare_names_apart(&self) -> Result<bool, DumpError> {
        let Some(_lease) = self.open.server.budget.child(&|| self.check().is_err()) else {
            return Ok(true);
        };
        let mut options = self.open.source.options.session();
        options.retry = RetryPolicy::once();
        let changed = self
            .open
            .connector
            .connect(&options)
            .and_then(|mut session| {
                let candidates = parts::renamed_candidates(self.oldest());
                let changed = catalog::rows(&mut session, &candidates)?;
                self.import(&mut session)?;
                Ok((session, changed))
            });
        let (mut session, changed) = match changed {
            Ok(changed) => changed,
            Err(error) => {
                tracing::debug!(%error, "names are compared at the end");
                return Ok(false);
            }
        };
        let changed: BTreeSet<u32> = changed.iter().map(|row| catalog::number(row, 0)).collect();
        self.compare_names(&mut session, |table| changed.contains(&table.oid))?;
        session.close();
        Ok(true)
    }

    /// Compares the names of some tables with those of the snapshot.
    pub(super) fn compare_names(
        &self,
        session: &mut PgSession,
        which: impl Fn(&Table) -> bool,
    ) -> Result<(), DumpError> {
        let tables = self.tables().iter();
        for table in tables.filter(|table| !table.data_excluded && which(table)) {
            let found = catalog::rows(session, &parts::names_check(table, session.version_num()))?;
            if found.first().and_then(|row| row.get(0)) != Some("t") {
                return Err(DumpError::Restart(format!(
                    "table {}.{}: it was altered while the schema was dumped",
                    table.schema, table.name
                )));
            }
        }
        Ok(())
    }

    /// Looks whether a value of an enum got another name since the snapshot. Ends the transaction of the session: what is now
    /// is not seen in it.
    pub(super) fn compare_enums(&self, session: &mut PgSession) -> Result<(), DumpError> {
        let known = &self.open.prepared.catalog.enum_values;
        if known.is_empty() {
            return Ok(());
        }
        session.batch_execute("COMMIT")?;
        let changed = catalog::rows(session, &parts::renamed_values(self.oldest()))?;
        let is_known = |row: &&_| known.contains(&catalog::number(row, 0));
        match changed.iter().find(is_known) {
            None => Ok(()),
            Some(row) => Err(DumpError::Restart(format!(
                "type {}: a value was renamed while the database was read",
                catalog::text(row, 1)
            ))),
        }
    }

    /// Returns the oldest transaction that the snapshot does not see for sure.
    fn oldest(&self) -> u64 {
        let visible = &self.open.prepared.snapshot.visible;
        let oldest = visible.split(':').next().and_then(|xmin| xmin.parse().ok());
        oldest.unwrap_or(0)
    }
}
