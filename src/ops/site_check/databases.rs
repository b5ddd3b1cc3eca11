//! A database: can it be reached, what is the role not allowed to read, is there a fitting `pg_dump`.

use super::{Check, Verdict};
use crate::ops::backup::Environment;
use crate::site::config::DatabaseSettings;
use crate::source::postgres::connect::RetryPolicy;
use crate::source::postgres::pgtools::ToolPlaces;
use crate::source::postgres::{ConnInfo, ConnectOptions, Connector, PgError, PgSession, find_tool};

/// Tables of users; `$` stands for the condition.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND ($) ORDER BY 1, 2";

const UNREADABLE: &str = "NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    AND pg_catalog.has_table_privilege(c.oid, 'SELECT'))";

const ROW_SECURITY: &str = "c.relrowsecurity AND pg_catalog.row_security_active(c.oid)";

const LARGE_OBJECTS: &str = "SELECT count(*), count(*) FILTER (WHERE NOT readable) FROM (
    SELECT pg_catalog.pg_has_role(lomowner, 'USAGE') OR current_setting('lo_compat_privileges')::boolean
        OR EXISTS (SELECT 1 FROM pg_catalog.aclexplode(lomacl) a WHERE a.privilege_type = 'SELECT'
            AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE'))) AS readable
    FROM pg_catalog.pg_largeobject_metadata) looked";

/// Looks at a database.
pub(super) fn check(settings: &DatabaseSettings, environment: &Environment) -> Check {
    let mut check = Check::new("database", &settings.name);
    match connect(settings, environment) {
        Ok(mut session) => {
            tool(&mut check, &session, environment);
            if let Err(error) = look(&mut check, &mut session, settings) {
                check.add(Verdict::Fails, error.to_string());
            }
        }
        Err(error) => check.add(Verdict::Fails, error.to_string()),
    }
    check
}

fn connect(settings: &DatabaseSettings, environment: &Environment) -> Result<PgSession, PgError> {
    let info = ConnInfo::parse(settings.conninfo.expose())?;
    let mut resolved = info.resolve(&|name| environment(name))?;
    if let Some(file) = &settings.passfile {
        resolved.set_passfile(file.clone());
    }
    let options = ConnectOptions {
        retry: RetryPolicy::once(),
        ..ConnectOptions::default()
    };
    Connector::new(resolved).connect(&options)
}

fn tool(check: &mut Check, session: &PgSession, environment: &Environment) {
    let facts = session.facts();
    let endpoint = session.endpoint();
    let details = [
        (facts.in_recovery, "a standby"),
        (endpoint.encrypted, "encrypted"),
    ];
    let details: Vec<&str> = details
        .iter()
        .filter_map(|(holds, text)| holds.then_some(*text))
        .collect();
    let version = facts.version.split(' ').next().unwrap_or_default();
    let details = match details.is_empty() {
        true => String::new(),
        false => format!(" ({})", details.join(", ")),
    };
    check.add(
        Verdict::Good,
        format!(
            "{endpoint} as {}, PostgreSQL {version}{details}",
            endpoint.user
        ),
    );
    let places = ToolPlaces {
        path: environment("PATH"),
        ..ToolPlaces::default()
    };
    match find_tool("pg_dump", facts.version_num, &places) {
        Ok(tool) => check.add(
            Verdict::Good,
            format!("{} {} fits", tool.path.display(), tool.version),
        ),
        Err(error) => check.add(Verdict::Fails, error.to_string()),
    }
}

fn look(
    check: &mut Check,
    session: &mut PgSession,
    settings: &DatabaseSettings,
) -> Result<(), PgError> {
    let superuser = session
        .simple_column("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")?
        .first()
        .cloned()
        .flatten();
    let superuser = superuser.as_deref() == Some("t");
    if !superuser {
        check.add(
            Verdict::Note,
            format!(
                "{} is no superuser: passwords of roles are not taken",
                session.endpoint().user
            ),
        );
    }
    let all = tables(session, "true", settings, &settings.exclude_table_data)?;
    let bytes = session.simple_column(
        "SELECT pg_catalog.pg_size_pretty(pg_catalog.pg_database_size(current_database()))",
    )?;
    let bytes = bytes.into_iter().flatten().next().unwrap_or_default();
    check.add(Verdict::Good, format!("{} tables, {bytes}", all.len()));
    check.add_names(
        Verdict::Fails,
        "no right to read",
        // pg_dump locks every table whose definition it writes, rows or not, and for that it needs the right to read.
        &tables(session, UNREADABLE, settings, &[])?,
    );
    if session.version_num() >= 90_500 {
        check.add_names(
            Verdict::Fails,
            "row security hides rows of",
            &tables(
                session,
                ROW_SECURITY,
                settings,
                &settings.exclude_table_data,
            )?,
        );
    }
    // Older servers do not know FILTER, and only superusers are sure to read there.
    if !superuser && session.version_num() >= 90_400 {
        let row = session.query_one(LARGE_OBJECTS, &[])?;
        let (count, unreadable): (i64, i64) = (row.get(0), row.get(1));
        if unreadable > 0 {
            check.add(
                Verdict::Fails,
                format!("no right to read {unreadable} of {count} large objects"),
            );
        }
    }
    let foreign = session.simple_column(
        "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relkind = 'f' ORDER BY 1",
    )?;
    let foreign: Vec<String> = foreign.into_iter().flatten().collect();
    check.add_names(
        Verdict::Note,
        "foreign tables are taken without their rows, which lie elsewhere",
        &foreign,
    );
    Ok(())
}

/// The tables of wanted schemas for which the condition holds and that no pattern fits.
fn tables(
    session: &mut PgSession,
    condition: &str,
    settings: &DatabaseSettings,
    without: &[String],
) -> Result<Vec<String>, PgError> {
    let rows = session.query(&TABLES.replace('$', condition), &[])?;
    let names = rows.iter().map(|row| (row.get(0), row.get(1)));
    let wanted = names.filter(|(schema, table): &(String, String)| {
        let of_schema = settings.exclude_schema.iter().any(|p| matches(p, schema));
        let full = format!("{schema}.{table}");
        let of_table = without
            .iter()
            .any(|p| matches(p, &full) || matches(p, table));
        !of_schema && !of_table
    });
    Ok(wanted
        .map(|(schema, table)| format!("{schema}.{table}"))
        .collect())
}

/// Whether a name fits a pattern of `pg_dump`: `*` and `?`; unquoted letters mean small ones. Other signs are taken as they are, so this
/// may miss that something is left out, and then says too much rather than too little.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = match pattern.contains('"') {
        true => pattern.replace('"', ""),
        false => pattern.to_lowercase(),
    };
    wildcard(pattern.as_bytes(), name.as_bytes())
}

fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            wildcard(rest, name)
                || name
                    .split_first()
                    .is_some_and(|(_, tail)| wildcard(pattern, tail))
        }
        (Some((b'?', rest)), Some((_, tail))) => wildcard(rest, tail),
        (Some((a, rest)), Some((b, tail))) if a == b => wildcard(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        };
        check("public.log_*", "public.log_2026", true);
        check("public.log_*", "public.blog_2026", false);
        check("LOG", "log", true);
        check("\"Log\"", "Log", true);
        check("\"Log\"", "log", false);
        check("a?c", "abc", true);
        check("*", "", true);
        check("", "a", false);
    }
}
