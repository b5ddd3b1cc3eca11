//! Tells a restored database about its new place: the statements of `[relocate]`, and what the profile of the site makes of `paths` and `hosts`.
//!
//! All of it happens in the transaction that the caller has begun, in a database that nobody uses yet; an error rolls all of it back.
//!
//! Invariants:
//! 1. What was to be changed and is not there is an error: a relocation that does nothing leaves a site that writes to the old place
//!    (`only_what_differs_and_relocated` in `it/site_restore.rs`).
//! 2. Values reach the server as parameters in text form, never as a part of a statement.

use bytes::BytesMut;
use serde::Serialize;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use crate::site::config::run::{Mapping, RelocateSettings};
use crate::source::postgres::PgSession;

/// Changed values that stand in the report of one column.
const VALUES_MAX: usize = 100;

/// Qlik Sense: the table of the share's folders, and its columns.
const QLIK_PATHS: (&str, &[&str]) = (
    "ServiceClusterSettingsSharedPersistenceProperties",
    &[
        "RootFolder",
        "AppFolder",
        "StaticContentRootFolder",
        "Connector32RootFolder",
        "Connector64RootFolder",
        "ArchivedLogsRootFolder",
    ],
);
/// Qlik Sense: tables that name hosts of nodes, and their column.
const QLIK_HOSTS: (&[&str], &str) = (&["LocalConfigs", "ServerNodeConfigurations"], "HostName");

/// The profile whose paths and hosts are known.
pub const PROFILE_QLIK: &str = "qlik-sense";

/// A value in text form; the server says of which type it is.
#[derive(Debug)]
struct Text<'a>(&'a str);

impl ToSql for Text<'_> {
    fn to_sql(
        &self,
        _type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_type: &Type) -> bool {
        true
    }

    fn encode_format(&self, _type: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

/// What one statement, or the mapping of one column, changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Relocated {
    /// The statement, or table and column.
    pub what: String,
    /// Rows that it matched.
    pub rows: u64,
    /// Values before and after, where they are known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<(String, String)>,
}

/// Why nothing was relocated; complete in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RelocateError(pub String);

/// What is wrong with settings before anything is touched.
pub fn unfit(profile: Option<&str>, settings: &RelocateSettings) -> Option<String> {
    let maps = !settings.paths.is_empty() || !settings.hosts.is_empty();
    (maps && profile != Some(PROFILE_QLIK)).then(|| {
        format!(
            "[relocate] of {:?} has paths or hosts, and only [site] profile = {PROFILE_QLIK:?} says what they mean; give statements",
            settings.database
        )
    })
}

/// What will be done, for people.
pub fn described(settings: &RelocateSettings) -> Vec<String> {
    let maps = [("paths", &settings.paths), ("hosts", &settings.hosts)];
    let maps = maps.into_iter().flat_map(|(what, maps)| {
        maps.iter()
            .map(move |map| format!("{what}: {} becomes {}", map.from, map.to))
    });
    let statements = settings.statements.iter().map(|s| one_line(&s.sql));
    maps.chain(statements)
        .map(|text| format!("{}: {text}", settings.database))
        .collect()
}

fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Relocates a database within the open transaction of `session`.
pub fn relocate(
    session: &mut PgSession,
    settings: &RelocateSettings,
) -> Result<Vec<Relocated>, RelocateError> {
    let mut all = Vec::new();
    if !settings.paths.is_empty() {
        let (table, columns) = QLIK_PATHS;
        let places: Vec<(&str, &str)> = columns.iter().map(|column| (table, *column)).collect();
        all.extend(map(
            session,
            settings,
            &places,
            &settings.paths,
            &path_mapped,
        )?);
    }
    if !settings.hosts.is_empty() {
        let (tables, column) = QLIK_HOSTS;
        let places: Vec<(&str, &str)> = tables.iter().map(|table| (*table, column)).collect();
        all.extend(map(
            session,
            settings,
            &places,
            &settings.hosts,
            &host_mapped,
        )?);
    }
    for statement in &settings.statements {
        let values: Vec<Text<'_>> = statement.values.iter().map(|v| Text(v)).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
        let what = one_line(&statement.sql);
        let rows = session.execute(&statement.sql, &parameters).map_err(|e| {
            RelocateError(format!(
                "the relocation of database {:?} failed at: {what}: {e}",
                settings.database
            ))
        })?;
        if rows == 0 && !statement.may_match_none {
            return Err(RelocateError(format!(
                "the relocation of database {:?} matched no row: {what}; if that is good, set may-match-none = true",
                settings.database
            )));
        }
        all.push(Relocated {
            what,
            rows,
            values: Vec::new(),
        });
    }
    Ok(all)
}

type Mapped<'a> = &'a dyn Fn(&str, &Mapping) -> Option<String>;

/// Maps the values of columns, as far as the columns exist; a mapping that matches no value at all is an error.
fn map(
    session: &mut PgSession,
    settings: &RelocateSettings,
    places: &[(&str, &str)],
    mappings: &[Mapping],
    mapped: Mapped<'_>,
) -> Result<Vec<Relocated>, RelocateError> {
    let failed = |e: crate::source::postgres::PgError| {
        RelocateError(format!(
            "the relocation of database {:?} failed: {e}",
            settings.database
        ))
    };
    let sql = "SELECT n.nspname::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = $1 AND a.attname = $2 AND a.attnum > 0 \
               AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";
    let mut used = vec![false; mappings.len()];
    let (mut all, mut columns) = (Vec::new(), 0);
    for (table, column) in places {
        for row in session.query(sql, &[table, column]).map_err(failed)? {
            columns += 1;
            let schema: String = row.get(0);
            let name = format!("{}.{}", quoted(&schema), quoted(table));
            let select = format!(
                "SELECT ctid::text, {}::text FROM ONLY {name} WHERE {0} IS NOT NULL",
                quoted(column)
            );
            let mut one = Relocated {
                what: format!("{table}.{column}"),
                ..Relocated::default()
            };
            for row in session.query(&select, &[]).map_err(failed)? {
                let (place, before): (String, String) = (row.get(0), row.get(1));
                let first = mappings
                    .iter()
                    .enumerate()
                    .find_map(|(n, mapping)| Some((n, mapped(&before, mapping)?)));
                let Some((n, after)) = first else { continue };
                used[n] = true;
                let update = format!(
                    "UPDATE ONLY {name} SET {} = $1 WHERE ctid = $2",
                    quoted(column)
                );
                let values: [&(dyn ToSql + Sync); 2] = [&Text(&after), &Text(&place)];
                one.rows += session.execute(&update, &values).map_err(failed)?;
                if one.values.len() < VALUES_MAX {
                    one.values.push((before, after));
                }
            }
            all.push(one);
        }
    }
    if columns == 0 {
        let names: Vec<&str> = places.iter().map(|(table, _)| *table).collect();
        return Err(RelocateError(format!(
            "the relocation of database {:?} finds none of the tables that hold such values: {}",
            settings.database,
            names.join(", ")
        )));
    }
    match used.iter().position(|used| !used) {
        None => Ok(all),
        Some(n) => Err(RelocateError(format!(
            "the relocation of database {:?} matched no row: no value begins with {:?}",
            settings.database, mappings[n].from
        ))),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A path that is `from` or stands below it; letter case does not matter on Windows.
fn path_mapped(value: &str, mapping: &Mapping) -> Option<String> {
    let head = value.get(..mapping.from.len())?;
    let rest = &value[mapping.from.len()..];
    let ends = |text: &str| text.ends_with(['/', '\\']);
    let at_border = rest.is_empty() || rest.starts_with(['/', '\\']) || ends(head);
    (at_border && head.to_lowercase() == mapping.from.to_lowercase())
        .then(|| format!("{}{rest}", mapping.to))
}

fn host_mapped(value: &str, mapping: &Mapping) -> Option<String> {
    (value.to_lowercase() == mapping.from.to_lowercase()).then(|| mapping.to.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_mapped_at_their_borders() {
        let map = Mapping {
            from: r"\\old\Share".into(),
            to: r"\\new\Qlik".into(),
        };
        let check = |value: &str, expected: Option<&str>| {
            assert_eq!(path_mapped(value, &map).as_deref(), expected, "{value}");
        };
        check(r"\\old\share\Apps", Some(r"\\new\Qlik\Apps"));
        check(r"\\old\Share", Some(r"\\new\Qlik"));
        check(r"\\old\Shared\Apps", None);
        check(r"\\old", None);
        check(r"\\olé\Share", None);
        let map = Mapping {
            from: "/old/".into(),
            to: "/new/".into(),
        };
        assert_eq!(path_mapped("/old/x", &map).as_deref(), Some("/new/x"));
        assert_eq!(
            host_mapped(
                "Central.A",
                &Mapping {
                    from: "central.a".into(),
                    to: "b".into()
                }
            )
            .as_deref(),
            Some("b")
        );
    }
}
