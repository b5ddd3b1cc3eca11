//! Queries after a restore or a drill: what they gave, and whether it is what they must give.
//!
//! Memory: [`ROWS_MAX`] rows of each are kept, all are counted; the client holds the answer of one query whole.

use serde::Serialize;
use tokio_postgres::SimpleQueryMessage;

use crate::site::config::run::{RestoreQuery, SqlExpectation};
use crate::source::postgres::{ConnectOptions, Connector, PgSession};

/// Rows that stand in the report.
pub const ROWS_MAX: usize = 1000;

/// What a query gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueryReport {
    /// What it is called.
    pub name: String,
    /// The database component.
    pub database: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The first rows, as text.
    pub rows: Vec<Vec<Option<String>>>,
    /// All rows.
    pub row_count: u64,
    /// Why it is not good: it failed, or gave something else than it must.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Runs a query with the settings of its database and role.
pub fn run_query(connector: &Connector, query: &RestoreQuery) -> QueryReport {
    let mut report = QueryReport {
        name: query.name.clone(),
        database: query.database.clone(),
        ..QueryReport::default()
    };
    let given = connector
        .connect(&ConnectOptions::default())
        .and_then(|mut session| fill(&mut session, &query.sql, &mut report));
    report.problem = match given {
        Ok(()) => query
            .expect
            .as_ref()
            .and_then(|expect| unexpected(&report, expect)),
        Err(error) => Some(error.to_string()),
    };
    report
}

fn fill(
    session: &mut PgSession,
    sql: &str,
    report: &mut QueryReport,
) -> Result<(), crate::source::postgres::PgError> {
    for message in session.simple_query(sql)? {
        let SimpleQueryMessage::Row(row) = message else {
            continue;
        };
        report.row_count += 1;
        if report.rows.len() == ROWS_MAX {
            continue;
        }
        if report.columns.is_empty() {
            let names = row.columns().iter();
            report.columns = names.map(|column| column.name().to_owned()).collect();
        }
        let values = (0..row.len()).map(|n| row.get(n).map(str::to_owned));
        report.rows.push(values.collect());
    }
    Ok(())
}

/// What is wrong with an answer.
pub fn unexpected(report: &QueryReport, expect: &SqlExpectation) -> Option<String> {
    match (expect, report.rows.as_slice()) {
        (SqlExpectation::NoRows, []) => None,
        (SqlExpectation::NoRows, _) => Some(format!(
            "it must give no rows and gave {}",
            report.row_count
        )),
        (SqlExpectation::Value(value), [row]) => match row.as_slice() {
            [Some(found)] if found == value => None,
            [Some(found)] => Some(format!("it must give {value} and gave {found}")),
            [None] => Some(format!("it must give {value} and gave NULL")),
            columns => Some(format!(
                "it must give {value} and gave {} columns",
                columns.len()
            )),
        },
        (SqlExpectation::Value(value), _) => Some(format!(
            "it must give {value} and gave {} rows",
            report.row_count
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_with_what_is_expected() {
        let answer = |rows: &[&[Option<&str>]]| QueryReport {
            rows: rows
                .iter()
                .map(|row| row.iter().map(|v| v.map(str::to_owned)).collect())
                .collect(),
            row_count: u64::try_from(rows.len()).unwrap(),
            ..QueryReport::default()
        };
        let value = SqlExpectation::Value("7".into());
        let check = |rows: &[&[Option<&str>]], expect: &SqlExpectation, good: bool| {
            let found = unexpected(&answer(rows), expect);
            assert_eq!(found.is_none(), good, "{found:?}");
        };
        check(&[], &SqlExpectation::NoRows, true);
        check(&[&[Some("1")]], &SqlExpectation::NoRows, false);
        check(&[&[Some("7")]], &value, true);
        check(&[&[Some("8")]], &value, false);
        check(&[&[None]], &value, false);
        check(&[], &value, false);
        check(&[&[Some("7"), Some("7")]], &value, false);
        check(&[&[Some("7")], &[Some("7")]], &value, false);
    }
}
