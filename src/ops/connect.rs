//! Connections to the databases of a site, for the commands that ask them something.

use crate::ops::backup::Environment;
use crate::site::config::DatabaseSettings;
use crate::source::postgres::connect::RetryPolicy;
use crate::source::postgres::{
    ConnInfo, ConnInfoError, ConnSettings, ConnectOptions, Connector, PgError, PgSession,
};
use tokio_postgres::SimpleQueryMessage;

/// Where a database of a site is, with its password file.
pub fn settings(
    database: &DatabaseSettings,
    environment: &Environment,
) -> Result<ConnSettings, ConnInfoError> {
    let info = ConnInfo::parse(database.conninfo.expose())?;
    let mut resolved = info.resolve(&|name| environment(name))?;
    if let Some(file) = &database.passfile {
        resolved.set_passfile(file.clone());
    }
    Ok(resolved)
}

/// Connects to a database of a site for statements that people wrote: with the settings that any client would have. Tries once.
pub fn connect(
    database: &DatabaseSettings,
    environment: &Environment,
) -> Result<PgSession, PgError> {
    connect_with(database, environment, ConnectOptions::default())
}

/// Connects to a database of a site; tries once.
pub(crate) fn connect_with(
    database: &DatabaseSettings,
    environment: &Environment,
    options: ConnectOptions,
) -> Result<PgSession, PgError> {
    let options = ConnectOptions {
        retry: RetryPolicy::once(),
        ..options
    };
    Connector::new(settings(database, environment)?).connect(&options)
}

/// One row of a query: each value as the server writes it, absent where it is NULL.
pub type TextRow = Vec<Option<String>>;

/// The first `max` rows of a query, in a transaction that is open already. The rest stays on the server.
pub fn first_rows(session: &mut PgSession, query: &str, max: u32) -> Result<Vec<TextRow>, PgError> {
    let query = query.trim().trim_end_matches(';');
    // A line break ends a comment that the query may end with.
    session.batch_execute(&format!(
        "DECLARE holdfast_rows NO SCROLL CURSOR FOR {query}\n"
    ))?;
    let messages = session.simple_query(&format!("FETCH FORWARD {max} FROM holdfast_rows"))?;
    session.batch_execute("CLOSE holdfast_rows")?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|column| row.get(column).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    });
    Ok(rows.collect())
}
