//! A database: can it be reached, what is the role not allowed to read, is there a fitting `pg_dump`.

use super::{Check, Verdict};
use crate::ops::backup::{Environment, loss};
use crate::ops::connect::connect_with;
use crate::site::config::DatabaseSettings;
use crate::source::postgres::dump::conditions;
use crate::source::postgres::pgtools::ToolPlaces;
use crate::source::postgres::{
    ConnectOptions, PgError, PgSession, find_tool, release_waves, replay, rights,
};

/// Looks at a database.
pub(super) fn check(settings: &DatabaseSettings, environment: &Environment) -> Check {
    let mut check = Check::new("database", &settings.name);
    match connect_with(settings, environment, ConnectOptions::dump()) {
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
        Ok(tool) => {
            check.add(
                Verdict::Good,
                format!("{} {} fits", tool.path.display(), tool.version),
            );
            let older =
                release_waves::tool_is_older("pg_dump", tool.version.num, facts.version_num);
            if let Some(words) = older {
                check.add(Verdict::Note, words);
            }
        }
        Err(error) => check.add(Verdict::Fails, error.to_string()),
    }
}

fn look(
    check: &mut Check,
    session: &mut PgSession,
    settings: &DatabaseSettings,
) -> Result<(), PgError> {
    let (schemas, rows_excluded) =
        conditions(&settings.exclude_schema, &settings.exclude_table_data);
    let tables = session.simple_column(&format!(
        "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {schemas} AND NOT ({rows_excluded})"
    ))?;
    let bytes = session.simple_column(
        "SELECT pg_catalog.pg_size_pretty(pg_catalog.pg_database_size(current_database()))",
    )?;
    check.add(
        Verdict::Good,
        format!("{} tables, {}", first(tables), first(bytes)),
    );
    let accepted: Vec<rights::Loss> = settings.accept.iter().copied().map(loss).collect();
    for gap in rights::hidden(session)? {
        if gap.is_accepted(&accepted) {
            let what = format!("{} will be missing, which is accepted", gap.summary());
            check.add(Verdict::Note, what);
            continue;
        }
        check.add(
            Verdict::Skips,
            format!("{} would be missing; {}", gap.summary(), gap.remedy),
        );
    }
    let wanted = rights::Wanted {
        schemas: &schemas,
        rows_excluded: &rows_excluded,
    };
    for gap in rights::closed(session, wanted)? {
        match gap.hidden {
            true => check.add(
                Verdict::Skips,
                format!("{} would be missing; {}", gap.summary(), gap.remedy),
            ),
            false => check.add(Verdict::Fails, format!("{}; {}", gap.summary(), gap.remedy)),
        }
    }
    standby(check, session, settings)?;
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

/// What a standby does not have, and what may end a dump from it.
fn standby(
    check: &mut Check,
    session: &mut PgSession,
    settings: &DatabaseSettings,
) -> Result<(), PgError> {
    if !session.facts().in_recovery {
        return Ok(());
    }
    let unlogged = session.simple_column(
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'S') ORDER BY 1",
    )?;
    let unlogged: Vec<String> = unlogged.into_iter().flatten().collect();
    check.add_names(
        Verdict::Note,
        "a standby does not have the content of unlogged tables and sequences",
        &unlogged,
    );
    if replay::is_paused(session)? {
        check.add(
            Verdict::Note,
            "replay is paused; if nobody wanted that: SELECT pg_wal_replay_resume()",
        );
    }
    let verdict = match settings.pause_replay {
        true => Verdict::Good,
        false => Verdict::Note,
    };
    check.add(
        verdict,
        format!(
            "{}{}",
            replay::settings_text(session)?,
            match settings.pause_replay {
                true => "; replay is paused meanwhile",
                false => "; replay may end a long dump (pause-replay = true)",
            }
        ),
    );
    if settings.pause_replay {
        for gap in replay::missing_rights(session)? {
            check.add(Verdict::Fails, gap);
        }
    }
    Ok(())
}

fn first(column: Vec<Option<String>>) -> String {
    column.into_iter().flatten().next().unwrap_or_default()
}
