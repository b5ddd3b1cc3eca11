//! Checks of servers: a query in a database of the site, lists of a Redis server.

use std::time::{Duration, Instant};

use redis::IntoConnectionInfo;

use super::{Found, Outcome, PreflightContext, compare_rows, left};
use crate::ops::connect::{TextRow, connect, first_rows};
use crate::site::config::Confidential;
use crate::site::config::run::SqlExpectation;
use crate::site::secrets::SecretSource;
use crate::source::postgres::{PgError, PgSession};

/// How many rows of a query are looked at.
const ROWS_MAX: u32 = 1000;

/// Runs a query in a database of the site and compares what it gives.
pub(super) fn sql(
    context: &PreflightContext<'_>,
    database: &str,
    query: &str,
    expect: &SqlExpectation,
    limit: Duration,
) -> Found {
    let Some(settings) = context.site.databases.iter().find(|d| d.name == database) else {
        return (
            Outcome::Unknown,
            format!("no [[database]] is called {database}"),
        );
    };
    let asked = connect(settings, &context.environment)
        .and_then(|mut session| ask(&mut session, query, limit));
    match asked {
        Ok(rows) => compare_rows(&rows, expect),
        Err(error) => (Outcome::Unknown, error.to_string()),
    }
}

/// The rows of a query, in a transaction that can't write.
fn ask(session: &mut PgSession, query: &str, limit: Duration) -> Result<Vec<TextRow>, PgError> {
    session.batch_execute(&format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {}",
        limit.as_millis()
    ))?;
    let rows = first_rows(session, query, ROWS_MAX)?;
    session.batch_execute("ROLLBACK")?;
    Ok(rows)
}

/// Asks a Redis server for the lengths of lists.
pub(super) fn redis(
    url: &Confidential,
    password: Option<&SecretSource>,
    lists: &[String],
    limit: Duration,
) -> Found {
    match lengths(url, password, lists, Instant::now() + limit) {
        Ok(lengths) => {
            let full: Vec<String> = lists
                .iter()
                .zip(&lengths)
                .filter(|(_, length)| **length > 0)
                .map(|(list, length)| format!("{list} holds {length}"))
                .collect();
            match full.as_slice() {
                [] => (Outcome::Holds, format!("{} lists are empty", lists.len())),
                full => (Outcome::Fails, full.join(", ")),
            }
        }
        Err(reason) => (Outcome::Unknown, reason),
    }
}

fn lengths(
    url: &Confidential,
    password: Option<&SecretSource>,
    lists: &[String],
    deadline: Instant,
) -> Result<Vec<u64>, String> {
    // Errors of the crate may quote the URL, which may hold a password.
    let bad_url = |_quotes_the_url| "the url of the Redis server can't be read".to_owned();
    let mut info = url.expose().into_connection_info().map_err(bad_url)?;
    if let Some(source) = password {
        let secret = source
            .read("the password of the Redis server", left(deadline))
            .map_err(|error| error.to_string())?
            .value;
        let text = std::str::from_utf8(secret.expose())
            .map_err(|_not_text| "the password of the Redis server is no UTF-8 text".to_owned())?;
        let settings = info.redis_settings().clone().set_password(text);
        info = info.set_redis_settings(settings);
    }
    let place = info.addr().to_string();
    let failed = |error: redis::RedisError| format!("{place}: {error}");
    let client = redis::Client::open(info).map_err(failed)?;
    let mut connection = client
        .get_connection_with_timeout(left(deadline).max(Duration::from_millis(1)))
        .map_err(failed)?;
    let mut lengths = Vec::with_capacity(lists.len());
    for list in lists {
        let wait = left(deadline).max(Duration::from_millis(1));
        connection
            .set_read_timeout(Some(wait))
            .and_then(|()| connection.set_write_timeout(Some(wait)))
            .map_err(failed)?;
        let length = redis::cmd("LLEN").arg(list).query(&mut connection);
        lengths.push(length.map_err(|error| format!("{list}: {}", failed(error)))?);
    }
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        for url in [
            "redis://:hunter2@127.0.0.1:1/0",
            "nonsense://:hunter2@x",
            "hunter2",
        ] {
            let url = Confidential::new(url.into());
            let (outcome, text) = redis(&url, None, &["a".into()], Duration::from_secs(2));
            assert_eq!(outcome, Outcome::Unknown);
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
